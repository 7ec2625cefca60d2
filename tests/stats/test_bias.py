"""Position and length bias, and the logit behind them, against hand arithmetic, planted slopes and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from prefloop.errors import DataError
from prefloop.stats import length_bias, logit, position_bias


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_swapping_all_sides_mirrors_position_bias(choices: list[bool]) -> None:
    straight = position_bias(choices, resamples=50).value
    swapped = position_bias([not choice for choice in choices], resamples=50).value
    assert swapped - 0.5 == pytest.approx(-(straight - 0.5))


def test_a_planted_side_is_seen_and_a_fair_one_not() -> None:
    generator = np.random.default_rng(0)
    workers = np.arange(600) % 12
    biased = position_bias(generator.random(600) < 0.65, workers)
    fair = position_bias(generator.random(600) < 0.5, workers)
    assert biased.low > 0.5
    assert fair.low < 0.5 < fair.high


def test_longer_wins_by_hand() -> None:
    # lengths 9:3 first chosen (longer wins), 2:8 first chosen (shorter), 5:5 left out, 1:2 second chosen (longer): 2/3
    result = length_bias([9, 2, 5, 1], [3, 8, 5, 2], [1, 1, 0, 0])
    assert result.longer_wins.value == pytest.approx(2 / 3)
    assert result.longer_wins.n == 3


def test_intercept_only_logit_is_the_log_odds() -> None:
    # 3 of 4: ln 3; clustered standard error = sqrt(4/3 * sum (y-p)^2) / (4 p q) = sqrt(4/3 * 0.75) / 0.75 = 1.3333
    # t(3, 0.975) = 3.18245, half width 4.24326
    (intercept,) = logit(np.ones((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]))
    assert intercept.value == pytest.approx(math.log(3))
    assert intercept.high - intercept.value == pytest.approx(3.18245 * 4 / 3, abs=1e-4)


def test_planted_slope_is_recovered() -> None:
    generator = np.random.default_rng(3)
    first, second = generator.integers(5, 200, (2, 4000))
    chosen = generator.random(4000) < expit(0.2 + 0.7 * np.log(first / second))
    result = length_bias(first, second, chosen, np.arange(4000) // 4)
    assert result.slope is not None
    assert result.intercept is not None
    assert result.slope.low < 0.7 < result.slope.high
    assert result.intercept.low < 0.2 < result.intercept.high
    assert result.slope.low > 0
    swapped = length_bias(second, first, ~chosen, np.arange(4000) // 4)
    assert swapped.slope is not None
    assert swapped.intercept is not None
    assert swapped.slope.value == pytest.approx(result.slope.value)
    assert swapped.intercept.value == pytest.approx(-result.intercept.value)


def test_logit_equals_scikit_learn() -> None:
    generator = np.random.default_rng(8)
    design = np.column_stack([np.ones(300), generator.normal(size=(300, 2))])
    outcome = (generator.random(300) < expit(design @ np.array([0.3, -1.0, 2.0]))).astype(float)
    theirs = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000).fit(design, outcome).coef_[0]
    assert [c.value for c in logit(design, outcome)] == pytest.approx(theirs, abs=1e-5)


def test_coverage_of_the_clustered_slope() -> None:
    # workers differ in their own intercept (sd 1), so rows are not independent; the marginal slope of a predictor that
    # is constant within a worker and has no effect is 0
    generator = np.random.default_rng(9)
    hits = 0
    for _ in range(200):
        worker = np.repeat(np.arange(30), 12)
        predictor = np.repeat(generator.normal(size=30), 12)
        outcome = (generator.random(360) < expit(np.repeat(generator.normal(size=30), 12))).astype(float)
        slope = logit(np.column_stack([np.ones(360), predictor]), outcome, worker)[1]
        hits += slope.low <= 0 <= slope.high
    assert 0.89 <= hits / 200 <= 0.99


def test_what_cannot_be_estimated_is_said() -> None:
    with pytest.raises(DataError, match="lengths differ"):
        length_bias([5, 5], [5, 5], [1, 0])
    with pytest.raises(DataError, match="do not determine"):
        logit(np.ones((4, 2)), np.array([1.0, 0.0, 1.0, 0.0]))
    separated = length_bias([9, 8, 2, 1], [1, 2, 8, 9], [1, 1, 0, 0])
    assert separated.slope is None
    assert "separated" in separated.why_none
    assert separated.longer_wins.value == 1.0


def test_one_cluster_has_no_interval() -> None:
    (intercept,) = logit(np.ones((4, 1)), np.array([1.0, 1.0, 1.0, 0.0]), ["w"] * 4)
    assert (intercept.low, intercept.high, intercept.clusters) == (-math.inf, math.inf, 1)
