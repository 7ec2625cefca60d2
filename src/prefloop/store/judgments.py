"""Judgments, how conversations go on, and leases for second judgments. Knows nothing of pages or training.

A judgment is refused unless both responses are done and the comparison is not void; the check and the row are one
transaction, with the comparison locked. A correction is a new row that names the one it revises.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from sqlalchemy import Connection, RowMapping, bindparam, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from prefloop.errors import StateError
from prefloop.schema import Comparison, ComparisonState, Judgment, ResponseState, Side, TreeMessage, now
from prefloop.store import care_tables, tables
from prefloop.store.care import opt_outs
from prefloop.store.conversations import insert_message
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import judgment_from, load_comparisons, one_row, row_of, tree_message_from
from prefloop.store.views import Continuation

_RACES = 20

_LATER = tables.judgment.alias("later")
_UNREVISED = (
    select(tables.judgment.c.id)
    .outerjoin(_LATER, _LATER.c.revises == tables.judgment.c.id)
    .where(tables.judgment.c.comparison_id == bindparam("comparison_id"), _LATER.c.id.is_(None))
)
_LATEST = _UNREVISED.where(tables.judgment.c.worker_id == bindparam("worker_id"))
_LATEST_OF_NOBODY = _UNREVISED.where(tables.judgment.c.worker_id.is_(None))


class Judgments(Database):
    """The part of the store that keeps what people answered."""

    def add_judgment(self, judgment: Judgment, needs_lease: bool = False) -> Judgment:
        """Keeps a judgment. Returned means committed.

        Args:
            needs_lease: a second opinion, taken only from the worker for whom the comparison is kept: leases are
                unique in the database, so no comparison gets one judgment too many.

        Errors:
            NotFoundError: no such comparison or worker.
            StateError: the comparison is void, a response is not done, the worker has judged it already (then
                `revises` must name that judgment), `revises` names another one, or the lease that it needs is gone.
        """
        for tag in judgment.reason_tags:
            checked_text(tag, "A reason tag")
        checked_text(judgment.checked_source + "".join(mark.tag + mark.quote for mark in judgment.marks), "A judgment")

        def work(unit: Unit) -> Judgment:
            connection = unit.connection
            comparison = one_row(connection, tables.comparison, judgment.comparison_id, "comparison", lock=True)
            if judgment.worker_id is not None:
                one_row(connection, tables.worker, judgment.worker_id, "worker")
            _refuse_unless_complete(connection, comparison)
            _refuse_a_second(connection, judgment)
            if needs_lease and judgment.revises is None:
                _refuse_without_lease(connection, judgment)
            unit.insert(tables.judgment, row_of(judgment))
            if comparison["state"] == ComparisonState.OPEN:
                unit.connection.execute(
                    update(tables.comparison)
                    .where(tables.comparison.c.id == comparison["id"])
                    .values(state=ComparisonState.JUDGED.value)
                )
            unit.connection.execute(
                delete(tables.lease).where(
                    tables.lease.c.comparison_id == comparison["id"], tables.lease.c.worker_id == judgment.worker_id
                )
            )
            unit.log(
                judgment.worker_id or "store",
                "judgment.added",
                judgment.id,
                comparison_id=judgment.comparison_id,
                grade=judgment.grade,
                clicked=judgment.clicked,
                preferred=judgment.preferred,
                revises=judgment.revises,
            )
            return judgment

        return self._write(work)

    def judgments(self, comparison_id: str) -> list[Judgment]:
        """All judgments on a comparison, revised ones too, oldest first."""
        table = tables.judgment
        statement = select(table).where(table.c.comparison_id == comparison_id).order_by(table.c.id)
        with self._read() as connection:
            return [judgment_from(row) for row in connection.execute(statement).mappings()]

    def continue_with(self, comparison_id: str, side: Side) -> TreeMessage:
        """The conversation goes on with one side's reply, as an assistant turn below the context.

        Asked again for the same side it gives the same turn.

        Errors:
            StateError: the comparison is not judged, or the conversation went on with the other side.
        """

        return self._write(lambda unit: continue_with(unit, Continuation(comparison_id=comparison_id, side=side)))

    def lease_overlap(self, study_id: str, worker_id: str, seconds: float) -> Comparison | None:
        """A judged comparison of somebody else that still needs a second judgment, promised for `seconds`.

        Asked again while the promise holds, it gives the same comparison and begins the time anew. None where
        nothing is left. Two workers never hold the same comparison (unique in the database).
        """

        def work(unit: Unit) -> Comparison | None:
            connection, lease = unit.connection, tables.lease
            study = one_row(connection, tables.study, study_id, "study")
            one_row(connection, tables.worker, worker_id, "worker")
            begun = now()
            connection.execute(delete(lease).where(lease.c.study_id == study_id, lease.c.expires_at <= begun))
            held = connection.scalar(
                select(lease.c.comparison_id).where(lease.c.study_id == study_id, lease.c.worker_id == worker_id)
            )
            expires = begun + timedelta(seconds=seconds)
            if held is not None:
                connection.execute(update(lease).where(lease.c.comparison_id == held).values(expires_at=expires))
                return load_comparisons(connection, [one_row(connection, tables.comparison, held, "comparison")])[0]
            row = _next_for_overlap(connection, study_id, worker_id, study["overlap"], study["overlap_judges"])
            if row is None:
                return None
            values = {"comparison_id": row["id"], "study_id": study_id, "worker_id": worker_id, "expires_at": expires}
            unit.insert(lease, values)
            unit.log(worker_id, "lease.added", row["id"], seconds=seconds)
            return load_comparisons(connection, [row])[0]

        for _ in range(_RACES):
            try:
                return self._write(work)
            except StateError as error:
                if not isinstance(error.__cause__, IntegrityError):
                    raise  # only a lost race for the same row is worth another look
        return None

    def release_lease(self, comparison_id: str, worker_id: str) -> None:
        """Gives a leased comparison back; without a lease nothing changes."""
        lease = tables.lease

        def work(unit: Unit) -> None:
            gone = unit.connection.scalar(
                delete(lease)
                .where(lease.c.comparison_id == comparison_id, lease.c.worker_id == worker_id)
                .returning(lease.c.comparison_id)
            )
            if gone is not None:
                unit.log(worker_id, "lease.released", comparison_id)

        self._write(work)


def continue_with(unit: Unit, continuation: Continuation) -> TreeMessage:
    """`Judgments.continue_with` as a part of a larger unit."""
    connection, comparison_id, side = unit.connection, continuation.comparison_id, continuation.side
    row = one_row(connection, tables.comparison, comparison_id, "comparison", lock=True)
    settled = (
        connection.execute(select(tables.continuation).where(tables.continuation.c.comparison_id == comparison_id))
        .mappings()
        .one_or_none()
    )
    if settled is not None:
        if settled["side"] != side:
            raise StateError(
                f"The conversation went on with side {settled['side']!r} of comparison {comparison_id}; "
                "reload the page."
            )
        return tree_message_from(one_row(connection, tables.message, settled["message_id"], "message"))
    if row["state"] != ComparisonState.JUDGED:
        raise StateError(f"Comparison {comparison_id} is {row['state']}; judge it before going on.")
    response = one_row(connection, tables.response, row[f"response_{side}_id"], "response")
    message = TreeMessage(
        id=continuation.message_id,
        conversation_id=row["conversation_id"],
        parent_id=row["context_message_id"],
        role="assistant",
        text=response["text"],
        response_id=response["id"],
        created_at=continuation.created_at,
    )
    conversation = one_row(connection, tables.conversation, row["conversation_id"], "conversation")
    insert_message(unit, conversation, message)
    unit.insert(tables.continuation, {"comparison_id": comparison_id, "side": side, "message_id": message.id})
    unit.log(row["worker_id"] or "store", "comparison.continued", comparison_id, side=side)
    return message


def _refuse_unless_complete(connection: Connection, comparison: RowMapping) -> None:
    if comparison["state"] == ComparisonState.VOID:
        raise StateError(
            f"Comparison {comparison['id']} is void ({comparison['void_reason']}) and takes no judgment; "
            "ask for a new one."
        )
    sides = [comparison["response_a_id"], comparison["response_b_id"]]
    states: Iterable[str] = connection.scalars(
        select(tables.response.c.state).where(tables.response.c.id.in_(sides)).order_by(tables.response.c.id)
    ).all()
    if any(state != ResponseState.DONE for state in states):
        raise StateError(
            f"Comparison {comparison['id']} has responses in states {', '.join(states)} and takes a judgment when "
            "both are done; wait for them."
        )


def _refuse_a_second(connection: Connection, judgment: Judgment) -> None:
    """A worker's first judgment revises nothing; a later one names the unrevised one before it."""
    latest = connection.scalar(
        _LATEST if judgment.worker_id is not None else _LATEST_OF_NOBODY,
        {"comparison_id": judgment.comparison_id, "worker_id": judgment.worker_id},
    )
    if judgment.revises == latest:
        return
    if latest is None:
        raise StateError(
            f"Judgment {judgment.revises} is not one of this worker on comparison {judgment.comparison_id}; "
            "leave `revises` empty for a first judgment."
        )
    raise StateError(
        f"This worker has judged comparison {judgment.comparison_id} already; to correct it, revise judgment {latest}."
    )


