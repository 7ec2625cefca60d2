"""Writing preference pairs that a file brought, as shared conversation trees. Parses no file.

Pairs with the same first user turn (in the same mode) become one tree, across files too, so that a cluster or a
split by conversation never puts the same opening on both sides. Rows are found again by digests: a pair that is
there already, in whichever tranche, counts as a duplicate.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from sqlalchemy import Table, select

from prefloop.schema import (
    ComparisonState,
    Conversation,
    Message,
    Mode,
    ResponseState,
    Side,
    Tranche,
    TreeMessage,
    new_id,
    now,
)
from prefloop.store import study_tables, tables
from prefloop.store.comparisons import overlap_draw
from prefloop.store.database import Database, Unit
from prefloop.store.rows import chunks, row_of
from prefloop.store.views import ImportReport

IMPORT_CHUNK = 1000
"""Pairs inserted by one round of statements."""
DUPLICATE = "duplicate"


class ImportedPair(NamedTuple):
    """One usable row of a file. `texts` are the file's own two texts where the turns alone do not give them back."""

    context: tuple[Message, ...]
    chosen: str
    rejected: str
    texts: tuple[str, str] | None = None


class Unusable(NamedTuple):
    """A row that parses and cannot be used."""

    reason: str


class Imports(Database):
    """The part of the store that takes files in, each in one transaction."""

    def import_pairs(
        self, read: Callable[[], Iterable[ImportedPair | Unusable]], origin: str, mode: Mode, tranche: Tranche
    ) -> ImportReport:
        """Keeps all usable pairs that `read()` gives (it may be called again after a lost race), or nothing.

        In red-team mode a person clicked the more harmful reply, so the chosen one is the other. On which side the
        chosen reply stands is decided by a hash, half and half.
        """

        def work(unit: Unit) -> ImportReport:
            skipped: Counter[str] = Counter()
            imported = 0
            for chunk in chunks(read(), IMPORT_CHUNK):
                pairs = [row for row in chunk if isinstance(row, ImportedPair)]
                skipped.update(row.reason for row in chunk if isinstance(row, Unusable))
                added = _PairChunk(unit, origin, mode, tranche).insert(pairs)
                imported += added
                skipped[DUPLICATE] += len(pairs) - added
            report = ImportReport(imported=imported, skipped={reason: n for reason, n in skipped.items() if n})
            unit.log("import", "file.imported", origin, mode=mode, tranche=tranche, **report.model_dump())
            return report

        return self._write(work)


