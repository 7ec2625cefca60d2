"""Reading for statistics: comparisons, judgments, turns and scores as plain tuples, many thousand at a time.

Building nouns costs a hundred times what a mean over them does, so this reader builds none: times are seconds since
1970, sides and states are the database's own words. The next batch is fetched in a thread while the caller works on
the one before; each is a short read transaction. Writes nothing, knows no statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Float, and_, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from prefloop.schema import Mode, Tranche
from prefloop.store import tables
from prefloop.store.database import Database
from prefloop.store.decisions import not_withdrawn
from prefloop.store.rows import is_no_edit, matching

BATCH = 20_000
"""Comparisons in one batch, and in one read transaction."""


class ComparisonColumns(NamedTuple):
    """One comparison; the ends of its replies are as the server saw them."""

    id: str
    conversation_id: str
    context_message_id: str
    turn: int
    mode: str
    tranche: str
    study_id: str | None
    author_id: str | None
    state: str
    void_reason: str | None
    is_imported: bool
    conversation_at: float
    created_at: float
    response_a: str
    response_b: str
    snapshot_a: str | None
    snapshot_b: str | None
    text_a: str
    text_b: str
    first_token_a: float | None
    first_token_b: float | None
    done_a: float | None
    done_b: float | None


class JudgmentColumns(NamedTuple):
    """One judgment, revised ones too."""

    id: str
    comparison_id: str
    worker_id: str | None
    grade: int | None
    clicked: str
    preferred: str
    revises: str | None
    input_device: str
    first_token_at: float | None
    both_done_at: float | None
    decided_at: float


class TurnColumns(NamedTuple):
    """One message of a conversation."""

    id: str
    parent_id: str | None
    role: str
    text: str
    created_at: float


class ScoreColumns(NamedTuple):
    """A comparison's scores by one preference model; None where a reply has none."""

    comparison_id: str
    score_a: float | None
    score_b: float | None


@dataclass(frozen=True)
class Batch:
    """Comparisons in order of creation with all that belongs to them. The rows have the fields of the classes above.

    `turns` are all messages of these comparisons' conversations, in no order.
    """

    comparisons: list[tuple[Any, ...]]
    judgments: list[tuple[Any, ...]]
    turns: list[tuple[Any, ...]]
    scores: dict[str, list[tuple[Any, ...]]] = field(default_factory=dict)


class seconds_since_1970(GenericFunction[float]):
    """A time column as a number, which the database makes sooner than Python parses a text.

    On SQLite it is good to a tenth of a millisecond.
    """

    type = Float()
    inherit_cache = True


