"""One pass over the store into plain rows: what the statistics need of each comparison and judgment, and no more.

Texts are reduced to lengths, digests and the opening turn, so that memory grows slowly. Knows no statistics.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from prefloop.schema import Comparison, Judgment, Mode, Side, Tranche, TreeMessage
from prefloop.store import ComparisonRecord, Store


class JudgmentRow(NamedTuple):
    """A worker's latest judgment on one comparison, and what was shown."""

    comparison_id: str
    conversation_id: str
    worker_id: str | None
    mode: Mode
    tranche: Tranche
    grade: int | None
    is_weakest: bool
    is_imported: bool
    clicked: Side
    preferred: Side
    preferred_text: bytes  # digest of the preferred response
    pair: bytes  # digest of context and the two responses, whichever stood where
    length_a: int  # characters
    length_b: int
    are_identical: bool
    first_done: Side | None
    decision_seconds: float | None


class ComparisonRow(NamedTuple):
    """A comparison, judged or not."""

    conversation_id: str
    state: str
    void_reason: str
    are_identical: bool


class Opening(NamedTuple):
    """The first user turn of a conversation and whose it is."""

    conversation_id: str
    worker_id: str | None
    text: str


@dataclass
class Rows:
    """What one pass found; openings and rows stand in order of creation."""

    comparisons: list[ComparisonRow] = field(default_factory=list)
    judgments: list[JudgmentRow] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    corrected: int = 0
    states: Counter[str] = field(default_factory=Counter)


def read_rows(store: Store, mode: Mode | None, tranche: Tranche | None, study_id: str | None) -> Rows:
    """Everything of the chosen part of the store, in one streaming pass."""
    rows = Rows()
    opened: set[str] = set()
    for record in store.records(mode, tranche, study_id):
        comparison = record.comparison
        rows.states[comparison.state] += 1
        rows.comparisons.append(
            ComparisonRow(
                conversation_id=comparison.conversation_id,
                state=comparison.state,
                void_reason=comparison.void_reason or "",
                are_identical=comparison.response_a.text == comparison.response_b.text,
            )
        )
        if comparison.conversation_id not in opened:
            opened.add(comparison.conversation_id)
            text = next((message.text for message in record.path if message.role == "user"), "")
            rows.openings.append(Opening(comparison.conversation_id, comparison.worker_id, text))
        if comparison.state == "judged":
            _add_judgments(rows, record)
    return rows


def _add_judgments(rows: Rows, record: ComparisonRecord) -> None:
    comparison = record.comparison
    revised = {judgment.revises for judgment in record.judgments if judgment.revises is not None}
    rows.corrected += len(revised)
    digests = {"a": _digest(comparison.response_a.text), "b": _digest(comparison.response_b.text)}
    pair = _pair_digest(record.path, digests["a"], digests["b"])
    for judgment in record.judgments:
        if judgment.id in revised:
            continue
        rows.judgments.append(
            JudgmentRow(
                comparison_id=comparison.id,
                conversation_id=comparison.conversation_id,
                worker_id=judgment.worker_id,
                mode=comparison.mode,
                tranche=comparison.tranche,
                grade=judgment.grade,
                is_weakest=judgment.is_weakest,
                is_imported=judgment.input_device == "import",
                clicked=judgment.clicked,
                preferred=judgment.preferred,
                preferred_text=digests[judgment.preferred],
                pair=pair,
                length_a=len(comparison.response_a.text),
                length_b=len(comparison.response_b.text),
                are_identical=comparison.response_a.text == comparison.response_b.text,
                first_done=_first_done(comparison),
                decision_seconds=_decision_seconds(comparison, judgment),
            )
        )


def _first_done(comparison: Comparison) -> Side | None:
    a, b = comparison.response_a.done_at, comparison.response_b.done_at
    if a is None or b is None or a == b:
        return None
    return "a" if a < b else "b"


def _decision_seconds(comparison: Comparison, judgment: Judgment) -> float | None:
    """From both replies being complete (as the page saw it, else as the server did) to the judgment."""
    if judgment.input_device == "import":
        return None
    begun = judgment.both_done_at
    if begun is None:
        a, b = comparison.response_a.done_at, comparison.response_b.done_at
        begun = None if a is None or b is None else max(a, b)
    seconds = None if begun is None else (judgment.decided_at - begun).total_seconds()
    return seconds if seconds is not None and seconds > 0 else None


def _pair_digest(path: tuple[TreeMessage, ...], first: bytes, second: bytes) -> bytes:
    context = hashlib.blake2b(digest_size=16)
    for message in path:
        context.update(f"{message.role}\0{message.text}\0".encode())
    for digest in sorted((first, second)):
        context.update(digest)
    return context.digest()


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
