"""Agreement: Krippendorff's worked example, hand-computed cases, another library, real votes."""

import csv
from pathlib import Path
from typing import Literal

import evalica
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import DataError
from prefloop.schema import Interval
from prefloop.stats import accuracy_ceiling, cohen_kappa, krippendorff_alpha, raw_agreement

# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: 4 observers, 12 units, missing values;
# the published results are nominal 0.743 and ordinal 0.815.
_OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
]
_UNITS = [unit for row in _OBSERVERS for unit, value in enumerate(row) if value is not None]
_VALUES = [float(value) for row in _OBSERVERS for value in row if value is not None]


def test_published_example() -> None:
    assert krippendorff_alpha(_UNITS, _VALUES).value == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(_UNITS, _VALUES, metric="ordinal").value == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(_UNITS, _VALUES).n == 40  # the unit with one value does not count


def test_two_raters_by_hand() -> None:
    # units aa, aa, ab, bb: coincidences aa 4, bb 2, ab 1, ba 1 of n = 8; n_a = 5, n_b = 3
    # observed disagreement 2/8; expected 2*5*3/(8*7) = 30/56; alpha = 1 - 0.25*56/30 = 0.53333
    units, values = [1, 1, 2, 2, 3, 3, 4, 4], [0, 0, 0, 0, 0, 1, 1, 1]
    assert krippendorff_alpha(units, values).value == pytest.approx(1 - 0.25 * 56 / 30)
    # with two values the ordinal distance is the same for all that differ, so it cancels
    assert krippendorff_alpha(units, values, metric="ordinal").value == pytest.approx(1 - 0.25 * 56 / 30)
    assert raw_agreement(units, values).value == 0.75


def test_raw_agreement_counts_pairs_of_judgments() -> None:
    # unit 1: x x y has 3 pairs, 1 agrees; unit 2: x x has 1 pair, 1 agrees; unit 3 has one judgment: 2 of 4
    interval = raw_agreement([1, 1, 1, 2, 2, 3], [0, 0, 1, 1, 1, 0])
    assert (interval.value, interval.n, interval.clusters) == (0.5, 4, 2)


def test_one_cluster_gives_the_whole_range() -> None:
    interval = krippendorff_alpha([1, 1, 2, 2], [0, 1, 0, 0], ["c"] * 4)
    assert (interval.low, interval.high, interval.clusters) == (-1.0, 1.0, 1)


def test_what_cannot_be_known_is_said() -> None:
    with pytest.raises(DataError, match="None of 2 units has two judgments"):
        raw_agreement([1, 2], [0, 0])
    with pytest.raises(DataError, match="None of 0 units"):
        krippendorff_alpha([], [])
    with pytest.raises(DataError, match="All 4 overlapping judgments have one value"):
        krippendorff_alpha([1, 1, 2, 2], [3, 3, 3, 3])


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(2, 4)), min_size=2, max_size=12))
def test_identical_raters_have_alpha_one(units: list[tuple[int, int]]) -> None:
    values = [float(value) for value, raters in units for _ in range(raters)]
    names = [i for i, (_, raters) in enumerate(units) for _ in range(raters)]
    if len(set(values)) < 2:
        return
    assert krippendorff_alpha(names, values, resamples=20).value == pytest.approx(1.0)
    assert krippendorff_alpha(names, values, metric="ordinal", resamples=20).value == pytest.approx(1.0)
    assert raw_agreement(names, values, resamples=20).value == 1.0


def test_guessing_raters_have_alpha_zero() -> None:
    generator = np.random.default_rng(5)
    units, values = np.repeat(np.arange(2000), 2), generator.integers(1, 9, 4000).astype(float)
    for metric in ("nominal", "ordinal"):
        interval = krippendorff_alpha(units, values, metric=metric)  # type: ignore[arg-type]
        assert interval.low < 0 < interval.high
        assert abs(interval.value) < 0.06


