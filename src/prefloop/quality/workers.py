"""Each worker's numbers beside everybody else's, and flags with a known rate of false alarms. Knows no store.

Sides are drawn at random for each comparison, so a fair worker's clicks on A are coin tosses whatever the texts are:
the test for a side bias is exact. The other flags compare a worker with all others. Each kind of flag is tested at
0.05 divided by the number of workers, so that in one report of honest workers it falls on anybody at most once in
twenty, and it needs a difference that matters as well. Plain agreement also falls on hard topics (paper D.3): a flag
is a reason to read some of the work, and nothing is ever left out because of one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from scipy import special

from prefloop.quality import measures
from prefloop.quality.nouns import WorkerQuality
from prefloop.quality.rows import JudgmentRow, Opening
from prefloop.schema import Worker

FALSE_ALARMS = 0.05
"""Chance that one kind of flag falls on any worker at all when all are alike."""
LEAST_DIFFERENCE = 0.1
"""A share must differ by this much as well; with many judgments a trifle would be certain."""


def worker_quality(
    judgments: Sequence[JudgmentRow], openings: Sequence[Opening], people: Mapping[str, Worker], seed: int
) -> tuple[WorkerQuality, ...]:
    """One row for every worker who judged, most judgments first."""
    mine: dict[str, list[JudgmentRow]] = defaultdict(list)
    for row in judgments:
        if row.worker_id is not None:
            mine[row.worker_id].append(row)
    with_others, all_pairs = _agreements(judgments)
    opened: dict[str, list[Opening]] = defaultdict(list)
    for opening in openings:
        if opening.worker_id is not None and opening.text:
            opened[opening.worker_id].append(opening)
    copied = {worker_id: measures.copies(own) for worker_id, own in opened.items()}
    all_copies = _Tally(sum(sum(flags) for flags in copied.values()), sum(len(flags) for flags in copied.values()))
    level = FALSE_ALARMS / max(len(mine), 1)

    def one(worker_id: str, rows: list[JudgmentRow]) -> WorkerQuality:
        pairs, own_copies = with_others.get(worker_id, []), copied.get(worker_id, [])
        agreed = _Tally(sum(pair.agree for pair in pairs), len(pairs))
        flags = (
            _side_flag(_clicks_on_a(rows), level),
            _agreement_flag(agreed, all_pairs.without(agreed), level),
            _copy_flag(
                _Tally(sum(own_copies), len(own_copies)),
                all_copies.without(_Tally(sum(own_copies), len(own_copies))),
                level,
            ),
        )
        person = people.get(worker_id)
        return WorkerQuality(
            worker_id=worker_id,
            pseudonym=worker_id if person is None else person.pseudonym,
            is_simulated=person is not None and person.is_simulated,
            judgments=len(rows),
            side_a=measures.side_a(rows, seed),
            agreement=measures.share(
                [pair.agree for pair in pairs],
                [pair.conversation_id for pair in pairs],
                seed,
                "Nobody else judged the same comparisons.",
            ),
            weakest=measures.weakest(rows, seed),
            decision_seconds=measures.decision_seconds(rows, seed),
            own_copies=measures.share(
                own_copies,
                [opening.conversation_id for opening in opened.get(worker_id, [])],
                seed,
                "This worker opened no conversation.",
            ),
            flags=tuple(flag for flag in flags if flag),
        )

    return tuple(one(*item) for item in sorted(mine.items(), key=lambda item: (-len(item[1]), item[0])))


class _Pair(NamedTuple):
    """Two workers' judgments of one comparison."""

    conversation_id: str
    agree: bool


class _Tally(NamedTuple):
    """So many of so many."""

    hits: int
    n: int

    @property
    def share(self) -> float:
        return self.hits / self.n

    def without(self, part: _Tally) -> _Tally:
        return _Tally(self.hits - part.hits, self.n - part.n)


def _agreements(judgments: Sequence[JudgmentRow]) -> tuple[dict[str, list[_Pair]], _Tally]:
    """Each worker's pairs with others, and the tally of all pairs (each counted once)."""
    shared: dict[str, list[JudgmentRow]] = defaultdict(list)
    for row in judgments:
        if row.worker_id is not None and not row.are_identical:
            shared[row.comparison_id].append(row)
    by_worker: dict[str, list[_Pair]] = defaultdict(list)
    hits = n = 0
    for rows in shared.values():
        for first, second in combinations(rows, 2):
            pair = _Pair(first.conversation_id, first.preferred == second.preferred)
            by_worker[str(first.worker_id)].append(pair)
            by_worker[str(second.worker_id)].append(pair)
            hits, n = hits + pair.agree, n + 1
    return by_worker, _Tally(hits, n)


def _clicks_on_a(rows: Sequence[JudgmentRow]) -> _Tally:
    seen = [row.clicked == "a" for row in rows if not row.is_imported]
    return _Tally(sum(seen), len(seen))


def _side_flag(clicks_on_a: _Tally, level: float) -> str:
    if clicks_on_a.n == 0 or abs(clicks_on_a.share - 0.5) < LEAST_DIFFERENCE or _coin_chance(clicks_on_a) >= level:
        return ""
    side = "A" if clicks_on_a.share > 0.5 else "B"
    most = clicks_on_a.hits if side == "A" else clicks_on_a.n - clicks_on_a.hits
    return f"side: clicked {side} in {most} of {clicks_on_a.n} judgments"


def _agreement_flag(own: _Tally, others: _Tally, level: float) -> str:
    """Less agreement with others than they have among themselves."""
    if own.n == 0 or others.n == 0 or others.share - own.share < LEAST_DIFFERENCE:
        return ""
    if _difference_chance(own, others) >= level:
        return ""
    return f"agreement: {own.share:.2f} with others (n {own.n}), who agree among themselves in {others.share:.2f}"


def _copy_flag(own: _Tally, others: _Tally, level: float) -> str:
    """Repeats own openings more than others repeat theirs."""
    if own.n == 0 or others.n == 0 or own.share - others.share < LEAST_DIFFERENCE:
        return ""
    if _difference_chance(own, others) >= level:
        return ""
    return f"copies: {own.hits} of {own.n} openings repeat an earlier one of their own"


def _coin_chance(tally: _Tally) -> float:
    """Two-sided exact chance of a count at least so far from half with a fair coin."""
    fewer = min(tally.hits, tally.n - tally.hits)
    return min(1.0, 2 * float(special.bdtr(fewer, tally.n, 0.5)))


def _difference_chance(own: _Tally, others: _Tally) -> float:
    """Two-sided chance of so different shares where both are the same (pooled normal test)."""
    pooled = (own.hits + others.hits) / (own.n + others.n)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / own.n + 1 / others.n))
    return 2 * float(special.ndtr(-abs(own.share - others.share) / spread)) if spread > 0 else 1.0
