"""The project's own JSON lines, with full provenance: every field of every row, so that a round trip is equal.

The first line names format and version. Workers, snapshots and studies stand before the first comparison that needs
them; a comparison's line holds its conversation, the path to it, responses, judgments and how it went on. A study's
own earlier choices of snapshots, scores and the event log stay behind.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prefloop.errors import DataError
from prefloop.schema import ComparisonState, ResponseState, Snapshot, Study, Worker
from prefloop.store import Store
from prefloop.store.formats.files import Row, field, json_rows
from prefloop.store.records import StoreRecord
from prefloop.store.views import ComparisonRecord

FORMAT, VERSION = "prefloop", 1
_KINDS: dict[str, type[StoreRecord]] = {
    "comparison": ComparisonRecord,
    "snapshot": Snapshot,
    "study": Study,
    "worker": Worker,
}


def read(path: Path) -> Iterator[StoreRecord]:
    """The records of a file.

    Errors:
        DataError: not a file of this format and version, an unknown kind, a field that is missing, unknown or of
            the wrong type, a comparison that contradicts itself.
    """
    rows = json_rows(path)
    first = next(rows, None)
    if first is None or (first.fields.get("format"), first.fields.get("version")) != (FORMAT, VERSION):
        raise DataError(
            f'{path} does not begin with {{"format": "{FORMAT}", "version": {VERSION}}}; '
            "name the format that it has, or install a newer prefloop."
        )
    for row in rows:
        yield _record(row)


def _record(row: Row) -> StoreRecord:
    name = field(row, "kind", str)
    if name not in _KINDS:
        raise DataError(f"{row.where} field 'kind' is {name!r} and must be one of {', '.join(_KINDS)}; mend it.")
    try:
        record = _KINDS[name].model_validate_json(json.dumps(field(row, "record", dict)), strict=True)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(["record", *(str(part) for part in fault["loc"])])
        raise DataError(f"{row.where} field {place!r}: {fault['msg']}; mend it, nothing of it was taken.") from None
    if isinstance(record, ComparisonRecord) and (contradiction := _contradiction(record)):
        raise DataError(f"{row.where} contradicts itself: {contradiction}; mend it, nothing of it was taken.")
    return record


def _contradiction(record: ComparisonRecord) -> str | None:
    comparison, path = record.comparison, record.path
    sides = (comparison.response_a, comparison.response_b)
    if not path or path[-1].id != comparison.context_message_id:
        return "the path does not end in 'context_message_id'"
    if [node.parent_id for node in path] != [None, *(node.id for node in path[:-1])]:
        return "the path's parents do not lead to its root"
    if any(node.conversation_id != record.conversation.conversation.id for node in path):
        return "the path is not in the conversation"
    if comparison.conversation_id != record.conversation.conversation.id:
        return "the comparison is not in the conversation"
    if bool(record.judgments) != (comparison.state == ComparisonState.JUDGED):
        return f"a comparison in state {comparison.state.value!r} with {len(record.judgments)} judgments"
    if record.judgments and any(side.state != ResponseState.DONE for side in sides):
        return "a judged comparison with a response that is not done"
    if any(judgment.comparison_id != comparison.id for judgment in record.judgments):
        return "a judgment of another comparison"
    if record.continuation is not None and record.continuation.response_id not in [side.id for side in sides]:
        return "it went on with another comparison's response"
    return None


def rows(store: Store, records: Iterable[ComparisonRecord]) -> Iterator[dict[str, Any]]:
    """The lines of a file: format, then each record after those that it refers to."""
    yield {"format": FORMAT, "version": VERSION}
    written: set[str] = set()
    for record in records:
        for name, id in _references(store, record):
            if id not in written:
                written.add(id)
                noun = {"snapshot": store.snapshot, "study": store.study, "worker": store.worker}[name](id)
                yield {"kind": name, "record": noun.model_dump(mode="json")}
        yield {"kind": "comparison", "record": record.model_dump(mode="json")}


def _references(store: Store, record: ComparisonRecord) -> Iterator[tuple[str, str]]:
    comparison, conversation = record.comparison, record.conversation.conversation
    for judge in (conversation.worker_id, comparison.worker_id, *(one.worker_id for one in record.judgments)):
        if judge is not None:
            yield "worker", judge
    studies = {id: None for id in (conversation.study_id, comparison.study_id) if id is not None}
    for id in studies:
        for share in store.study(id).snapshots:
            yield "snapshot", share.snapshot_id
        yield "study", id
    for side in (comparison.response_a, comparison.response_b):
        if side.snapshot_id is not None:
            yield "snapshot", side.snapshot_id
