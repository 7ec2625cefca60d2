"""Fits of rises over sqrt(KL), knees between two scores, and the place to stop: by hand, and with planted curves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.stats import fit_rises, linear_part, parting, stop_place
from prefloop.stats.optimisation import smoothed

D = np.array([0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0])


def noise(count: int, size: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, size, count)


def test_the_quadratic_form_and_its_peak() -> None:
    # d(3 - 0.5 d): peak at 3 / (2 * 0.5) = 3, there 3 * (3 - 1.5) = 4.5
    fit = fit_rises(D, D * (3 - 0.5 * D), "d(a - b d)")
    assert (fit.a.value, fit.b.value) == (pytest.approx(3.0), pytest.approx(0.5))
    assert fit.r_squared == pytest.approx(1.0)
    assert (fit.peak_root_kl, fit.peak_rise) == (pytest.approx(3.0), pytest.approx(4.5))
    assert fit.peak_is_seen
    assert fit.a.n == 6  # the start says nothing


def test_the_logarithmic_form_and_its_peak() -> None:
    # d(2 - 1 log d): slope 2 - log d - 1 = 0 at log d = 1, d = e, there e (2 - 1) = e
    rises = [d * (2 - math.log(d)) if d else 0.0 for d in D]
    fit = fit_rises(D, rises, "d(a - b log d)")
    assert (fit.peak_root_kl, fit.peak_rise) == (pytest.approx(math.e), pytest.approx(math.e))
    beyond = fit_rises(D[:5] / 2, [d * (2 - math.log(d)) if d else 0.0 for d in D[:5] / 2], "d(a - b log d)")
    assert beyond.peak_root_kl == pytest.approx(math.e)
    assert not beyond.peak_is_seen  # measured up to 1.5 only


def test_a_straight_rise_has_no_peak() -> None:
    fit = fit_rises(D, 2 * D + noise(7, 0.05), "d(a - b d)")
    assert fit.peak_root_kl is None
    assert not fit.peak_is_seen


def test_too_few_points_are_said() -> None:
    with pytest.raises(DataError, match="4 points beyond the start, not 3"):
        fit_rises([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0], "d(a - b d)")
    with pytest.raises(DataError, match="needs 4 points, not 3"):
        linear_part([0.0, 1.0, 2.0], [0.0, 1.0, 2.0])
    with pytest.raises(DataError, match="6 points of both"):
        parting([0.0, 1.0], [0.0, 1.0])
    with pytest.raises(DataError, match="0 held-out scores"):
        stop_place(D, [], D)


def test_the_linear_part_ends_where_the_curve_bends() -> None:
    d = np.linspace(0, 4, 17)
    straight = linear_part(d, 1.5 * d + noise(17, 0.02))
    assert straight.is_whole
    assert straight.fit.slope.value == pytest.approx(1.5, abs=0.03)
    bent = linear_part(d, np.minimum(1.5 * d, 3.0) + noise(17, 0.02))  # flat from d = 2 on
    assert not bent.is_whole
    assert 1.75 <= bent.until_root_kl <= 2.75
    assert bent.fit.slope.value == pytest.approx(1.5, abs=0.2)


def test_the_order_of_the_points_does_not_matter_to_the_linear_part() -> None:
    d, y = np.linspace(0, 4, 9), np.minimum(np.linspace(0, 4, 9), 2.0) + noise(9, 0.01)
    shuffled = np.random.default_rng(1).permutation(9)
    assert linear_part(d[shuffled], y[shuffled]) == linear_part(d, y)


def test_two_scores_part_at_the_planted_knee() -> None:
    trained = np.linspace(0, 3, 13)  # 0.25 apart: the knee at 1.5 is place 6
    held_out = np.where(trained < 1.5, 0.8 * trained, 1.2) + noise(13, 0.02)
    found = parting(trained, held_out)
    assert found is not None
    assert found.place in (5, 6, 7)
    assert found.before == pytest.approx(0.8, abs=0.1)
    assert found.after == pytest.approx(0.0, abs=0.1)
    assert found.p_value < 1e-6


def test_scores_that_go_together_do_not_part() -> None:
    trained = np.linspace(0, 3, 13)
    parted = [parting(trained, 0.8 * trained + noise(13, 0.1, seed)) is not None for seed in range(40)]
    assert sum(parted) <= 4  # the test is at 5%, and a knee must halve the slope besides
    assert parting(np.ones(8), np.ones(8)) is None


def test_smoothing_by_hand() -> None:
    # weights 1 2 1: the middle (0 + 2 * 3 + 0) / 4, the ends (2 * 0 + 3) / 3 and 0 / 4
    assert smoothed([0.0, 3.0, 0.0]).tolist() == [1.0, 1.5, 1.0]
    assert smoothed([2.0, 2.0, 2.0, 2.0]).tolist() == [2.0] * 4


def test_the_place_to_stop_is_before_held_out_scores_turn() -> None:
    trained = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    turning = np.array([0.0, 0.9, 1.8, 2.2, 2.0, 1.5, 1.0])
    assert stop_place(trained, [turning], np.zeros(7)).place == 3
    rising = stop_place(trained, [trained], np.zeros(7))
    assert rising.place == 6
    assert rising.gap.tolist() == [0.0] * 7


def test_a_growing_claim_alone_makes_a_flat_held_out_score_suspect() -> None:
    # held-out stays at 2 from place 2 on while the claim grows: trusted is 2 - doubt * (trained - 2), falling
    trained = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    flat = np.array([0.0, 1.0, 2.0, 2.0, 2.0, 2.0])
    assert stop_place(trained, [flat], np.zeros(6)).place == 2


def test_a_drift_that_earns_nothing_is_stopped() -> None:
    # both scores at 0.4 from place 2 on while the KL runs away; means of neighbours (one, two, one) 0.07, 0.2, 0.35,
    # 0.405, 0.4225, 0.44, less 0.1 a nat: 0.07, 0.15, 0.25, 0.205, -0.48, -3.56
    rises = np.array([0.0, 0.2, 0.4, 0.4, 0.42, 0.45])
    assert stop_place(rises, [rises], np.array([0.0, 0.5, 1.0, 2.0, 9.0, 40.0])).place == 2
    assert stop_place(rises, [rises], np.zeros(6)).place == 5


def test_the_snapshot_before_a_leap_of_the_kl_is_not_blamed_for_it() -> None:
    # means of neighbours 0.07, 0.2, 0.375, 0.48, 0.515, 0.533, less 0.1 a nat: 0.07, 0.16, 0.295, 0.36, -0.085, -0.167;
    # had the KL been smoothed as well, place 2 would stand at 0.295 and place 3 at 0.25
    rises = np.array([0.0, 0.2, 0.4, 0.5, 0.52, 0.54])
    assert stop_place(rises, [rises], np.array([0.0, 0.4, 0.8, 1.2, 6.0, 7.0])).place == 3


def test_a_score_that_agrees_with_none_is_not_asked() -> None:
    trained = np.array([0.0, 1.0, 2.0, 3.0])
    falling = np.array([0.0, -1.0, -2.0, -9.0])
    assert stop_place(trained, [trained, falling], np.zeros(4), weights=[0.7, 0.0]).place == 3
    assert (
        stop_place(trained, [trained, falling], np.zeros(4), weights=[0.0, 0.0]).place == 0
    )  # nobody agrees: all count
