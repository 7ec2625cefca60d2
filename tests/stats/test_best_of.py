"""The best of n from one pass: by hand, against enumeration, and its two costs in nats."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.stats import best_of_kl_bound, best_of_values, top_k_kl


def test_by_hand() -> None:
    # The picker ranks the three samples 2nd, 1st (worst), 3rd (best); their worth is 10, 40, 1.
    picker, judged = np.array([[5.0, 2.0, 9.0]]), np.array([[10.0, 40.0, 1.0]])
    assert best_of_values(picker, judged, 1)[0] == pytest.approx((10 + 40 + 1) / 3)
    # pairs {10, 40} -> 10, {10, 1} -> 1, {40, 1} -> 1
    assert best_of_values(picker, judged, 2)[0] == pytest.approx((10 + 1 + 1) / 3)
    assert best_of_values(picker, judged, 3)[0] == 1.0
    # the two best of all three are worth 10 and 1
    assert best_of_values(picker, judged, 3, 2)[0] == pytest.approx(5.5)
    # the best 2 of 2: of every pair both
    assert best_of_values(picker, judged, 2, 2)[0] == pytest.approx((10 + 40 + 1) / 3)


@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 1), (4, 1), (4, 3), (5, 2), (6, 6)])
def test_it_is_the_mean_over_all_subsets(n: int, k: int) -> None:
    chance = np.random.default_rng(3)
    picker, judged = chance.normal(size=(2, 3, 6))
    expected = [
        np.mean(
            [
                np.mean(sorted(((p[i], j[i]) for i in subset), reverse=True)[:k], axis=0)[1]
                for subset in combinations(range(6), n)
            ]
        )
        for p, j in zip(picker, judged, strict=True)
    ]
    assert best_of_values(picker, judged, n, k) == pytest.approx(expected)


def test_what_the_picker_cannot_tell_apart_is_drawn() -> None:
    # two samples at the top: the best of 3 is either, the best of 2 is {top, top}: either; twice {top, low}: that top
    picker, judged = np.array([[1.0, 7.0, 7.0]]), np.array([[0.0, 4.0, 8.0]])
    assert best_of_values(picker, judged, 3)[0] == pytest.approx(6.0)
    assert best_of_values(picker, judged, 2)[0] == pytest.approx((6 + 4 + 8) / 3)
    # a picker that knows nothing picks at random, whatever n
    blind = np.zeros((1, 3))
    assert best_of_values(blind, judged, 3)[0] == pytest.approx(4.0)


def test_the_order_of_the_samples_does_not_matter() -> None:
    chance = np.random.default_rng(0)
    picker, judged = chance.integers(0, 3, size=(1, 12)).astype(float), chance.normal(size=(1, 12))
    order = chance.permutation(12)
    assert best_of_values(picker[:, order], judged[:, order], 4) == pytest.approx(best_of_values(picker, judged, 4))


def test_it_is_unbiased_for_fresh_samples() -> None:
    # the maximum of n uniform numbers is n/(n+1) on average
    uniform = np.random.default_rng(1).random((4000, 8))
    for n in (1, 2, 4, 8):
        values = best_of_values(uniform, uniform, n)
        assert abs(values.mean() - n / (n + 1)) < 4 * values.std() / math.sqrt(4000)


def test_what_it_costs() -> None:
    assert best_of_kl_bound(1) == 0.0
    assert best_of_kl_bound(2) == pytest.approx(0.6931 - 0.5, abs=1e-4)
    assert best_of_kl_bound(16) == pytest.approx(2.7726 - 0.9375, abs=1e-4)
    assert top_k_kl(1, 64) == pytest.approx(4.1589, abs=1e-4)  # the paper's 4.2
    assert top_k_kl(64, 64) == 0.0
    for n in (2, 16, 256):
        assert best_of_kl_bound(n) < top_k_kl(1, n)


def test_the_bound_is_one() -> None:
    # two outcomes with equal odds, the better one always picked: best of 2 gives it 3/4 of the time
    exact = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert exact == pytest.approx(0.1308, abs=1e-4)
    assert exact < best_of_kl_bound(2)


@pytest.mark.parametrize(("n", "k"), [(0, 1), (4, 1), (2, 3)])
def test_out_of_range(n: int, k: int) -> None:
    with pytest.raises(DataError, match=f"The best {k} of {n} cannot be taken from 3"):
        best_of_values(np.zeros((1, 3)), np.zeros((1, 3)), n, k)


def test_what_is_no_table_of_scores() -> None:
    with pytest.raises(DataError, match="not of the same samples"):
        best_of_values(np.zeros((2, 3)), np.zeros((2, 4)), 1)
    with pytest.raises(DataError, match="not a finite number"):
        best_of_values(np.array([[np.nan, 1.0]]), np.zeros((1, 2)), 1)
    with pytest.raises(DataError, match="at least 1"):
        best_of_kl_bound(0)
    with pytest.raises(DataError, match="between 1 and n"):
        top_k_kl(3, 2)
