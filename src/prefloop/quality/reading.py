"""From a store to columns, batch by batch in one pass. Knows the store's column reader and no statistics.

Most of the time goes into Python objects, so of a large store a second process can read the later half. What it read
is then numbered anew, and the columns are the same as if one process had read on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from prefloop.quality.rows import (
    MODES,
    NOBODY,
    TRANCHES,
    Comparisons,
    Flags,
    Floats,
    Ints,
    Judgments,
    Numbering,
    Rows,
    Scores,
)
from prefloop.quality.texts import Openings, TurnSample, digest
from prefloop.schema import Mode, Tranche
from prefloop.store import BATCH, Batch, ComparisonColumns, JudgmentColumns, Store

_MODE = {mode.value: place for place, mode in enumerate(MODES)}
_ALL_BITS = (1 << 64) - 1  # of a signed digest, as a number from 0 on
_TRANCHE = {tranche.value: place for place, tranche in enumerate(TRANCHES)}


class Part(NamedTuple):
    """What of the store is read."""

    mode: Mode | None = None
    tranche: Tranche | None = None
    study_id: str | None = None
    batch: int = BATCH


def read_rows(store: Store, part: Part, helper: Executor | None = None) -> Rows:
    """Everything of the chosen part of the store, in one streaming pass.

    Args:
        helper: another process that reads the later half of a store of many comparisons.
    """
    middle = None if helper is None else store.middle(*part)
    if helper is None or middle is None:
        return _read(store, part).rows()
    url = store.url.render_as_string(hide_password=False)
    later = helper.submit(_read_later, url, part, middle)
    reader = _read(store, part, until=middle)
    reader.join(later.result())
    return reader.rows()


def _read(store: Store, part: Part, after: str = "", until: str | None = None) -> _Reader:
    reader = _Reader()
    for batch in store.batches(*part, after=after, until=until):
        reader.add(batch)
    return reader


def _read_later(url: str, part: Part, after: str) -> _Reader:
    """In the other process."""
    with Store.open(url) as store:
        return _read(store, part, after=after)


class _Path(NamedTuple):
    """What one message and those before it come to."""

    digest: int
    opening: str
    """The first user turn."""
    text: str
    messages: int
    written_at: float
    before: float
    """When the turn before it came; NaN for the first."""


class _Paths:
    """Paths of one batch's messages, each worked out once."""

    def __init__(self, turns: Sequence[tuple[Any, ...]]) -> None:
        self._turns = {turn[0]: turn for turn in turns}
        self._known: dict[str, _Path] = {}

    def of(self, message: str) -> _Path:
        """The path that ends in a message."""
        todo, at = [], message
        while at not in self._known:
            todo.append(at)
            parent = self._turns[at][1]
            if parent is None:
                break
            at = parent
        for id in reversed(todo):
            _, parent, role, text, created_at = self._turns[id]
            before = self._known[parent] if parent is not None else _ROOT
            self._known[id] = _Path(
                digest(f"{before.digest}\0{role}\0{text}"),
                before.opening or (text if role == "user" else ""),
                text,
                before.messages + 1,
                created_at,
                before.written_at,
            )
        return self._known[message]


_ROOT = _Path(0, "", "", 0, float("nan"), float("nan"))


