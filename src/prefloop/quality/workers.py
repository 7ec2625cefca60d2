"""Each worker's numbers beside everybody else's. Knows columns and people, no store; flags are raised in `flags`.

Plain agreement falls on hard topics (paper D.3), so a worker's noise comes from a model with the difficulty of the
items taken out; agreement stands beside it, for comparison. Nothing is ever left out because of a number here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from functools import partial
from typing import NamedTuple

import numpy as np

from prefloop.config import QualitySettings
from prefloop.errors import DataError
from prefloop.quality import measures, writing
from prefloop.quality.flags import Tally, raise_flags
from prefloop.quality.measured import LEAST_CLUSTERS, Measured, geometric, known
from prefloop.quality.nouns import NoiseModel, WorkerQuality
from prefloop.quality.rows import Flags, Floats, Ints, Judgments, Rows
from prefloop.quality.text_facts import OwnTexts
from prefloop.quality.texts import Openings
from prefloop.schema import Interval, Worker
from prefloop.stats import Reliability, grouped_means, grouped_shares, longest_runs, reliability


class Noise(NamedTuple):
    """The fit, or the sentence that says why there is none."""

    fit: Reliability | None
    unknown: str = ""

    def model(self) -> NoiseModel:
        """What the report says of it."""
        if self.fit is None:
            return NoiseModel(typical=Measured(unknown=self.unknown), spread=None, shared_judgments=0)
        shared = int(self.fit.judgments.sum())
        return NoiseModel(typical=known(self.fit.typical_noise), spread=self.fit.spread, shared_judgments=shared)


def fit_noise(judgments: Judgments) -> Noise:
    """Noise of every worker; comparisons of one author in one mode share their difficulty (people keep to topics)."""
    return noise_fit(judgments)()


def noise_fit(judgments: Judgments, helper: Executor | None = None) -> Callable[[], Noise]:
    """The same to be had later; with a `helper`, another process, it is begun at once."""
    shared = measures.shared_judgments(judgments)
    if why_none := measures.why_one_sided(shared):
        return partial(Noise, None, why_none)
    if 0 < (items := len(np.unique(shared.comparison))) < LEAST_CLUSTERS:
        why_none = f"Two workers judged {items} of the comparisons; {LEAST_CLUSTERS} are needed to tell their noise."
        return partial(Noise, None, why_none)
    usable = judgments.where(judgments.by_someone & ~judgments.are_identical)
    topics = usable.author * 2 + usable.mode
    columns = (usable.worker, usable.comparison, usable.preferred_a, topics)
    why_none = "" if len(shared) else measures.why_no_overlap(judgments)
    return partial(_fit, columns, why_none) if helper is None else helper.submit(_fit, columns, why_none).result


def _fit(columns: tuple[Ints, Ints, Flags, Ints], why_none: str) -> Noise:
    """The fit; `why_none` where nobody judged what another one judged."""
    try:
        return Noise(reliability(*columns))
    except DataError as error:
        return Noise(None, why_none or str(error))


def worker_quality(
    rows: Rows, people: Mapping[str, Worker], noise: Noise, own: OwnTexts, limits: QualitySettings
) -> tuple[WorkerQuality, ...]:
    """One row for every worker who judged, most judgments first; `people` are workers by id."""
    judgments, openings, ids = rows.judgments, rows.openings, rows.workers
    table = _Table(judgments.where(judgments.by_someone), len(ids))
    is_own_copy, opened_by = own.is_copy, openings.worker
    shared = measures.shared_judgments(table.judgments)
    one_sided = measures.why_one_sided(shared)
    agreeing = measures.agreeing(shared)
    agreement = grouped_shares(agreeing.agreeing, agreeing.others, shared.worker, shared.conversation, len(ids))
    seen = table.judgments.is_seen
    timed = seen & (table.judgments.first_done != 0)
    read = np.isfinite(table.judgments.reading_seconds)
    first = table.judgments.clicked_a == (table.judgments.first_done > 0)
    columns = {
        "side_a": table.share(table.judgments.clicked_a, seen),
        "longer": table.share(table.prefers_longer, table.differs),
        "finished_first": table.share(first, timed),
        "weakest": table.share(table.judgments.is_weakest, table.judgments.grade > 0),
        "too_fast": table.share(measures.is_too_fast(table.judgments, limits.fastest_characters_per_second), read),
        "own_copies": _own_copies(is_own_copy, openings, len(ids)),
        "opening_characters": writing.opening_characters(rows),
        "pasted": writing.pasted(rows, limits),
        "decision_seconds": table.mean_log(table.judgments.decision_seconds),
        "reading_seconds": table.mean_log(table.judgments.reading_seconds),
    }
    made = np.bincount(table.judgments.worker, minlength=len(ids))
    clicks = table.judgments.where(seen)
    runs = longest_runs(clicks.clicked_a[(order := in_time(clicks))].astype(np.int64), clicks.worker[order], len(ids))
    copies = Tally.of(is_own_copy[opened_by >= 0], opened_by[opened_by >= 0], len(ids))
    flags = raise_flags(table.judgments, copies, writing.paste_tally(rows, limits), noise.fit, len(ids), limits)
    busiest = sorted(np.flatnonzero(made).tolist(), key=lambda code: (-made[code], code))
    return tuple(
        WorkerQuality(
            worker_id=ids[code],
            pseudonym=people[ids[code]].pseudonym if ids[code] in people else ids[code],
            is_simulated=ids[code] in people and people[ids[code]].is_simulated,
            judgments=int(made[code]),
            longest_run=int(runs[code]),
            variety=own.variety.get(code, Measured(unknown="Fewer than three openings of this worker were kept.")),
            flags=tuple(flags[code]),
            **_noise_of(noise, code),
            **{name: _measured(name, column[code]) for name, column in columns.items()},
            agreement=Measured(unknown=one_sided) if one_sided else _measured("agreement", agreement[code]),
        )
        for code in busiest
    )


class _Table:
    """Columns by worker."""

    def __init__(self, judgments: Judgments, count: int) -> None:
        self.judgments, self.count = judgments, count
        self.differs: Flags = judgments.length_a != judgments.length_b
        self.prefers_longer: Flags = judgments.preferred_a == (judgments.length_a > judgments.length_b)

    def share(self, values: Flags, where: Flags) -> list[Interval | None]:
        rows = self.judgments
        return grouped_shares(
            values[where].astype(float), np.ones(where.sum()), rows.worker[where], rows.conversation[where], self.count
        )

    def mean_log(self, seconds: Floats) -> list[Interval | None]:
        where = np.isfinite(seconds)
        rows = self.judgments
        return grouped_means(np.log(seconds[where]), rows.worker[where], rows.conversation[where], self.count)


_WHY_NONE = {
    "agreement": "Nobody else judged the same comparisons.",
    "side_a": "No judgment was made on a page.",
    "longer": "No two replies differ in length.",
    "finished_first": "No finishing times are known.",
    "weakest": "No judgment has a grade.",
    "too_fast": "No judgment has a time since the first token.",
    "own_copies": "This worker opened no conversation.",
    "opening_characters": "This worker opened no conversation on a page.",
    "pasted": "This worker wrote no long turn whose time is known.",
    "decision_seconds": "No judgment has a time since both replies were complete.",
    "reading_seconds": "No judgment has a time since the first token.",
}


def _measured(name: str, interval: Interval | None) -> Measured:
    part = Measured(unknown=_WHY_NONE[name]) if interval is None else known(interval)
    return geometric(part) if name.endswith(("_seconds", "_characters")) else part


def _noise_of(noise: Noise, code: int) -> dict[str, Measured | float | None]:
    if noise.fit is None:
        return {"noise": Measured(unknown=noise.unknown), "weight": None}
    place = noise.fit.places.get(code)
    if place is None or noise.fit.judgments[place] == 0:
        return {"noise": Measured(unknown=_WHY_NONE["agreement"]), "weight": None}
    return {"noise": known(noise.fit.noise(place)), "weight": float(noise.fit.weights[place])}


def _own_copies(is_own_copy: Flags, openings: Openings, count: int) -> list[Interval | None]:
    named = openings.worker >= 0
    values = is_own_copy[named].astype(float)
    return grouped_shares(values, np.ones(len(values)), openings.worker[named], openings.conversation[named], count)


def in_time(judgments: Judgments) -> Ints:
    """Places in each worker's order of deciding."""
    return np.lexsort((judgments.decided_at, judgments.worker))
