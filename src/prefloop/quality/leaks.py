"""Openings that stand on both sides of a line: two tranches, or training and held-out. Knows openings, no store.

Runs split by the exact opening, so equal ones never part; openings that differ in a comma or a word do. An evaluation
on such conversations is partly one on what was trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np

from prefloop.quality import measures
from prefloop.quality.item_nouns import Leaks, Shared
from prefloop.quality.measured import Measured
from prefloop.quality.rows import Flags, Ints, Rows
from prefloop.quality.texts import MOST_TEXTS_FOR_NEAR_COPIES, Openings
from prefloop.stats import NearDuplicate

_SHOWN = 8


class _Alike:
    """Which of the checked openings resemble which."""

    def __init__(self, openings: Openings, near: Sequence[NearDuplicate]) -> None:
        self.texts = openings.texts
        self.codes = np.array(list(self.texts)[:MOST_TEXTS_FOR_NEAR_COPIES], dtype=np.int64)
        self.pairs = near

    def shared(self, first: Ints, second: Ints, names: tuple[str, str], seed: int) -> Shared:
        """What two sets of codes share."""
        in_first, in_second = (np.isin(self.codes, side) for side in (first, second))
        both = np.intersect1d(first, second)
        reached = np.isin(self.codes, both)
        examples: list[tuple[str, str, float]] = []
        exact = reached.copy()
        for pair in self.pairs:
            for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
                if in_first[one] and in_second[other] and not exact[other]:
                    reached[other] = True
                    if len(examples) < _SHOWN and not exact[one]:
                        ends = (self.texts[int(self.codes[one])], self.texts[int(self.codes[other])])
                        examples.append((*ends, pair.similarity))
        copies = [self.texts[code] for code in both.tolist() if code in self.texts][:_SHOWN]
        return Shared(
            first=names[0],
            second=names[1],
            exact=len(both),
            near=int((reached & in_second & ~exact).sum()),
            share=_share(reached[in_second], self.codes[in_second], seed, names[1]),
            examples=(*examples, *((text, text, 1.0) for text in copies))[:_SHOWN],
        )


def leaks(
    rows: Rows, openings: Mapping[str, Ints], near: Sequence[NearDuplicate], held_out_share: float, seed: int
) -> Leaks:
    """Leaks between tranches, and between training and held-out conversations as runs split them.

    Args:
        near: nearly equal openings among the first ones.
    """
    alike = _Alike(rows.openings, near)
    code, is_held_out = rows.openings.code, rows.openings.place >= 1 - held_out_share
    split = None
    if is_held_out.any() and not is_held_out.all():
        sides = np.unique(code[~is_held_out]), np.unique(code[is_held_out])
        split = alike.shared(*sides, ("training", "held out"), seed)
    return Leaks(
        openings_checked=len(alike.codes),
        held_out_share=held_out_share,
        split=split,
        by_row=_by_row(rows, seed),
        tranches=tuple(
            alike.shared(openings[first], openings[second], (first, second), seed)
            for first, second in combinations(openings, 2)
        ),
    )


def _by_row(rows: Rows, seed: int) -> Measured:
    """Comparisons of openings that have more than one: half of them would be met again in training, or more."""
    kept = rows.comparisons.where(rows.comparisons.is_usable & (rows.comparisons.opening >= 0))
    counts = np.bincount(kept.opening, minlength=1)
    return measures.share(
        counts[kept.opening] > 1, kept.opening, seed, "No judged comparison belongs to a conversation with an opening."
    )


def _share(values: Flags, codes: Ints, seed: int, name: str) -> Measured:
    return measures.share(values, codes, seed, f"None of the openings of {name!r} is among those that were compared.")
