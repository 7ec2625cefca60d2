"""Writing whole records that an own file brought, with the ids that they have. Parses no file.

What is there already stays untouched. Imported pairs are known by their digests: where the store has the same tree
under other ids, a record's path is joined to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Table, select
from sqlalchemy.exc import IntegrityError

from prefloop.errors import DataError, StateError
from prefloop.schema import Message, Snapshot, Study, TreeMessage, Worker
from prefloop.store import study_tables, tables
from prefloop.store.comparisons import overlap_draw
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.imports import DUPLICATE, IMPORT_CHUNK, path_digests
from prefloop.store.people import insert_worker
from prefloop.store.rows import chunks, comparison_row, row_of
from prefloop.store.studies import insert_snapshot, insert_study
from prefloop.store.views import ComparisonRecord, ImportReport

StoreRecord = Snapshot | Study | Worker | ComparisonRecord


class Records(Database):
    """The part of the store that takes back what it once exported in full."""

    def import_records(self, read: Callable[[], Iterable[StoreRecord]], origin: str) -> ImportReport:
        """Keeps all records that `read()` gives (it may be called again after a lost race), or nothing.

        A comparison that is there already counts as a duplicate.

        Errors:
            DataError: a record refers to something that neither the file nor the store holds.
        """

        def work(unit: Unit) -> ImportReport:
            writer = _RecordWriter(unit)
            counts = Counter(kind for chunk in chunks(read(), IMPORT_CHUNK) for kind in writer.insert(chunk))
            skipped = {DUPLICATE: counts[DUPLICATE]} if counts[DUPLICATE] else {}
            report = ImportReport(imported=counts["comparison"], skipped=skipped)
            unit.log("import", "file.imported", origin, **report.model_dump())
            return report

        try:
            return self._write(work)
        except StateError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            cause = str(error.__cause__.orig).strip().splitlines()[0]
            raise DataError(
                f"{origin} does not hold together ({cause}), so nothing of it was imported; export it anew, whole."
            ) from error


class _RecordWriter:
    """Inserts records, a chunk at a time, remembering under which ids the store has what the file calls otherwise."""

    def __init__(self, unit: Unit) -> None:
        self._unit = unit
        self._alias: dict[str, str] = {}
        self._known: dict[str, str] = {}  # ids and digests that the store has -> the id there
        self._rows: dict[str, list[dict[str, Any]]] = {}

    def insert(self, records: list[StoreRecord]) -> list[str]:
        """Inserts what is new; says for each record what it was, or that it was a duplicate comparison."""
        comparisons = [record for record in records if isinstance(record, ComparisonRecord)]
        kinds = [self._noun(record) for record in records if not isinstance(record, ComparisonRecord)]
        self._look_up(comparisons)
        kinds += [self._comparison(record) for record in comparisons]
        for table in (
            tables.conversation,
            tables.response,
            tables.message,
            tables.comparison,
            study_tables.import_text,
            tables.judgment,
            tables.continuation,
            study_tables.task_answers,
        ):
            self._unit.insert(table, *self._rows.pop(table.name, ()))
        return kinds

    def _noun(self, record: Snapshot | Study | Worker) -> str:
        table = {Snapshot: tables.snapshot, Study: tables.study, Worker: tables.worker}[type(record)]
        if self._unit.connection.scalar(select(table.c.id).where(table.c.id == record.id)) is None:
            if isinstance(record, Snapshot):
                self._snapshot(record)
            elif isinstance(record, Study):
                insert_study(self._unit, record)
            else:
                insert_worker(self._unit, record)
        return table.name

    def _snapshot(self, snapshot: Snapshot) -> None:
        """Another workspace's snapshot may bear a name that is taken here: then its id goes behind the name."""
        table = tables.snapshot
        taken = self._unit.connection.scalar(select(table.c.id).where(table.c.name == snapshot.name))
        name = snapshot.name if taken is None else f"{snapshot.name} ({snapshot.id})"
        insert_snapshot(self._unit, snapshot.model_copy(update={"name": name}))

    def _look_up(self, records: list[ComparisonRecord]) -> None:
        """Learns which conversations, messages and comparisons of these records the store has."""
        conversations: set[str] = set()
        messages: set[str] = set()
        comparisons: set[str] = set()
        for record in records:
            comparisons.update(_names(record.comparison.id, record.import_digest))
            conversations.update(_names(record.conversation.conversation.id, record.conversation.import_digest))
            for node, digest in _path_with_digests(record):
                messages.update(_names(node.id, digest))
            if record.continuation is not None:
                messages.add(record.continuation.id)
        self._look_up_names(tables.comparison, comparisons)
        self._look_up_names(tables.conversation, conversations)
        self._look_up_names(tables.message, messages)

    def _look_up_names(self, table: Table, names: set[str]) -> None:
        for chunk in chunks(sorted(names)):
            statement = select(table.c.id, table.c.import_digest).where(
                table.c.id.in_(chunk) | table.c.import_digest.in_(chunk)
            )
            for id, digest in self._unit.connection.execute(statement):
                self._know(id, digest)

    def _know(self, id: str, digest: str | None) -> None:
        self._known.update(dict.fromkeys(_names(id, digest), id))

    def _add(self, table: Table, row: dict[str, Any]) -> None:
        self._rows.setdefault(table.name, []).append(row)

    def _comparison(self, record: ComparisonRecord) -> str:
        comparison = record.comparison
        if any(name in self._known for name in _names(comparison.id, record.import_digest)):
            return DUPLICATE
        self._know(comparison.id, record.import_digest)
        conversation_id = self._conversation(record)
        for response in (comparison.response_a, comparison.response_b):
            checked_text(response.text, f"Response {response.id}")
            self._add(tables.response, row_of(response))
        self._path(record, conversation_id)
        row = comparison_row(comparison, overlap_draw(comparison.id), record.import_digest)
        context = self._alias.get(comparison.context_message_id, comparison.context_message_id)
        self._add(tables.comparison, {**row, "conversation_id": conversation_id, "context_message_id": context})
        if record.import_texts is not None:
            text_a, text_b = record.import_texts
            self._add(study_tables.import_text, {"comparison_id": comparison.id, "text_a": text_a, "text_b": text_b})
        for judgment in record.judgments:
            self._add(tables.judgment, row_of(judgment))
        self._continuation(record)
        return tables.comparison.name

    def _conversation(self, record: ComparisonRecord) -> str:
        """The id under which the store has the record's conversation, added where it is new."""
        kept = record.conversation
        for name in _names(kept.conversation.id, kept.import_digest):
            if name in self._known:
                return self._known[name]
        self._know(kept.conversation.id, kept.import_digest)
        self._add(
            tables.conversation, row_of(kept.conversation, **kept.model_dump(exclude={"conversation", "answers"}))
        )
        for answers in kept.answers:
            self._add(study_tables.task_answers, row_of(answers))
        return kept.conversation.id

    def _path(self, record: ComparisonRecord, conversation_id: str) -> None:
        for node, digest in _path_with_digests(record):
            known = [self._known[name] for name in _names(node.id, digest) if name in self._known]
            if known:
                self._alias[node.id] = known[0]
                continue
            self._know(node.id, digest)
            parent = self._alias.get(node.parent_id or "", node.parent_id)
            row = _message_row(node, digest)
            self._add(tables.message, {**row, "conversation_id": conversation_id, "parent_id": parent})

    def _continuation(self, record: ComparisonRecord) -> None:
        turn, comparison = record.continuation, record.comparison
        if turn is None:
            return
        if turn.id not in self._known:
            self._know(turn.id, None)
            self._add(tables.message, _message_row(turn, None))
        side = "a" if turn.response_id == comparison.response_a.id else "b"
        self._add(tables.continuation, {"comparison_id": comparison.id, "side": side, "message_id": turn.id})


def _message_row(node: TreeMessage, digest: str | None) -> dict[str, Any]:
    checked_text(node.text, f"Message {node.id}")
    return row_of(node, import_digest=digest)


def _names(id: str, digest: str | None) -> tuple[str, ...]:
    return (id,) if digest is None else (id, digest)


def _path_with_digests(record: ComparisonRecord) -> list[tuple[TreeMessage, str | None]]:
    """The path, each message with its digest where the tree was imported."""
    digests: list[str | None] = [None] * len(record.path)
    if record.conversation.import_digest is not None:
        context = [Message(role=node.role, text=node.text) for node in record.path]
        digests = list(path_digests(record.comparison.mode, context)[1:])
    return list(zip(record.path, digests, strict=True))