@dataclass
class _Reader:
    """Gathers columns batch by batch."""

    states: Counter[str] = field(default_factory=Counter)
    void_reasons: Counter[str] = field(default_factory=Counter)
    openings: Openings = field(default_factory=Openings)
    turns: TurnSample = field(default_factory=TurnSample)
    corrected: int = 0
    kept: int = 0
    """Comparisons that are not open so far."""
    parts: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    scores: dict[str, list[tuple[int, Floats, Floats]]] = field(default_factory=lambda: defaultdict(list))
    number: dict[str, Numbering] = field(default_factory=lambda: defaultdict(Numbering))
    opening_of: dict[int, int] = field(default_factory=dict)
    """Code of a conversation's opening."""

    def add(self, batch: Batch) -> None:
        """Takes the next comparisons with everything that belongs to them."""
        columns = _transposed(ComparisonColumns, batch.comparisons)
        self.states.update(columns.state)
        self.void_reasons.update(
            reason or "no reason given"
            for reason, state in zip(columns.void_reason, columns.state, strict=True)
            if state == "void"
        )
        facts = self._facts(columns, _Paths(batch.turns))
        is_open = np.array([state == "open" for state in columns.state], dtype=np.bool_)
        place = np.where(is_open, NOBODY, self.kept + np.cumsum(~is_open) - 1)
        self.parts["comparisons"].append({name: values[~is_open] for name, values in facts.items()})
        self._add_judgments(batch, columns, facts, place)
        for model, rows in batch.scores.items():
            self._add_scores(model, rows, columns, is_open)
        self.kept += int((~is_open).sum())

    def _facts(self, columns: Any, paths: _Paths) -> dict[str, Any]:
        """Columns of all comparisons of a batch; the fields of `Comparisons` and some of `Judgments`."""
        conversation = self.number["conversation"].all(columns.conversation_id)
        author = self.number["worker"].all(columns.author_id, nobody=True)
        contexts = [paths.of(id) for id in columns.context_message_id]
        for code, worker, path in zip(conversation.tolist(), author.tolist(), contexts, strict=True):
            if code not in self.opening_of:
                self.opening_of[code] = self.openings.add(code, worker, path.opening)
            self.turns.add(path.digest & _ALL_BITS, code, path.text)
        digests = [(digest(a), digest(b)) for a, b in zip(columns.text_a, columns.text_b, strict=True)]
        written_at, before = (np.array([getattr(path, name) for path in contexts]) for name in ("written_at", "before"))
        began = np.where(np.isnan(before), np.array(columns.conversation_at, dtype=np.float64), before)
        is_imported = np.array(columns.is_imported, dtype=np.bool_)
        done = _floats(columns.done_a), _floats(columns.done_b)
        with np.errstate(invalid="ignore"):
            first_done = np.nan_to_num(np.sign(done[1] - done[0])).astype(np.int64)
        return {
            "conversation": conversation,
            "is_void": np.array([state == "void" for state in columns.state], dtype=np.bool_),
            "are_identical": np.array([a == b for a, b in zip(columns.text_a, columns.text_b, strict=True)]),
            "mode": np.array([_MODE[mode] for mode in columns.mode]),
            "tranche": np.array([_TRANCHE[tranche] for tranche in columns.tranche]),
            "study": self.number["study"].all(columns.study_id, nobody=True),
            "author": author,
            "opening": np.array([self.opening_of[code] for code in conversation.tolist()]),
            "turn": np.array(columns.turn),
            "context_turns": np.array([path.messages for path in contexts]),
            "length_a": np.array([len(text) for text in columns.text_a]),
            "length_b": np.array([len(text) for text in columns.text_b]),
            "snapshot_a": self.number["snapshot"].all(columns.snapshot_a, nobody=True),
            "snapshot_b": self.number["snapshot"].all(columns.snapshot_b, nobody=True),
            "written_characters": np.array([len(path.text) for path in contexts]),
            "writing_seconds": np.where(is_imported, np.nan, written_at - began),
            "first_done": first_done,
            "first_token": np.fmin(_floats(columns.first_token_a), _floats(columns.first_token_b)),
            "both_done": np.maximum(*done),
            "digest_a": np.array([one for one, _ in digests], dtype=np.int64),
            "digest_b": np.array([other for _, other in digests], dtype=np.int64),
            "pair": np.array(
                [
                    digest(f"{path.digest}\0{min(pair)}\0{max(pair)}")
                    for path, pair in zip(contexts, digests, strict=True)
                ],
                dtype=np.int64,
            ),
        }

    def _add_judgments(self, batch: Batch, columns: Any, facts: dict[str, Any], place: Ints) -> None:
        if not batch.judgments:
            return
        found = _transposed(JudgmentColumns, batch.judgments)
        revised = {id for id in found.revises if id is not None}
        of_id = dict(zip(columns.id, range(len(columns.id)), strict=True))
        at = np.array([of_id[id] for id in found.comparison_id])
        is_judged = np.array([state == "judged" for state in columns.state], dtype=np.bool_)[at]
        is_latest = np.array([id not in revised for id in found.id], dtype=np.bool_)
        self.corrected += int((is_judged & ~is_latest).sum())
        kept = np.flatnonzero(is_judged & is_latest)
        order = kept[np.lexsort((kept, np.array(found.id)[kept], at[kept]))]  # by comparison, then as they were made
        at = at[order]
        is_imported, clicked_a, preferred_a = (
            np.array([value == wanted for value in column], dtype=np.bool_)[order]
            for column, wanted in ((found.input_device, "import"), (found.clicked, "a"), (found.preferred, "a"))
        )
        decided = _floats(found.decided_at)[order]
        first, both = _floats(found.first_token_at)[order], _floats(found.both_done_at)[order]
        rows = {name: facts[name][at] for name in _OF_COMPARISON}
        rows |= {
            "comparison": place[at],
            "worker": self.number["worker"].all(found.worker_id, nobody=True)[order],
            "grade": np.array([grade or 0 for grade in found.grade], dtype=np.int64)[order],
            "is_imported": is_imported,
            "clicked_a": clicked_a,
            "preferred_a": preferred_a,
            "preferred_text": np.where(preferred_a, facts["digest_a"][at], facts["digest_b"][at]),
            # as the page saw it, else as the server did
            "decision_seconds": _since(np.where(np.isnan(both), facts["both_done"][at], both), decided, is_imported),
            "reading_seconds": _since(np.where(np.isnan(first), facts["first_token"][at], first), decided, is_imported),
            "decided_at": decided,
        }
        self.parts["judgments"].append(rows)

    def _add_scores(self, model: str, rows: list[tuple[Any, ...]], columns: Any, is_open: Flags) -> None:
        of_id = {id: (a, b) for id, a, b in rows}
        pairs = np.array([of_id[id] for id in columns.id], dtype=np.float64)[~is_open]
        self.scores[model].append((self.kept, pairs[:, 0], pairs[:, 1]))

    def join(self, later: _Reader) -> None:
        """Takes what another reader read of the comparisons after these: the same as reading on."""
        self.states.update(later.states)
        self.void_reasons.update(later.void_reasons)
        self.corrected += later.corrected
        known = len(self.number["conversation"].codes)
        code = {name: self.number[name].all(list(numbers.codes)) for name, numbers in later.number.items()}
        conversations = code.get("conversation", np.zeros(0, dtype=np.int64))
        openings = self.openings.join(later.openings, conversations, code.get("worker", conversations), known)
        for conversation, opening in later.opening_of.items():
            mapped = int(conversations[conversation])
            self.opening_of.setdefault(mapped, NOBODY if opening == NOBODY else int(openings[opening]))
        self.turns.join(later.turns, conversations)
        for what, parts in later.parts.items():
            for part in parts:
                for column, number in _NUMBERED.items():
                    if column in part:
                        part[column] = np.append(code[number], NOBODY)[part[column]]  # NOBODY is the last place
                if what == "comparisons":
                    part["opening"] = np.array([self.opening_of[one] for one in part["conversation"].tolist()])
                else:
                    part["comparison"] = part["comparison"] + self.kept
                self.parts[what].append(part)
        for model in {**self.scores, **later.scores}:
            for one in (self, later):  # a model whose first score came in between
                if model not in one.scores:
                    one.scores[model] = [(0, np.full(one.kept, np.nan), np.full(one.kept, np.nan))]
            self.scores[model] += later.scores[model]
        self.kept += later.kept

    def rows(self) -> Rows:
        """All columns."""
        return Rows(
            judgments=Judgments.of(self._joined("judgments", Judgments)),
            comparisons=Comparisons.of(self._joined("comparisons", Comparisons)),
            openings=self.openings,
            turns=self.turns,
            workers=[str(id) for id in self.number["worker"].codes],
            states=self.states,
            void_reasons=self.void_reasons,
            corrected=self.corrected,
            snapshots=[str(id) for id in self.number["snapshot"].codes],
            studies=[str(id) for id in self.number["study"].codes],
            scores={model: self._scores(parts) for model, parts in self.scores.items()},
        )

    def _joined(self, what: str, kind: type[Judgments] | type[Comparisons]) -> dict[str, Any]:
        parts = self.parts.pop(what, [])
        names = list(kind.__dataclass_fields__)
        return {name: np.concatenate([part.pop(name) for part in parts]) if parts else np.zeros(0) for name in names}

    def _scores(self, parts: list[tuple[int, Floats, Floats]]) -> Scores:
        return Scores(*(np.concatenate([part[side] for part in parts]) for side in (1, 2)))


_NUMBERED = {
    **{"conversation": "conversation", "author": "worker", "worker": "worker", "study": "study"},
    **{"snapshot_a": "snapshot", "snapshot_b": "snapshot"},
}
"""Columns of codes, and whose codes they are."""
_OF_COMPARISON = (
    *("conversation", "author", "study", "mode", "tranche", "length_a", "length_b", "are_identical", "first_done"),
    "pair",
)


def _transposed(kind: Any, rows: Sequence[tuple[Any, ...]]) -> Any:
    """Rows as one of a kind whose fields are whole columns."""
    return kind(*zip(*rows, strict=True))


def _floats(column: Any) -> Floats:
    """A column of numbers and None, which becomes NaN."""
    return np.array(column, dtype=np.float64)


def _since(begun: Floats, decided: Floats, is_imported: Flags) -> Floats:
    seconds = decided - begun
    with np.errstate(invalid="ignore"):
        return np.where(is_imported | ~(seconds > 0), np.nan, seconds)
