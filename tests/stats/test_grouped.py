"""Numbers of many groups at once equal those of one group alone; concentration by hand."""

from __future__ import annotations

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.stats import clustered_mean, clustered_share, gini, grouped_means, grouped_shares, top_share


def test_shares_by_hand() -> None:
    # group 0: 1 of 2, group 1: nothing, group 2: 3 of 4 weighted tries (2 of 2, 1 of 2), one cluster
    hits, tries = np.array([1.0, 0.0, 2.0, 1.0]), np.array([1.0, 1.0, 2.0, 2.0])
    found = grouped_shares(hits, tries, np.array([0, 0, 2, 2]), np.array([5, 6, 7, 7]), 3)
    first, second, third = found
    assert first is not None
    assert (first.value, first.n, first.clusters) == (0.5, 2, 2)
    assert second is None
    assert third is not None
    assert (third.value, third.low, third.high, third.n, third.clusters) == (0.75, 0.0, 1.0, 4, 1)


def test_intervals_are_near_those_of_the_bootstrap() -> None:
    draw = np.random.default_rng(1)
    clusters = np.repeat(np.arange(200), 5)
    level = np.repeat(draw.beta(2, 2, 200), 5)
    groups = np.repeat([0, 1], 500)
    values = (draw.random(1000) < level).astype(float)
    for group, interval in enumerate(grouped_shares(values, np.ones(1000), groups, clusters, 2)):
        alone = clustered_share(values[groups == group], clusters[groups == group], seed=2)
        assert interval is not None
        assert interval.value == pytest.approx(alone.value)
        assert (interval.low, interval.high) == pytest.approx((alone.low, alone.high), abs=0.015)
    seconds = draw.normal(level, 1.0)
    for group, interval in enumerate(grouped_means(seconds, groups, clusters, 2)):
        alone = clustered_mean(seconds[groups == group], clusters[groups == group], seed=2)
        assert interval is not None
        assert (interval.value, interval.n, interval.clusters) == (pytest.approx(alone.value), 500, 100)
        assert (interval.low, interval.high) == pytest.approx((alone.low, alone.high), abs=0.03)


def test_a_share_without_spread_is_no_certainty() -> None:
    # 10 of 10 in 10 clusters: Wilson with t = 2.262 for z: low = 10/(10 + t^2) = 0.66
    interval = grouped_shares(np.ones(10), np.ones(10), np.zeros(10, dtype=np.int64), np.arange(10), 1)[0]
    assert interval is not None
    assert (interval.low, interval.high) == (pytest.approx(0.6615, abs=1e-3), 1.0)


def test_coverage_of_clustered_shares() -> None:
    draw = np.random.default_rng(3)
    level = draw.beta(3, 3, size=(2000, 25))  # 2,000 groups of 25 clusters of 4, true share one half
    hits = draw.binomial(4, level).astype(float).ravel()
    groups, clusters = np.repeat(np.arange(2000), 25), np.arange(50_000)
    found = grouped_shares(hits, np.full(50_000, 4.0), groups, clusters, 2000)
    covered = np.mean([one is not None and one.low <= 0.5 <= one.high for one in found])
    assert 0.935 <= covered <= 0.97


def test_concentration_by_hand() -> None:
    # 1 2 3 4: sum over ranks (2i - 5) x = -3 - 2 + 3 + 12 = 10, over 4 * 10: 0.25; the busiest of 1 2 3 4 made 0.4
    assert gini([1, 2, 3, 4]).value == pytest.approx(0.25)
    assert gini([5, 5, 5]).value == pytest.approx(0.0)
    assert gini([0, 0, 0, 12]).value == pytest.approx(0.75)  # (n - 1)/n at most
    top = top_share([1, 2, 3, 4], top=1)
    assert (top.value, top.n, top.clusters) == (0.4, 10, 4)
    assert 0.25 <= top.low < 0.4 < top.high <= 1.0


def test_concentration_that_cannot_be_known() -> None:
    with pytest.raises(DataError, match="20 busiest of 20 are all"):
        top_share(np.ones(20, dtype=np.int64))
    with pytest.raises(DataError, match="needs two"):
        gini([7])
