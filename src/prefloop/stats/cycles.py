"""Whether preferences between players go round in circles (a over b, b over c, c over a). Knows wins, no snapshots.

Ratings on one line (Bradley-Terry, Elo) assume that they do not. With few comparisons a pair turns round by chance,
so the share of cyclic triads is held against what Bradley-Terry players with as many comparisons would show.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.schema import Interval, Noun
from prefloop.stats.intervals import LEVEL, Floats, Ints
from prefloop.stats.rating import bradley_terry

_DRAWS = 1000


class Cycles(Noun):
    """Cyclic triads of players that were all compared with each other."""

    cyclic: int
    triads: int
    by_chance: Interval = Field(description="share of cyclic triads that players on one line show by chance")
    chance: float = Field(description="that such players show as many cyclic triads, or more")


def cycles(first: Ints, second: Ints, outcomes: Floats, *, seed: int = 0) -> Cycles:
    """Counts cyclic triads among players; a pair that is even counts as no preference, so its triads are not cyclic.

    Args:
        first, second: codes of the two players of each comparison, whole numbers from 0 on.
        outcomes: 1 the first one won, 0 the second, 0.5 a tie.

    Errors:
        DataError: no three players were all compared with each other.
    """
    count = int(max(first.max(initial=-1), second.max(initial=-1))) + 1
    wins = np.zeros((count, count))
    np.add.at(wins, (first, second), outcomes)
    np.add.at(wins, (second, first), 1 - outcomes)
    games = wins + wins.T
    triads = np.array(
        [t for t in combinations(range(count), 3) if all(games[a, b] > 0 for a, b in combinations(t, 2))], dtype=int
    )
    if len(triads) == 0:
        raise DataError(
            f"No three of {len(np.unique(np.append(first, second)))} snapshots were all compared with each other, so "
            "circles cannot show; deploy three or more at once."
        )
    found = _cyclic(wins[None], triads)[0]
    # half a win each way where compared and a trace elsewhere, so that a maximum exists
    strengths = bradley_terry(wins + 0.5 * (games > 0) + 1e-3 * (1 - np.eye(count)))
    expected = 1 / (1 + np.exp(strengths[None, :] - strengths[:, None]))
    upper = np.triu_indices(count, 1)
    draws = np.zeros((_DRAWS, count, count))
    played = np.round(games[upper]).astype(np.int64)
    drawn = np.random.default_rng(seed).binomial(played, expected[upper], size=(_DRAWS, len(played)))
    draws[:, upper[0], upper[1]] = drawn
    draws[:, upper[1], upper[0]] = played - drawn
    by_chance = _cyclic(draws, triads)
    low, high = np.quantile(by_chance, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) / len(triads)
    mean = float(by_chance.mean()) / len(triads)
    return Cycles(
        cyclic=int(found),
        triads=len(triads),
        by_chance=Interval(value=mean, low=min(float(low), mean), high=max(float(high), mean), n=len(triads)),
        chance=float((1 + (by_chance >= found).sum()) / (1 + _DRAWS)),
    )


def _cyclic(wins: Floats, triads: Ints) -> Ints:
    """(table, player, player) wins -> (table,) cyclic triads."""
    lead = np.sign(wins - wins.transpose(0, 2, 1))
    a, b, c = triads.T
    around = lead[:, a, b] + lead[:, b, c] + lead[:, c, a]
    return np.asarray((np.abs(around) == 3).sum(axis=1), dtype=np.int64)
