"""One pass over the store into columns: what the statistics need of each comparison and judgment, and no more.

Texts are reduced to lengths, digests and the first few ten thousand different opening turns, so that a million
judgments are some hundred megabytes. Knows no statistics.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt

from prefloop.quality.texts import Openings, digest
from prefloop.schema import GRADES, WEAKEST_GRADES, Comparison, Judgment, Mode, Tranche, TreeMessage
from prefloop.store import ComparisonRecord, Store

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
MODES, TRANCHES = tuple(Mode), tuple(Tranche)
NOBODY = -1
"""The worker of imported judgments, and the author of imported conversations."""


@dataclass(frozen=True)
class Judgments:
    """Columns of one length, a row for each worker's latest judgment on a comparison. Codes number what they name."""

    comparison: Ints
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

    def where(self, is_kept: Flags) -> Judgments:
        """The rows of a mask."""
        return Judgments(**{part.name: getattr(self, part.name)[is_kept] for part in fields(self)})

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

    @classmethod
    def of(cls, columns: dict[str, npt.ArrayLike]) -> Judgments:
        """Columns of any kind as the kinds above."""
        kinds = {part.name: _KINDS[str(part.type)] for part in fields(cls)}
        return cls(**{name: np.asarray(columns[name], dtype=kind) for name, kind in kinds.items()})


_KINDS: dict[str, type] = {"Ints": np.int64, "Floats": np.float64, "Flags": np.bool_}


@dataclass
class Comparisons:
    """Finished comparisons and those still open, in counts and columns."""

    states: Counter[str] = field(default_factory=Counter)
    void_reasons: Counter[str] = field(default_factory=Counter)
    conversation: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    is_void: Flags = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))
    """Of those that are not open, as the next."""
    are_identical: Flags = field(default_factory=lambda: np.zeros(0, dtype=np.bool_))


@dataclass
class Rows:
    """What one pass found, in order of creation."""

    judgments: Judgments
    comparisons: Comparisons
    openings: Openings
    workers: list[str]
    """Ids by code."""
    corrected: int = 0


class Numbering:
    """Labels to codes 0, 1, ... in order of first appearance."""

    def __init__(self) -> None:
        self.codes: dict[Hashable, int] = {}

    def __call__(self, label: Hashable) -> int:
        return self.codes.setdefault(label, len(self.codes))


def read_rows(store: Store, mode: Mode | None, tranche: Tranche | None, study_id: str | None) -> Rows:
    """Everything of the chosen part of the store, in one streaming pass."""
    reader = _Reader()
    for record in store.records(mode, tranche, study_id):
        reader.add(record)
    return reader.rows()