def test_reversing_the_order_of_values_changes_nothing() -> None:
    straight = krippendorff_alpha(_UNITS, _VALUES, metric="ordinal").value
    assert krippendorff_alpha(_UNITS, [9 - v for v in _VALUES], metric="ordinal").value == pytest.approx(straight)


@pytest.mark.parametrize("metric", ["nominal", "ordinal"])
def test_equals_evalica(metric: str) -> None:
    generator = np.random.default_rng(2)
    truth = generator.integers(1, 9, 60)
    answers = np.clip(truth[None, :] + generator.integers(-2, 3, (5, 60)), 1, 8).astype(float)
    answers[generator.random(answers.shape) < 0.4] = np.nan
    theirs = evalica.alpha(pd.DataFrame(answers), distance=metric).alpha  # type: ignore[arg-type]
    rater, unit = np.nonzero(~np.isnan(answers))
    mine = krippendorff_alpha(unit, answers[rater, unit], metric=metric)  # type: ignore[arg-type]
    assert mine.value == pytest.approx(theirs, abs=1e-9)
    assert mine.low < theirs < mine.high


def test_interval_covers_the_limit() -> None:
    # each rater reports a fair coin's side and errs with chance 0.2: P(agree) = 0.68, alpha -> 1 - 0.32/0.5 = 0.36
    generator = np.random.default_rng(7)
    hits = 0
    for study in range(200):
        truth = np.repeat(generator.integers(0, 2, 150), 2)
        values = np.where(generator.random(300) < 0.2, 1 - truth, truth).astype(float)
        interval = krippendorff_alpha(np.repeat(np.arange(150), 2), values, seed=study, resamples=300)
        hits += interval.low <= 0.36 <= interval.high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.real_data
def test_real_votes(data_root: Path) -> None:
    with (data_root / "llmfao" / "llmfao.csv").open(encoding="utf-8") as file:
        votes = list(csv.DictReader(file))
    for kept, alpha, agreement in ((votes, 0.291, 0.532), ([v for v in votes if v["winner"] != "tie"], 0.370, 0.701)):
        units = [vote["id"] for vote in kept]
        values = [float(("left", "tie", "right").index(vote["winner"])) for vote in kept]
        assert krippendorff_alpha(units, values, resamples=50).value == pytest.approx(alpha, abs=5e-4)
        assert raw_agreement(units, values, resamples=50).value == pytest.approx(agreement, abs=5e-4)


@pytest.mark.parametrize("weights", ["none", "quadratic"])
def test_cohens_kappa_is_that_of_scikit_learn(weights: Literal["none", "quadratic"]) -> None:
    from sklearn.metrics import cohen_kappa_score

    draw = np.random.default_rng(0)
    first = draw.integers(1, 9, 400)
    second = np.where(draw.random(400) < 0.5, first, draw.integers(1, 9, 400))
    found = cohen_kappa(first, second, np.arange(400) // 4, weights=weights)
    expected = cohen_kappa_score(first, second, weights=None if weights == "none" else weights)
    assert found.value == pytest.approx(expected)
    assert found.low < found.value < found.high


def test_cohens_kappa_by_hand() -> None:
    # both yes 20, both no 15, 5 and 10 apart: observed 0.7, by chance (25*30 + 25*20)/50^2 = 0.5, kappa 0.4
    first = np.repeat([1, 0, 1, 0], [20, 15, 5, 10])
    second = np.repeat([1, 0, 0, 1], [20, 15, 5, 10])
    assert cohen_kappa(first, second).value == pytest.approx(0.4)
    with pytest.raises(DataError, match="one value"):
        cohen_kappa([1, 1], [1, 1])


def test_the_ceiling_of_accuracy() -> None:
    # two workers agree in 0.68: u = sqrt(0.36) = 0.6, so no scorer is expected beyond 0.8
    found = accuracy_ceiling(Interval(value=0.68, low=0.45, high=0.82, n=100))
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.5, 0.9))