def _refuse_without_lease(connection: Connection, judgment: Judgment) -> None:
    """A lease that has expired is good as long as nobody else has taken it: the work is done."""
    lease = tables.lease
    held = select(lease.c.worker_id).where(
        lease.c.comparison_id == judgment.comparison_id, lease.c.worker_id == judgment.worker_id
    )
    if connection.scalar(held) is None:
        raise StateError(
            f"Comparison {judgment.comparison_id} is not kept for this worker (any more) and takes no second judgment "
            "from it; ask for the next one."
        )


def _next_for_overlap(
    connection: Connection, study_id: str, worker_id: str, overlap: float, wanted_judges: int
) -> RowMapping | None:
    comparison, judgment, lease = tables.comparison, tables.judgment, tables.lease
    judges = (
        select(func.count(judgment.c.worker_id.distinct()))
        .where(judgment.c.comparison_id == comparison.c.id)
        .correlate(comparison)
        .scalar_subquery()
    )
    own = select(judgment.c.id).where(judgment.c.comparison_id == comparison.c.id, judgment.c.worker_id == worker_id)
    leased = select(lease.c.comparison_id).where(lease.c.comparison_id == comparison.c.id)
    refused = opt_outs(connection, worker_id, study_id)
    topic = care_tables.conversation_topic
    # What nobody gave a topic may be about any.
    welcome = comparison.c.conversation_id.in_(select(topic.c.conversation_id).where(topic.c.topic.not_in(refused)))
    statement = (
        select(comparison)
        .where(
            *([welcome] if refused else []),
            comparison.c.study_id == study_id,
            comparison.c.state == ComparisonState.JUDGED,
            comparison.c.overlap_draw < overlap,
            comparison.c.worker_id.is_distinct_from(worker_id),
            judges < wanted_judges,
            ~own.exists(),
            ~leased.exists(),
        )
        .order_by(comparison.c.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    return connection.execute(statement).mappings().one_or_none()
