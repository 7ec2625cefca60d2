"""Diversity at equal size and circles of preferences, by hand and with planted ones."""

from __future__ import annotations

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.stats import cycles, distinct_share, effective_kinds, mean_difference, rarefied_kinds


def test_rarefied_kinds_compare_sets_of_different_sizes() -> None:
    draw = np.random.default_rng(0)
    few = [draw.integers(0, 500, 8) for _ in range(100)]
    many = [draw.integers(0, 500, 8) for _ in range(2000)]
    small, large = rarefied_kinds(few, 40), rarefied_kinds(many, 40)
    # 320 draws of 500 words leave 500 (1 - (1 - 1/500)^320) = 236.5 different ones
    assert small.value == pytest.approx(236.5, rel=0.05)
    assert large.value == pytest.approx(236.5, rel=0.02)
    assert large.low < 236.5 < large.high
    with pytest.raises(DataError, match="no two subsets of 51"):
        rarefied_kinds(few, 51)


def test_items_that_are_all_alike_have_as_many_kinds_as_one() -> None:
    assert rarefied_kinds([np.array([1, 2, 3])] * 10, 5).value == 3.0


def test_effective_kinds() -> None:
    assert effective_kinds(np.array([5.0, 5.0, 5.0, 5.0])) == pytest.approx(4.0)
    assert effective_kinds(np.array([7.0, 0.0])) == pytest.approx(1.0)


def test_mean_difference_by_hand() -> None:
    # similarities: {1,2} {2,3} 1/3, {1,2} {1,2} 1, {2,3} {1,2} 1/3; mean 5/9
    found = mean_difference([np.array([1, 2]), np.array([2, 3]), np.array([2, 1, 1])])
    assert found.value == pytest.approx(4 / 9)
    assert found.low <= 4 / 9 <= found.high
    with pytest.raises(DataError, match="2 texts"):
        mean_difference([np.array([1]), np.array([2]), np.zeros(0, dtype=np.int64)])


def test_distinct_share_by_hand() -> None:
    items = [np.array([1, 2, 1]), np.array([2, 3]), np.array([4])]
    found = distinct_share(items)
    assert found.value == 4 / 6  # 1, 2, 3, 4 of six
    # without the first 3/3, without the second 3/4, without the third 3/5: mean 47/60, squares 0.0469, 0.0011, 0.0336
    # deviation sqrt(2/3 * 0.08167) = 0.2333, times t with 2 degrees of freedom, 4.303
    assert found.low == 0.0
    assert found.high == 1.0
    assert found.n == 6
    # leaving out the cluster of the first two leaves 1/1, leaving out the third 3/5 as before, the fourth the same
    wide = distinct_share([*items, np.array([4])] * 20, [f"{place}" for place in range(80)])
    assert wide.value == 4 / 140
    assert distinct_share([np.array([1])] * 4, ["a", "a", "b", "c"]).clusters == 3
    with pytest.raises(DataError, match="2 texts"):
        distinct_share([np.array([1]), np.array([2]), np.zeros(0, dtype=np.int64)])


def test_distinct_share_covers_what_other_texts_give() -> None:
    draw = np.random.default_rng(0)
    found = [distinct_share([draw.integers(0, 300, 10) for _ in range(60)]) for _ in range(200)]
    middle = np.mean([one.value for one in found])
    assert 0.9 <= np.mean([one.low <= middle <= one.high for one in found]) <= 1.0


def _played(wins: dict[tuple[int, int], tuple[int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = [(a, b, won) for (a, b), (yes, no) in wins.items() for won in [1.0] * yes + [0.0] * no]
    first, second, outcome = zip(*rows, strict=True)
    return np.array(first), np.array(second), np.array(outcome)


def test_a_planted_circle_is_found() -> None:
    circle = _played({(0, 1): (90, 10), (1, 2): (90, 10), (2, 0): (90, 10), (0, 3): (95, 5)})
    found = cycles(*circle)
    assert (found.cyclic, found.triads) == (1, 1)
    assert found.chance < 0.35  # three even players go round in a quarter of all draws


def test_a_circle_among_many_is_no_chance() -> None:
    players = 7  # of odd number: each beats the next three on the ring, so 14 of 35 triads are cyclic
    ring = {(i, (i + step) % players): (70, 30) for i in range(players) for step in (1, 2, 3)}
    found = cycles(*_played(ring))
    assert (found.cyclic, found.triads) == (14, 35)
    line = {(i, j): (70, 30) for i in range(players) for j in range(i + 1, players)}
    straight = cycles(*_played(line))
    assert (straight.cyclic, straight.chance) == (0, 1.0)
    assert straight.by_chance.value < 0.05


def test_without_three_compared_players_nothing_is_known() -> None:
    with pytest.raises(DataError, match="No three of 3 snapshots"):
        cycles(*_played({(0, 1): (3, 1), (1, 2): (2, 2)}))