class _PairChunk:
    """Turns pairs into rows of shared trees, looking up what is there already."""

    def __init__(self, unit: Unit, origin: str, mode: Mode, tranche: Tranche) -> None:
        self._unit, self._origin, self._mode, self._tranche = unit, origin, mode, tranche
        self._now = now()
        self._ids: dict[str, str] = {}  # digest -> id of conversations and messages
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def insert(self, pairs: list[ImportedPair]) -> int:
        """Inserts the new pairs; how many they were."""
        keyed = {digest_of(self._mode, pair): pair for pair in pairs}  # the first of equal pairs keeps its place
        present = set(self._existing(tables.comparison, keyed))
        new = {key: pair for key, pair in keyed.items() if key not in present}
        paths = {key: path_digests(self._mode, pair.context) for key, pair in new.items()}
        self._ids.update(self._existing(tables.conversation, (path[0] for path in paths.values())))
        self._ids.update(self._existing(tables.message, (digest for path in paths.values() for digest in path[1:])))
        for key, pair in new.items():
            self._add(key, pair, paths[key])
        for table in (
            tables.conversation,
            tables.message,
            tables.response,
            tables.comparison,
            study_tables.import_text,
            tables.judgment,
        ):
            self._unit.insert(table, *self._rows.get(table.name, ()))
        return len(new)

    def _existing(self, table: Table, digests: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for chunk in chunks(dict.fromkeys(digests)):
            statement = select(table.c.import_digest, table.c.id).where(table.c.import_digest.in_(chunk))
            found.update((digest, id) for digest, id in self._unit.connection.execute(statement))
        return found

    def _row(self, table: Table, **values: Any) -> None:
        self._rows.setdefault(table.name, []).append(values)

    def _add(self, key: str, pair: ImportedPair, path: list[str]) -> None:
        conversation_id = self._conversation(path[0])
        parent: str | None = None
        for digest, message in zip(path[1:], pair.context, strict=True):
            parent = self._message(digest, conversation_id, parent, message)
        side: Side = "a" if int(key[-1], 16) % 2 == 0 else "b"
        a, b = (pair.chosen, pair.rejected) if side == "a" else (pair.rejected, pair.chosen)
        responses = (self._response(a), self._response(b))
        comparison_id = new_id()
        self._row(
            tables.comparison,
            id=comparison_id,
            conversation_id=conversation_id,
            context_message_id=parent,
            turn=1 + sum(message.role == "assistant" for message in pair.context),
            response_a_id=responses[0],
            response_b_id=responses[1],
            mode=self._mode,
            tranche=self._tranche,
            study_id=None,
            worker_id=None,
            state=ComparisonState.JUDGED,
            void_reason=None,
            interface_version="",
            instructions_version="",
            created_at=self._now,
            overlap_draw=overlap_draw(comparison_id),
            import_digest=key,
        )
        if pair.texts is not None:
            texts = pair.texts if side == "a" else pair.texts[::-1]
            self._row(study_tables.import_text, comparison_id=comparison_id, text_a=texts[0], text_b=texts[1])
        self._judgment(comparison_id, side)

    def _judgment(self, comparison_id: str, preferred: Side) -> None:
        other: Side = "b" if preferred == "a" else "a"
        harmful = self._mode == Mode.RED_TEAM
        self._row(
            tables.judgment,
            id=new_id(),
            comparison_id=comparison_id,
            worker_id=None,
            question="more_harmful" if harmful else "more_helpful",
            grade=None,
            clicked=other if harmful else preferred,
            preferred=preferred,
            reason_tags=[],
            revises=None,
            interface_version="",
            instructions_version="",
            input_device="import",
            shown_at=None,
            first_token_at=None,
            both_done_at=None,
            decided_at=self._now,
        )

    def _response(self, text: str) -> str:
        id = new_id()
        self._row(
            tables.response,
            id=id,
            snapshot_id=None,
            text=text,
            state=ResponseState.DONE,
            sampling=None,
            seed=None,
            tokens=None,
            finish_reason=None,
            error=None,
            created_at=self._now,
            first_token_at=None,
            done_at=None,
        )
        return id

    def _conversation(self, digest: str) -> str:
        if digest not in self._ids:
            noun = Conversation(mode=self._mode, origin=self._origin, created_at=self._now)
            self._row(tables.conversation, **row_of(noun, ended_at=None, end_reason=None, import_digest=digest))
            self._ids[digest] = noun.id
        return self._ids[digest]

    def _message(self, digest: str, conversation_id: str, parent: str | None, message: Message) -> str:
        if digest not in self._ids:
            noun = TreeMessage(
                conversation_id=conversation_id,
                parent_id=parent,
                role=message.role,
                text=message.text,
                created_at=self._now,
            )
            self._row(tables.message, **row_of(noun, import_digest=digest))
            self._ids[digest] = noun.id
        return self._ids[digest]


def digest_of(mode: Mode, pair: ImportedPair) -> str:
    """Names a pair: mode, context and both replies, in order."""
    turns = [part for message in pair.context for part in (message.role, message.text)]
    return _digest("pair", mode, *turns, pair.chosen, pair.rejected)


def path_digests(mode: Mode, context: Iterable[Message]) -> list[str]:
    """The digest of the tree (everything up to the first user turn), then one for each message of the path."""
    opening: list[str] = []
    for message in context:
        opening += [message.role, message.text]
        if message.role == "user":
            break
    digests = [_digest("conversation", mode, *opening)]
    for message in context:
        digests.append(_digest(digests[-1], message.role, message.text))
    return digests


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps([str(part) for part in parts]).encode()).hexdigest()
