"""How each worker writes: length and variety of openings, and turns that came too fast to be typed. Knows columns.

The paper chose its workers by the sophistication and variation of their writing, read by researchers (2.1, D.3). These
numbers say where to begin reading. Pasting is asked for by many a task; the flag is for a human alone.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from prefloop.config import QualitySettings
from prefloop.quality.flags import LONG_TURN, Tally
from prefloop.quality.measured import Measured, measured
from prefloop.quality.rows import Flags, Ints, Rows
from prefloop.quality.texts import Openings, words_of
from prefloop.schema import Interval
from prefloop.stats import grouped_means, grouped_shares, mean_difference

_MOST_OPENINGS = 200  # of one worker


def opening_characters(rows: Rows) -> list[Interval | None]:
    """Mean logarithm of the length of each worker's openings."""
    comparisons = rows.comparisons
    kept = comparisons.where((comparisons.turn == 1) & (comparisons.author >= 0) & (comparisons.written_characters > 0))
    logs = np.log(kept.written_characters)
    return grouped_means(logs, kept.author, kept.conversation, len(rows.workers))


def variety(openings: Openings) -> dict[int, Measured]:
    """By worker code, of those with three openings or more whose text was kept."""
    worker, code = openings.worker, openings.code
    is_kept = (worker >= 0) & np.isin(code, np.array(list(openings.texts), dtype=np.int64))
    words = dict(zip(openings.texts, words_of(openings.texts.values()), strict=True))
    order = np.flatnonzero(is_kept)[np.argsort(worker[is_kept], kind="stable")]
    people, begin = np.unique(worker[order], return_index=True)
    found = {}
    ends = pairwise([*begin.tolist(), len(order)])
    for person, (first, end) in zip(people.tolist(), ends, strict=True):
        items = [words[one] for one in code[order[first:end]][:_MOST_OPENINGS].tolist()]
        if len(items) > 2:
            found[person] = measured(lambda items=items: mean_difference(items))  # type: ignore[misc]
    return found


def pasted(rows: Rows, limits: QualitySettings) -> list[Interval | None]:
    """Share of each worker's long turns that came faster than anybody types."""
    is_fast, workers, clusters = _long_turns(rows, limits)
    return grouped_shares(is_fast.astype(np.float64), np.ones(len(is_fast)), workers, clusters, len(rows.workers))


def paste_tally(rows: Rows, limits: QualitySettings) -> Tally:
    """The same as counts."""
    is_fast, workers, _ = _long_turns(rows, limits)
    return Tally.of(is_fast, workers, len(rows.workers))


def _long_turns(rows: Rows, limits: QualitySettings) -> tuple[Flags, Ints, Ints]:
    """Long turns with a time: whether they came too fast, who wrote them, their conversations."""
    comparisons = rows.comparisons
    is_long = (comparisons.written_characters >= LONG_TURN) & (comparisons.author >= 0)
    kept = comparisons.where(is_long & (comparisons.writing_seconds > 0))
    is_fast: Flags = kept.written_characters > limits.fastest_typing * kept.writing_seconds
    return is_fast, kept.author, kept.conversation