@compiles(seconds_since_1970, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"((julianday({compiler.process(element.clauses, **options)}) - 2440587.5) * 86400.0)"


@compiles(seconds_since_1970, "postgresql")
def _on_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"CAST(EXTRACT(EPOCH FROM {compiler.process(element.clauses, **options)}) AS DOUBLE PRECISION)"


class Columns(Database):
    """The part of the store that statistics read."""

    def batches(
        self,
        mode: Mode | None = None,
        tranche: Tranche | None = None,
        study_id: str | None = None,
        batch: int = BATCH,
        *,
        after: str = "",
        until: str | None = None,
    ) -> Iterator[Batch]:
        """All comparisons, whatever their state, in order of id (which is order of creation).

        Edits are left out (nobody chose between two answers there), and everything by a worker who has withdrawn.

        Args:
            after, until: ids of comparisons; those between them, the second one too.
        """
        wanted = _wanted(mode, tranche, study_id)
        if until is not None:
            wanted.append(tables.comparison.c.id <= until)
        with self._read() as connection:
            models = list(connection.scalars(select(tables.score.c.preference_model_id).distinct()))
        with ThreadPoolExecutor(1) as ahead:
            coming = ahead.submit(self._batch, wanted, models, after, batch)
            while (found := coming.result()).comparisons:
                coming = ahead.submit(self._batch, wanted, models, found.comparisons[-1][0], batch)
                yield found

    def middle(
        self,
        mode: Mode | None = None,
        tranche: Tranche | None = None,
        study_id: str | None = None,
        batch: int = BATCH,
    ) -> str | None:
        """The comparison at which about half the batches end, so that two readers read the same batches as one.

        None: there are fewer than four batches, and a second reader would not be worth its start.
        """
        wanted, table = _wanted(mode, tranche, study_id), tables.comparison.c
        with self._read() as connection:
            count = connection.scalar(select(func.count()).select_from(tables.comparison).where(*wanted)) or 0
            if count < 4 * batch:
                return None
            ends = select(table.id).where(*wanted).order_by(table.id).offset(count // (2 * batch) * batch - 1).limit(1)
            return str(connection.scalar(ends))

    def _batch(self, wanted: list[ColumnElement[bool]], models: list[str], after: str, batch: int) -> Batch:
        table = tables.comparison
        with self._read() as connection:
            start = _comparisons().where(*wanted, table.c.id > after).order_by(table.c.id).limit(batch)
            comparisons = _tuples(connection, start)
            if not comparisons:
                return Batch([], [], [])
            here = and_(*wanted, table.c.id > after, table.c.id <= comparisons[-1][0])
            return Batch(
                comparisons,
                _tuples(connection, _judgments().where(here, not_withdrawn(tables.judgment.c.worker_id))),
                _tuples(connection, _turns(select(table.c.conversation_id).where(here))),
                {model: _tuples(connection, _scores(model).where(here)) for model in models},
            )


def _wanted(mode: Mode | None, tranche: Tranche | None, study_id: str | None) -> list[ColumnElement[bool]]:
    table = tables.comparison.c
    wanted = matching(mode=(table.mode, mode), tranche=(table.tranche, tranche), study_id=(table.study_id, study_id))
    return [*wanted, is_no_edit(), not_withdrawn(table.worker_id)]


def _tuples(connection: Connection, statement: Any) -> list[tuple[Any, ...]]:
    return list(map(tuple, connection.execute(statement)))


def _comparisons() -> Any:
    table, conversation = tables.comparison.c, tables.conversation.c
    a, b = tables.response.alias("a"), tables.response.alias("b")
    seconds = seconds_since_1970
    return (
        select(
            *(table.id, table.conversation_id, table.context_message_id, table.turn, table.mode, table.tranche),
            *(table.study_id, table.worker_id, table.state, table.void_reason, conversation.import_digest.is_not(None)),
            *(seconds(conversation.created_at), seconds(table.created_at), a.c.id, b.c.id),
            *(a.c.snapshot_id, b.c.snapshot_id, a.c.text, b.c.text),
            *(seconds(side.c[name]) for name in ("first_token_at", "done_at") for side in (a, b)),
        )
        .join(tables.conversation, conversation.id == table.conversation_id)
        .join(a, a.c.id == table.response_a_id)
        .join(b, b.c.id == table.response_b_id)
    )


def _judgments() -> Any:
    table = tables.judgment.c
    seconds = seconds_since_1970
    return select(
        *(table.id, table.comparison_id, table.worker_id, table.grade, table.clicked, table.preferred, table.revises),
        *(table.input_device, seconds(table.first_token_at), seconds(table.both_done_at), seconds(table.decided_at)),
    ).join(tables.comparison, tables.comparison.c.id == table.comparison_id)


def _turns(conversations: Any) -> Any:
    table = tables.message.c
    return select(table.id, table.parent_id, table.role, table.text, seconds_since_1970(table.created_at)).where(
        table.conversation_id.in_(conversations)
    )


def _scores(model: str) -> Any:
    table = tables.comparison.c
    a, b = tables.score.alias("a"), tables.score.alias("b")
    return (
        select(table.id, a.c.value, b.c.value)
        .select_from(tables.comparison)
        .outerjoin(a, and_(a.c.preference_model_id == model, a.c.response_id == table.response_a_id))
        .outerjoin(b, and_(b.c.preference_model_id == model, b.c.response_id == table.response_b_id))
    )
