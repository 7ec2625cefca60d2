"""Nouns to rows and back. Knows the tables and the schema, and runs no statement but the two that load by id."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, RowMapping, Select, Table, bindparam, func, select

from prefloop.errors import NotFoundError
from prefloop.schema import (
    Comparison,
    Conversation,
    EvalResult,
    Interval,
    Judgment,
    Message,
    Noun,
    Response,
    Round,
    Snapshot,
    SnapshotShare,
    Study,
    TreeMessage,
    Worker,
)
from prefloop.store import tables

T = TypeVar("T")
IN_CHUNK = 500
"""Values in one IN (...); SQLite's default limit on parameters is well above."""


def row_of(noun: Noun, **extra: Any) -> dict[str, Any]:
    """The columns of a flat noun, and `extra` ones."""
    return {**noun.model_dump(), **extra}


def comparison_row(comparison: Comparison, overlap_draw: float, import_digest: str | None = None) -> dict[str, Any]:
    """A comparison's own columns; its responses are rows of their own."""
    return {
        **comparison.model_dump(exclude={"response_a", "response_b"}),
        "response_a_id": comparison.response_a.id,
        "response_b_id": comparison.response_b.id,
        "overlap_draw": overlap_draw,
        "import_digest": import_digest,
    }


def eval_result_row(result: EvalResult) -> dict[str, Any]:
    """An evaluation's number with its interval in columns."""
    return {**result.model_dump(exclude={"value"}), **result.value.model_dump()}


def worker_from(row: RowMapping) -> Worker:
    return Worker(**row)


def snapshot_from(row: RowMapping) -> Snapshot:
    return Snapshot(**row)


def judgment_from(row: RowMapping) -> Judgment:
    return Judgment(**row)


def response_from(row: RowMapping) -> Response:
    return Response(**row)


def _known(row: RowMapping, noun: type[Noun]) -> dict[str, Any]:
    """The columns that the noun has; the rest is the store's own."""
    return {name: row[name] for name in noun.model_fields if name in row}


def conversation_from(row: RowMapping) -> Conversation:
    return Conversation(**_known(row, Conversation))


def tree_message_from(row: RowMapping) -> TreeMessage:
    return TreeMessage(**_known(row, TreeMessage))


def round_from(row: RowMapping) -> Round:
    return Round(**_known(row, Round))


def study_from(row: RowMapping, shares: Sequence[SnapshotShare]) -> Study:
    return Study(**_known(row, Study), snapshots=tuple(shares))


def comparison_from(row: RowMapping, response_a: Response, response_b: Response) -> Comparison:
    return Comparison(**_known(row, Comparison), response_a=response_a, response_b=response_b)


def eval_result_from(row: RowMapping) -> EvalResult:
    interval = Interval(**_known(row, Interval))
    own = {name: value for name, value in _known(row, EvalResult).items() if name != "value"}
    return EvalResult(**own, value=interval)


def chunks(items: Iterable[T], size: int = IN_CHUNK) -> Iterator[list[T]]:
    """Lists of at most `size` items, in order."""
    rest = iter(items)
    while chunk := list(islice(rest, size)):
        yield chunk


def one_row(connection: Connection, table: Table, id: str, what: str, lock: bool = False) -> RowMapping:
    """The row with an id; `lock` holds it until the end of the transaction (PostgreSQL; SQLite has one writer).

    Errors:
        NotFoundError: no such row.
    """
    row = connection.execute(_by_id(table, lock), {"id": id}).mappings().one_or_none()
    if row is None:
        raise NotFoundError(f"There is no {what} {id!r}; it may belong to another workspace.")
    return row


@cache
def _by_id(table: Table, lock: bool) -> Select[Any]:
    """Made once: the most frequent statement of all, and making one takes longer than running it."""
    statement = select(table).where(table.c.id == bindparam("id"))
    return statement.with_for_update() if lock else statement


def rows_by(connection: Connection, table: Table, column: Column[Any], values: Iterable[Any]) -> list[RowMapping]:
    """All rows whose `column` is one of `values`."""
    found: list[RowMapping] = []
    for chunk in chunks(dict.fromkeys(values)):
        found += connection.execute(select(table).where(column.in_(chunk))).mappings().all()
    return found


def load_comparisons(connection: Connection, rows: Sequence[RowMapping]) -> list[Comparison]:
    """Comparisons with their responses, in the order of their rows."""
    ids = [row[side] for row in rows for side in ("response_a_id", "response_b_id")]
    responses = {
        row["id"]: response_from(row) for row in rows_by(connection, tables.response, tables.response.c.id, ids)
    }
    return [comparison_from(row, responses[row["response_a_id"]], responses[row["response_b_id"]]) for row in rows]


def load_paths(connection: Connection, leaves: Sequence[RowMapping]) -> list[list[TreeMessage]]:
    """For each row with `conversation_id` and `context_message_id`: the messages from the root to there."""
    trees = rows_by(
        connection, tables.message, tables.message.c.conversation_id, [leaf["conversation_id"] for leaf in leaves]
    )
    nodes = {row["id"]: row for row in trees}
    return [[tree_message_from(row) for row in _path(nodes, leaf["context_message_id"])] for leaf in leaves]


def _path(nodes: dict[str, RowMapping], leaf: str) -> list[RowMapping]:
    path = []
    at: str | None = leaf
    while at is not None:
        path.append(nodes[at])
        at = nodes[at]["parent_id"]
    return path[::-1]


def as_messages(path: Iterable[TreeMessage]) -> tuple[Message, ...]:
    """What a model sees of a path."""
    return tuple(Message(role=node.role, text=node.text) for node in path)


def is_no_edit() -> ColumnElement[bool]:
    """True for a comparison that is not an edit of another one.

    Not IS NULL: SQLite would look that up in the unique index, take it for one row and go through all comparisons.
    """
    return func.coalesce(tables.comparison.c.edit_of, "") == ""


def matching(**wanted: tuple[ColumnElement[Any], Any]) -> list[ColumnElement[bool]]:
    """Conditions for those (column, value) whose value is not None."""
    return [column == value for column, value in wanted.values() if value is not None]


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a not-found sentence: the nearest known name, if there is any."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    return f"did you mean {near[0]!r}?" if near else "there is none yet."
