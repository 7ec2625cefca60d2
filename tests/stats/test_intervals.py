"""Clustered intervals: hand-computed values, defined edge cases, coverage on simulations."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.errors import DataError
from prefloop.stats import bootstrap_interval, clustered_mean, clustered_ratio, clustered_share, wilson, win_rate
from prefloop.stats.intervals import cluster_sums, percentiles, resampled_sums


def test_wilson_by_hand() -> None:
    # 8 of 10, z = 1.96: centre (0.8 + 3.8415/20)/(1 + 3.8415/10) = 0.99207/1.38415 = 0.71674
    # half 1.96/1.38415 * sqrt(0.16/10 + 3.8415/400) = 1.41603 * sqrt(0.0256036) = 0.22658
    interval = wilson(8, 10)
    assert interval.value == 0.8
    assert interval.low == pytest.approx(0.4902, abs=1e-4)
    assert interval.high == pytest.approx(0.9433, abs=1e-4)


def test_wilson_at_the_ends_is_not_a_point() -> None:
    # 5 of 5: low = 1/(1 + 3.8415/5) = 0.5655
    assert wilson(5, 5).low == pytest.approx(0.5655, abs=1e-4)
    assert wilson(5, 5).high == 1.0
    assert wilson(0, 5).high == pytest.approx(1 - 0.5655, abs=1e-4)


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes: float, n: int) -> None:
    with pytest.raises(DataError, match="0 <= successes <= n"):
        wilson(successes, n)


def test_mean_and_ratio_by_hand() -> None:
    # sum of numerators (1 + 2 + 3) / sum of denominators (2 + 2 + 8) = 6/12
    interval = clustered_ratio([1, 2, 3], [2, 2, 8])
    assert interval.value == 0.5
    assert (interval.n, interval.clusters) == (3, 3)
    assert clustered_mean([1, 2, 6]).value == 3.0


def test_win_rate_counts_ties_half() -> None:
    # (1 + 0.5 + 0 + 1) / 4
    assert win_rate([1, 0.5, 0, 1]).value == 0.625
    with pytest.raises(DataError, match=r"not 0\.7"):
        win_rate([0.7])


def test_one_cluster_gives_the_whole_range() -> None:
    share = clustered_share([1, 0, 1], ["x", "x", "x"])
    assert (share.low, share.high, share.clusters) == (0.0, 1.0, 1)
    mean = clustered_mean([1.0, 5.0], ["x", "x"])
    assert (mean.low, mean.high, mean.clusters) == (-math.inf, math.inf, 1)


def test_no_observations_are_an_error() -> None:
    with pytest.raises(DataError, match="0 observations"):
        win_rate([])
    with pytest.raises(DataError, match="sum to 0"):
        clustered_ratio([1.0], [0.0])


def test_broken_values_are_named() -> None:
    with pytest.raises(DataError, match="Observation 1 is nan"):
        clustered_mean([1.0, math.nan])
    with pytest.raises(DataError, match="2 cluster labels do not fit 1"):
        clustered_mean([1.0], ["a", "b"])
    with pytest.raises(DataError, match=r"not 1\.5"):
        clustered_share([1.5])


def test_equal_clusters_fall_back_to_wilson_on_clusters() -> None:
    # 12 wins in 4 conversations: no spread to resample, so the interval is that of 4 of 4, not of 12 of 12
    interval = win_rate([1] * 12, [0, 1, 2, 3] * 3)
    assert interval.low == pytest.approx(wilson(4, 4).low)
    assert (interval.value, interval.high, interval.n, interval.clusters) == (1.0, 1.0, 12, 4)


def test_same_seed_same_interval_other_seed_other() -> None:
    values = np.random.default_rng(0).random(50)
    assert clustered_mean(values, seed=1) == clustered_mean(values, seed=1)
    assert clustered_mean(values, seed=1) != clustered_mean(values, seed=2)


def test_clustering_widens_the_interval() -> None:
    # 40 conversations of 10 identical outcomes hold 40 observations' worth, not 400: sqrt(10) = 3.2 times wider
    outcomes = np.repeat(np.random.default_rng(3).integers(0, 2, 40), 10)
    alone, clustered = win_rate(outcomes), win_rate(outcomes, np.arange(400) // 10)
    ratio = (clustered.high - clustered.low) / (alone.high - alone.low)
    assert 2.5 < ratio < 4.0


def test_expanded_percentile_by_hand() -> None:
    # 5 clusters: t(4, 0.975) = 2.7764, times sqrt(5/4) = 3.1042; the normal tail beyond it is 0.000954
    draws = np.linspace(0, 1, 100_001)
    low, high = percentiles(draws, 5)
    assert low == pytest.approx(0.000954, abs=2e-5)
    assert high == pytest.approx(1 - 0.000954, abs=2e-5)


def test_grouped_and_plain_resampling_have_the_same_distribution() -> None:
    # 200 clusters with 2 distinct rows are drawn by a multinomial; a second column makes them distinct
    hits = (np.arange(200) < 60).astype(float)
    grouped = resampled_sums(hits[:, None], 4000, np.random.default_rng(0))[:, 0]
    plain = resampled_sums(np.column_stack([hits, np.arange(200.0)]), 4000, np.random.default_rng(1))[:, 0]
    # both are binomial(200, 0.3): mean 60, sd sqrt(42) = 6.48; standard errors 0.10 and 0.07
    for draws in (grouped, plain):
        assert draws.mean() == pytest.approx(60, abs=0.5)
        assert draws.std() == pytest.approx(6.48, abs=0.35)


def test_cluster_sums_by_hand() -> None:
    assert cluster_sums(np.array([[1.0], [2.0], [4.0]]), ["x", "y", "x"]).tolist() == [[5.0], [2.0]]


def test_undefined_resamples_give_the_bounds() -> None:
    # the statistic exists on the data but on few resamples: nothing narrower than its range is known
    interval = bootstrap_interval(
        np.arange(10.0)[:, None], lambda s: np.where(s[:, 0] == 45, 0.5, np.nan), n=10, bounds=(0.0, 1.0)
    )
    assert (interval.value, interval.low, interval.high) == (0.5, 0.0, 1.0)


@pytest.mark.parametrize(("clusters", "size"), [(10, 4), (80, 5)])
def test_coverage_is_about_95_percent(clusters: int, size: int) -> None:
    # conversations with their own rate, Beta(4, 2) around 2/3; 300 studies: standard error 1.3 points
    generator = np.random.default_rng(11)
    labels = np.arange(clusters * size) // size
    hits = 0
    for study in range(300):
        rates = np.repeat(generator.beta(4, 2, clusters), size)
        outcomes = (generator.random(clusters * size) < rates).astype(float)
        interval = win_rate(outcomes, labels, seed=study, resamples=400)
        hits += interval.low <= 2 / 3 <= interval.high
    assert 0.91 <= hits / 300 <= 0.99


@given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=30), st.integers(1, 6))
def test_interval_holds_the_value_and_mirrors(outcomes: list[float], conversations: int) -> None:
    labels = [i % conversations for i in range(len(outcomes))]
    interval = win_rate(outcomes, labels, resamples=200)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1
    mirrored = win_rate([1 - outcome for outcome in outcomes], labels, resamples=200)
    assert mirrored.value == pytest.approx(1 - interval.value)
