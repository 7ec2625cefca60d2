"""The columns of a report: what the statistics need of each comparison and judgment, and no more. Knows no store.

Texts are reduced to lengths, digests and the first few ten thousand different opening turns (`texts.Openings`), so
that a million judgments are some hundred megabytes. `reading` fills the columns from a store. Knows no statistics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field, fields
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from prefloop.quality.texts import Openings, TurnSample
from prefloop.schema import GRADES, WEAKEST_GRADES, Mode, Tranche

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
MODES, TRANCHES = tuple(Mode), tuple(Tranche)
NOBODY = -1
"""The worker of imported judgments, the author of imported conversations, the snapshot of imported replies."""


class Columns:
    """Arrays of one length, one for each field."""

    def where(self, is_kept: Flags | Ints) -> Self:
        """The rows of a mask, or those at some places."""
        return type(self)(**{part.name: getattr(self, part.name)[is_kept] for part in fields(self)})  # type: ignore[arg-type]

    @classmethod
    def of(cls, columns: dict[str, npt.ArrayLike]) -> Self:
        """Columns of any kind as the kinds of the fields; those that are missing are unknown."""
        count = len(np.asarray(next(iter(columns.values()))))
        made: dict[str, npt.NDArray[Any]] = {}
        for part in fields(cls):  # type: ignore[arg-type]
            kind, unknown = _KINDS[str(part.type)]
            values = columns[part.name] if part.name in columns else np.full(count, unknown)
            made[part.name] = np.asarray(values, dtype=kind)
        return cls(**made)


_KINDS: dict[str, tuple[type, float]] = {
    "Ints": (np.int64, NOBODY),
    "Floats": (np.float64, np.nan),
    "Flags": (np.bool_, False),
}


@dataclass(frozen=True)
class Judgments(Columns):
    """A row for each worker's latest judgment on a comparison. Codes number what they name."""

    comparison: Ints
    """Place in `Comparisons`."""
    conversation: Ints
    worker: Ints
    author: Ints
    """Whose conversation it is."""
    study: Ints
    mode: Ints
    """Place in MODES."""
    tranche: Ints
    """Place in TRANCHES."""
    grade: Ints
    """1 to 8 in shown order; 0: imported without strength."""
    is_imported: Flags
    clicked_a: Flags
    preferred_a: Flags
    length_a: Ints
    """Characters."""
    length_b: Ints
    are_identical: Flags
    first_done: Ints
    """1: A was complete first, -1: B was, 0: not known or at once."""
    decision_seconds: Floats
    """From both replies complete to the judgment; NaN: not known."""
    reading_seconds: Floats
    """From the first token of either reply to the judgment; NaN: not known."""
    decided_at: Floats
    """Seconds since 1970."""
    pair: Ints
    """Digest of context and the two replies, whichever stood where."""
    preferred_text: Ints
    """Digest of the preferred reply."""

    def __len__(self) -> int:
        return len(self.comparison)

    @property
    def is_weakest(self) -> Flags:
        is_weakest: Flags = np.isin(self.grade, WEAKEST_GRADES)
        return is_weakest

    @property
    def is_seen(self) -> Flags:
        """Made on a page, where sides and times mean something."""
        return ~self.is_imported

    @property
    def by_someone(self) -> Flags:
        is_named: Flags = self.worker != NOBODY
        return is_named


@dataclass(frozen=True)
class Comparisons(Columns):
    """A row for each comparison that is judged or void, in order of creation; open ones are counted alone."""

    conversation: Ints
    is_void: Flags
    are_identical: Flags
    mode: Ints
    tranche: Ints
    study: Ints
    author: Ints
    opening: Ints
    """Code of the conversation's normalised opening turn; -1: it has none."""
    turn: Ints
    """1 for the first answer of the conversation."""
    context_turns: Ints
    """Messages before the replies."""
    length_a: Ints
    """Characters."""
    length_b: Ints
    snapshot_a: Ints
    """Code of the snapshot; -1: imported."""
    snapshot_b: Ints
    written_characters: Ints
    """Of the user turn that both replies answer."""
    writing_seconds: Floats
    """From the turn before it (or the conversation's beginning) to that turn; NaN: not known."""

    def __len__(self) -> int:
        return len(self.conversation)

    @property
    def is_usable(self) -> Flags:
        """Judged, with two replies that differ."""
        return ~self.is_void & ~self.are_identical


@dataclass(frozen=True)
class Scores:
    """Raw scores of one preference model, a pair for each comparison of `Comparisons`; NaN: not scored."""

    score_a: Floats
    score_b: Floats


@dataclass
class Rows:
    """What a store holds, in order of creation."""

    judgments: Judgments
    comparisons: Comparisons
    openings: Openings
    workers: list[str]
    """Ids by code."""
    states: Counter[str] = field(default_factory=Counter)
    void_reasons: Counter[str] = field(default_factory=Counter)
    corrected: int = 0
    snapshots: list[str] = field(default_factory=list)
    """Ids by code."""
    studies: list[str] = field(default_factory=list)
    """Ids by code."""
    turns: TurnSample = field(default_factory=TurnSample)
    scores: dict[str, Scores] = field(default_factory=dict)
    """By id of the preference model."""


class Numbering:
    """Labels to codes 0, 1, ... in order of first appearance."""

    def __init__(self) -> None:
        self.codes: dict[Hashable, int] = {}

    def __call__(self, label: Hashable) -> int:
        return self.codes.setdefault(label, len(self.codes))

    def all(self, labels: tuple[Hashable, ...] | list[Hashable], nobody: bool = False) -> Ints:
        """Codes of many labels; with `nobody`, None is NOBODY."""
        codes = self.codes
        if nobody:
            found = [NOBODY if label is None else codes.setdefault(label, len(codes)) for label in labels]
        else:
            found = [codes.setdefault(label, len(codes)) for label in labels]
        return np.array(found, dtype=np.int64)


def grade_counts(grades: Ints) -> dict[int, int]:
    """How often each grade was given."""
    counts = np.bincount(grades, minlength=GRADES + 1)
    return {grade: int(counts[grade]) for grade in range(1, GRADES + 1)}
