"""Whether judging changed: the same numbers by week, by study and by snapshot. Knows columns, no store and no page.

Snapshots change the task, so a change by week may be one of the models and not of the people: read the three tables
together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy import special

from prefloop.config import QualitySettings
from prefloop.quality import measures
from prefloop.quality.measured import Measured, geometric, known
from prefloop.quality.rows import NOBODY, Flags, Floats, Ints, Judgments, Rows
from prefloop.schema import Interval, Noun
from prefloop.stats import grouped_means, grouped_shares

By = Literal["week", "study", "snapshot"]
_MOST_PARTS = 60
_LEAST_CLUSTERS = 10
_SECONDS_A_WEEK = 7 * 86_400
_FIRST_MONDAY = 4 * 86_400.0  # 1970-01-05


class DriftPart(Noun):
    """One week, study or snapshot. A judgment belongs to both snapshots of its comparison."""

    name: str
    judgments: int
    agreement: Measured = Field(description="share of pairs with others on the same comparison that agree")
    side_a: Measured
    longer: Measured
    weakest: Measured
    too_fast: Measured
    decision_seconds: Measured
    preferred: Measured = Field(description="by snapshot: share of its comparisons that its reply won")


class Change(Noun):
    """A number that differs between parts by more than chance and by so much that it matters."""

    by: By
    measure: str
    lowest: str = Field(description="the part where it is least")
    highest: str
    low: Interval
    high: Interval
    chance: float = Field(description="that parts of one truth differ as much")


class Drift(Noun):
    """Parts in order of time (weeks) or of appearance, the last sixty."""

    weeks: tuple[DriftPart, ...]
    studies: tuple[DriftPart, ...]
    snapshots: tuple[DriftPart, ...]
    changes: tuple[Change, ...]


_SHARES = ("agreement", "side_a", "longer", "weakest", "too_fast")
_WHY_NONE = {
    "agreement": "No comparison of this part was judged by two workers.",
    "side_a": "No judgment of this part was made on a page.",
    "longer": "No two replies of this part differ in length.",
    "weakest": "No judgment of this part has a grade.",
    "too_fast": "No judgment of this part has a time since the first token.",
    "decision_seconds": "No judgment of this part has a time since both replies were complete.",
    "preferred": "This is not a part by snapshot, or it met no other.",
}


def drift(rows: Rows, names: Mapping[str, str], limits: QualitySettings) -> Drift:
    """All parts, and what changed between them. Imported judgments have no week."""
    judgments, comparisons = rows.judgments, rows.comparisons
    seen = judgments.where(judgments.is_seen)
    week = ((seen.decided_at - _FIRST_MONDAY) // _SECONDS_A_WEEK).astype(np.int64)
    weeks, place = np.unique(week, return_inverse=True)
    by_week = _parts(seen, place, [_week(int(number)) for number in weeks], limits)
    in_study = judgments.where(judgments.study != NOBODY)
    by_study = _parts(in_study, in_study.study, [names.get(id, id) for id in rows.studies], limits)
    sides = comparisons.snapshot_a[judgments.comparison], comparisons.snapshot_b[judgments.comparison]
    kept = [(side != NOBODY) & (sides[0] != sides[1]) for side in sides]
    order = np.concatenate([np.flatnonzero(mask) for mask in kept])
    snapshot = np.concatenate([side[mask] for side, mask in zip(sides, kept, strict=True)])
    is_first = np.concatenate([np.full(int(mask.sum()), number == 0) for number, mask in enumerate(kept)])
    both = judgments.where(order)
    won = both.preferred_a == is_first
    by_snapshot = _parts(both, snapshot, [names.get(id, id) for id in rows.snapshots], limits, won)
    found = {"week": by_week, "study": by_study, "snapshot": by_snapshot}
    tables = [(by, parts) for by, parts in found.items() if len(parts) > 1]
    level = limits.false_alarms / max(len(tables) * len(_SHARES), 1)
    changes = [
        change
        for by, parts in tables
        for measure in _SHARES
        if (change := _change(by, measure, parts, level, limits.least_difference)) is not None  # type: ignore[arg-type]
    ]
    return Drift(weeks=by_week, studies=by_study, snapshots=by_snapshot, changes=tuple(changes))


def _week(number: int) -> str:
    """The ISO week, "2026-W03" say."""
    year, week, _ = datetime.fromtimestamp(_FIRST_MONDAY + number * _SECONDS_A_WEEK, UTC).isocalendar()
    return f"{year}-W{week:02d}"


class _Column(NamedTuple):
    above: Floats
    below: Floats
    rows: Judgments
    parts: Ints


def _parts(
    judgments: Judgments, part: Ints, names: Sequence[str], limits: QualitySettings, won: Flags | None = None
) -> tuple[DriftPart, ...]:
    if len(judgments) == 0:
        return ()
    count = len(names)
    usable = judgments.by_someone & ~judgments.are_identical
    kept = np.flatnonzero(usable)
    codes = np.unique(judgments.comparison[kept], return_inverse=True)[1]
    is_shared = np.zeros(len(judgments), dtype=np.bool_)
    is_shared[kept] = np.bincount(codes)[codes] > 1
    shared = judgments.where(is_shared)
    agreeing = measures.agreeing(shared)
    columns = {"agreement": _Column(agreeing.agreeing, agreeing.others, shared, part[is_shared])}
    longer = judgments.preferred_a == (judgments.length_a > judgments.length_b)
    fast = measures.is_too_fast(judgments, limits.fastest_characters_per_second)
    for name, values, where in (
        ("side_a", judgments.clicked_a, judgments.is_seen),
        ("longer", longer, (judgments.length_a != judgments.length_b) & ~judgments.are_identical),
        ("weakest", judgments.is_weakest, judgments.grade > 0),
        ("too_fast", fast, np.isfinite(judgments.reading_seconds)),
        ("preferred", longer if won is None else won, np.full(len(judgments), won is not None)),
    ):
        some = judgments.where(where)
        columns[name] = _Column(values[where].astype(np.float64), np.ones(len(some)), some, part[where])
    found = {
        name: [
            Measured(unknown=_WHY_NONE[name]) if interval is None else known(interval)
            for interval in grouped_shares(column.above, column.below, column.parts, column.rows.conversation, count)
        ]
        for name, column in columns.items()
    }
    if why_none := measures.why_one_sided(shared):
        found["agreement"] = [Measured(unknown=why_none)] * count
    is_timed = np.isfinite(judgments.decision_seconds)
    timed = judgments.where(is_timed)
    seconds = grouped_means(np.log(timed.decision_seconds), part[is_timed], timed.conversation, count)
    made = np.bincount(part, minlength=count)
    parts = [
        DriftPart(
            name=names[code],
            judgments=int(made[code]),
            decision_seconds=Measured(unknown=_WHY_NONE["decision_seconds"])
            if (interval := seconds[code]) is None
            else geometric(known(interval)),
            **{name: values[code] for name, values in found.items()},
        )
        for code in np.flatnonzero(made).tolist()
    ]
    return tuple(parts[-_MOST_PARTS:])


def _change(by: By, measure: str, parts: Sequence[DriftPart], level: float, least: float) -> Change | None:
    """Chi-square of all parts being one, from their intervals; a part of fewer than ten conversations says nothing."""
    known_parts = [
        (part.name, interval)
        for part in parts
        if (interval := getattr(part, measure).interval) is not None and (interval.clusters or 0) >= _LEAST_CLUSTERS
    ]
    if len(known_parts) < 2:
        return None
    values = np.array([interval.value for _, interval in known_parts])
    deviations = np.array([(interval.high - interval.low) / (2 * 1.96) for _, interval in known_parts])
    weights = 1 / np.maximum(deviations, 1e-6) ** 2
    mean = (weights * values).sum() / weights.sum()
    chance = float(special.chdtrc(len(values) - 1, (weights * (values - mean) ** 2).sum()))
    if chance >= level or np.ptp(values) < least:
        return None
    low, high = known_parts[int(values.argmin())], known_parts[int(values.argmax())]
    return Change(by=by, measure=measure, lowest=low[0], highest=high[0], low=low[1], high=high[1], chance=chance)