class _Reader:
    """Gathers columns record by record."""

    def __init__(self) -> None:
        kinds = {"Ints": "q", "Floats": "d", "Flags": "b"}
        self.columns = {part.name: array(kinds[str(part.type)]) for part in fields(Judgments)}
        self.comparisons = Comparisons()
        self.closed: tuple[array[int], array[int], array[int]] = array("q"), array("b"), array("b")
        self.openings = Openings()
        self.corrected = 0
        self.numbers = {what: Numbering() for what in ("worker", "conversation", "study")}

    def add(self, record: ComparisonRecord) -> None:
        comparison = record.comparison
        self.comparisons.states[comparison.state] += 1
        known = len(self.numbers["conversation"].codes)
        conversation, author = (
            self.numbers["conversation"](comparison.conversation_id),
            self._worker(comparison.worker_id),
        )
        are_identical = comparison.response_a.text == comparison.response_b.text
        if conversation == known:
            text = next((message.text for message in record.path if message.role == "user"), "")
            self.openings.add(conversation, author, text)
        if comparison.state == "void":
            self.comparisons.void_reasons[comparison.void_reason or "no reason given"] += 1
        if comparison.state != "open":
            facts = (conversation, comparison.state == "void", are_identical)
            for column, value in zip(self.closed, facts, strict=True):
                column.append(value)
        if comparison.state == "judged":
            self._add_judgments(record, conversation, author, are_identical)

    def _add_judgments(self, record: ComparisonRecord, conversation: int, author: int, are_identical: bool) -> None:
        comparison = record.comparison
        revised = {judgment.revises for judgment in record.judgments if judgment.revises is not None}
        self.corrected += len(revised)
        digests = {"a": digest(comparison.response_a.text), "b": digest(comparison.response_b.text)}
        shown = {
            "comparison": self.comparisons.states.total(),
            "conversation": conversation,
            "author": author,
            "study": NOBODY if comparison.study_id is None else self.numbers["study"](comparison.study_id),
            "mode": MODES.index(comparison.mode),
            "tranche": TRANCHES.index(comparison.tranche),
            "length_a": len(comparison.response_a.text),
            "length_b": len(comparison.response_b.text),
            "are_identical": are_identical,
            "first_done": _first_done(comparison),
            "pair": _pair_digest(record.path, digests["a"], digests["b"]),
        }
        for judgment in record.judgments:
            if judgment.id in revised:
                continue
            row: dict[str, Any] = shown | {
                "worker": self._worker(judgment.worker_id),
                "grade": judgment.grade or 0,
                "is_imported": judgment.input_device == "import",
                "clicked_a": judgment.clicked == "a",
                "preferred_a": judgment.preferred == "a",
                "preferred_text": digests[judgment.preferred],
                "decision_seconds": _decision_seconds(comparison, judgment),
                "reading_seconds": _reading_seconds(comparison, judgment),
                "decided_at": judgment.decided_at.timestamp(),
            }
            for name, column in self.columns.items():
                column.append(row[name])

    def _worker(self, id: str | None) -> int:
        return NOBODY if id is None else self.numbers["worker"](id)

    def rows(self) -> Rows:
        conversation, is_void, are_identical = self.closed
        self.comparisons.conversation = np.array(conversation, dtype=np.int64)
        self.comparisons.is_void = np.array(is_void, dtype=np.bool_)
        self.comparisons.are_identical = np.array(are_identical, dtype=np.bool_)
        return Rows(
            judgments=Judgments.of({name: np.array(column) for name, column in self.columns.items()}),
            comparisons=self.comparisons,
            openings=self.openings,
            workers=[str(id) for id in self.numbers["worker"].codes],
            corrected=self.corrected,
        )


def grade_counts(grades: Ints) -> dict[int, int]:
    """How often each grade was given."""
    counts = np.bincount(grades, minlength=GRADES + 1)
    return {grade: int(counts[grade]) for grade in range(1, GRADES + 1)}


def _first_done(comparison: Comparison) -> int:
    a, b = comparison.response_a.done_at, comparison.response_b.done_at
    if a is None or b is None or a == b:
        return 0
    return 1 if a < b else -1


def _decision_seconds(comparison: Comparison, judgment: Judgment) -> float:
    """From both replies being complete (as the page saw it, else as the server did) to the judgment."""
    done = (comparison.response_a.done_at, comparison.response_b.done_at)
    both = max(moment for moment in done if moment) if all(done) else None
    return _seconds(judgment, judgment.both_done_at or both)


def _reading_seconds(comparison: Comparison, judgment: Judgment) -> float:
    """From the first token of either reply (as the page saw it, else as the server did) to the judgment."""
    begun = (comparison.response_a.first_token_at, comparison.response_b.first_token_at)
    return _seconds(judgment, judgment.first_token_at or min((moment for moment in begun if moment), default=None))


def _seconds(judgment: Judgment, begun: datetime | None) -> float:
    if judgment.input_device == "import" or begun is None:
        return float("nan")
    seconds = (judgment.decided_at - begun).total_seconds()
    return seconds if seconds > 0 else float("nan")


def _pair_digest(path: Iterable[TreeMessage], first: int, second: int) -> int:
    context = "".join(f"{message.role}\0{message.text}\0" for message in path)
    return digest(f"{context}\0{min(first, second)}\0{max(first, second)}")
