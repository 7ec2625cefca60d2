"""Comparisons and their responses, from the first token to done or void. Knows nothing of who generates."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, bindparam, select, update

from prefloop.errors import FullError, NotFoundError, StateError
from prefloop.schema import Comparison, ComparisonState, FinishReason, Response, ResponseState, now
from prefloop.store import tables, turn_tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.places import leave_place, longest_held, take_place
from prefloop.store.rows import comparison_row, load_comparisons, one_row, response_from, row_of
from prefloop.store.views import Answer, TimeCredit

PLACE_SECONDS = 3600.0
"""How long an open comparison keeps its place where others wait for one."""
LONGEST_CREDIT_SECONDS = 600.0
"""Most time that is credited for one void pair: a server that was down over night was not waited for."""
ABANDONED = "abandoned: it waited too long for its judgment, and another worker needed the place"
UNFINISHED = (ResponseState.PENDING.value, ResponseState.STREAMING.value)


class Comparisons(Database):
    """The part of the store that keeps what was shown."""

    def add_comparison(self, comparison: Comparison, place_seconds: float = PLACE_SECONDS) -> Comparison:
        """Keeps a new comparison together with its two responses.

        Where its study is full, a pair that has waited for its judgment for `place_seconds` makes room and is void.

        Errors:
            FullError: the study has all the comparisons of its target.
            NotFoundError: its conversation or context message does not exist.
            StateError: the conversation has ended, the context is not a user turn of it, or this turn of the
                conversation has a comparison already that is not void.
        """

        def work(unit: Unit) -> Comparison:
            add_comparison(unit, comparison, place_seconds)
            return comparison

        return self._write(work)

    def comparison(self, id: str) -> Comparison:
        """The comparison with an id, or NotFoundError."""
        with self._read() as connection:
            return load_comparisons(connection, [one_row(connection, tables.comparison, id, "comparison")])[0]

    def comparisons_of(self, conversation_id: str) -> list[Comparison]:
        """A conversation's comparisons, void ones too, by turn and then by age."""
        table = tables.comparison
        statement = select(table).where(table.c.conversation_id == conversation_id).order_by(table.c.turn, table.c.id)
        with self._read() as connection:
            return load_comparisons(connection, connection.execute(statement).mappings().all())

    def start_response(self, id: str) -> None:
        """A response begins to stream."""

        def work(unit: Unit) -> None:
            row = one_row(unit.connection, tables.response, id, "response", lock=True)
            if row["state"] != ResponseState.PENDING:
                raise StateError(f"Response {id} is {row['state']} and cannot start; ask for a new comparison.")
            _update_responses(unit, [id], state=ResponseState.STREAMING.value)
            unit.log("store", "response.started", id)

        self._write(work)

    def finish_response(
        self,
        id: str,
        text: str,
        tokens: int | None,
        finish_reason: FinishReason | None,
        first_token_at: datetime | None,
        done_at: datetime | None = None,
    ) -> Response:
        """A response is complete; see `finish_responses`."""
        answer = Answer(id, text, tokens, finish_reason, first_token_at, done_at or now())
        return self.finish_responses([answer])[0]

    def finish_responses(self, answers: Sequence[Answer]) -> list[Response]:
        """Responses are complete, all of them or none: both of a pair in one transaction.

        Errors:
            StateError: one is done, failed or void already.
            DataError: a text that no database can hold.
        """
        for answer in answers:
            checked_text(answer.text, "The response")

        def work(unit: Unit) -> list[Response]:
            return _finish(unit, answers)

        return self._write(work)

    def fail_response(self, id: str, error: str) -> None:
        """A response failed: it is kept with the error and its comparison is void.

        Failing a response that is void or failed already changes nothing.
        """
        checked_text(error, "The error")

        def work(unit: Unit) -> None:
            comparison = _comparison_of(unit.connection, id)
            state = one_row(unit.connection, tables.response, id, "response", lock=True)["state"]
            if state in (ResponseState.VOID, ResponseState.ERROR):
                return
            if comparison["state"] == ComparisonState.JUDGED:
                raise StateError(f"Comparison {comparison['id']} is judged, so response {id} cannot fail any more.")
            _update_responses(
                unit, [id], state=ResponseState.ERROR.value, finish_reason="error", error=error, done_at=now()
            )
            unit.log("store", "response.failed", id, error=error)
            _void(unit, comparison, f"a response failed: {error}", is_our_fault=True)

        self._write(work)

    def void_comparison(self, id: str, reason: str, is_our_fault: bool = False) -> None:
        """Takes an open comparison out of use; a void one keeps its first reason. StateError once it is judged.

        Where it is our fault the worker's time is credited.
        """
        checked_text(reason, "The reason")

        def work(unit: Unit) -> None:
            row = one_row(unit.connection, tables.comparison, id, "comparison", lock=True)
            if row["state"] == ComparisonState.JUDGED:
                raise StateError(f"Comparison {id} is judged and cannot become void; revise the judgment instead.")
            if row["state"] == ComparisonState.OPEN:
                _void(unit, row, reason, is_our_fault)

        self._write(work)

    def void_unfinished(self, reason: str) -> int:
        """Voids every open comparison with an unfinished response (a server starts anew); how many there were."""
        table, response = tables.comparison, tables.response

        def work(unit: Unit) -> int:
            unfinished = select(response.c.id).where(response.c.state.in_(UNFINISHED))
            rows = (
                unit.connection.execute(
                    select(table)
                    .where(
                        table.c.state == ComparisonState.OPEN,
                        table.c.response_a_id.in_(unfinished) | table.c.response_b_id.in_(unfinished),
                    )
                    .order_by(table.c.id)
                    .with_for_update()
                )
                .mappings()
                .all()
            )
            for row in rows:
                _void(unit, row, reason, is_our_fault=True)
            return len(rows)

        return self._write(work)

    def void_open(self, study_id: str, reason: str) -> int:
        """Voids every open comparison of a study whose workers will not come back; how many there were."""
        table = tables.comparison

        def work(unit: Unit) -> int:
            opened = select(table).where(table.c.study_id == study_id, table.c.state == ComparisonState.OPEN)
            rows = unit.connection.execute(opened.order_by(table.c.id).with_for_update()).mappings().all()
            for row in rows:
                _void(unit, row, reason)
            return len(rows)

        return self._write(work)

    def time_credits(self, study_id: str) -> list[TimeCredit]:
        """Time credited to workers of a study for pairs that broke, oldest first."""
        table = turn_tables.time_credit
        statement = select(table).where(table.c.study_id == study_id).order_by(table.c.comparison_id)
        with self._read() as connection:
            return [TimeCredit(**row) for row in connection.execute(statement).mappings()]


def overlap_draw(comparison_id: str) -> float:
    """A fixed number in [0, 1) for a comparison: below a study's `overlap`, a second worker judges it too."""
    return int.from_bytes(hashlib.sha256(comparison_id.encode()).digest()[:6], "big") / 2**48


def add_comparison(
    unit: Unit, comparison: Comparison, place_seconds: float = PLACE_SECONDS, conversation: RowMapping | None = None
) -> None:
    """`Comparisons.add_comparison` as a part of a larger unit.

    Args:
        conversation: its locked row, where the same unit has just written the context into it.
    """
    connection = unit.connection
    if conversation is None:
        conversation = one_row(connection, tables.conversation, comparison.conversation_id, "conversation", lock=True)
        context = one_row(connection, tables.message, comparison.context_message_id, "message")
        if conversation["ended_at"] is not None:
            raise StateError(f"Conversation {conversation['id']} has ended; begin a new one.")
        if context["conversation_id"] != conversation["id"] or context["role"] != "user":
            raise StateError(
                f"Message {context['id']} is not a user turn of conversation {conversation['id']}; "
                "compare answers to one that is."
            )
    table = tables.comparison
    live = connection.scalar(
        select(table.c.id).where(
            table.c.conversation_id == conversation["id"],
            table.c.turn == comparison.turn,
            table.c.state != ComparisonState.VOID,
            table.c.import_digest.is_(None),
        )
    )
    if live is not None:
        raise StateError(
            f"Turn {comparison.turn} of conversation {conversation['id']} has comparison {live} already; "
            "judge or void that one."
        )
    insert_comparison(unit, comparison)
    if comparison.study_id is not None:
        _take_place(unit, comparison.study_id, comparison.id, place_seconds)
    unit.log(
        comparison.worker_id or "store",
        "comparison.added",
        comparison.id,
        conversation_id=comparison.conversation_id,
        turn=comparison.turn,
        snapshots=[comparison.response_a.snapshot_id, comparison.response_b.snapshot_id],
    )


def insert_comparison(unit: Unit, comparison: Comparison) -> None:
    """The rows of a comparison and its responses."""
    for response in (comparison.response_a, comparison.response_b):
        checked_text(response.text, "A response")
    unit.insert(tables.response, row_of(comparison.response_a), row_of(comparison.response_b))
    unit.insert(tables.comparison, comparison_row(comparison, overlap_draw(comparison.id)))


def _take_place(unit: Unit, study_id: str, comparison_id: str, place_seconds: float) -> None:
    if take_place(unit, study_id, comparison_id):
        return
    stale = longest_held(unit.connection, study_id, now() - timedelta(seconds=place_seconds))
    if stale is not None:
        row = one_row(unit.connection, tables.comparison, stale, "comparison", lock=True)
        if row["state"] == ComparisonState.OPEN:
            _void(unit, row, ABANDONED)
    if stale is None or not take_place(unit, study_id, comparison_id):
        raise FullError(f"Study {study_id} has all the comparisons of its target; it takes no more.")


def _finish(unit: Unit, answers: Sequence[Answer]) -> list[Response]:
    table = tables.response
    locked = (
        select(table).where(table.c.id.in_([answer.id for answer in answers])).order_by(table.c.id).with_for_update()
    )
    rows = {row["id"]: row for row in unit.connection.execute(locked).mappings()}
    states = {id: row["state"] for id, row in rows.items()}
    finished = []
    for answer in answers:
        if answer.id not in rows:
            raise NotFoundError(f"There is no response {answer.id!r}; it may belong to another workspace.")
        row, state = rows[answer.id], states[answer.id]
        if state not in UNFINISHED:
            raise StateError(f"Response {answer.id} is {state} and cannot finish; ask for a new comparison.")
        states[answer.id] = ResponseState.DONE.value
        values = {**answer._asdict(), "state": ResponseState.DONE.value}
        finished.append(Response(**{**response_from(row).model_dump(), **values}))
        unit.log("store", "response.done", answer.id, tokens=answer.tokens, finish_reason=answer.finish_reason)
    if answers:
        unit.connection.execute(_FINISHED, [_finished_row(answer) for answer in answers])
    return finished


_FINISHED = (
    update(tables.response)
    .where(tables.response.c.id == bindparam("response_id"))
    .values(
        state=ResponseState.DONE.value,
        **{name: bindparam(f"new_{name}", type_=tables.response.c[name].type) for name in Answer._fields[1:]},
    )
)


def _finished_row(answer: Answer) -> dict[str, Any]:
    values = {f"new_{name}": value for name, value in answer._asdict().items() if name != "id"}
    return {"response_id": answer.id, **values}


def _comparison_of(connection: Connection, response_id: str) -> RowMapping:
    """The comparison of a response, locked: comparison first, then response, everywhere in the same order."""
    table = tables.comparison
    row = (
        connection.execute(
            select(table)
            .where((table.c.response_a_id == response_id) | (table.c.response_b_id == response_id))
            .with_for_update()
        )
        .mappings()
        .one_or_none()
    )
    if row is None:
        raise NotFoundError(f"There is no response {response_id!r}; it may belong to another workspace.")
    return row


def _void(unit: Unit, comparison: RowMapping, reason: str, is_our_fault: bool = False) -> None:
    sides = [comparison["response_a_id"], comparison["response_b_id"]]
    failed = tables.response.c.state == ResponseState.ERROR
    unit.connection.execute(
        update(tables.response).where(tables.response.c.id.in_(sides), ~failed).values(state=ResponseState.VOID.value)
    )
    unit.connection.execute(
        update(tables.comparison)
        .where(tables.comparison.c.id == comparison["id"])
        .values(state=ComparisonState.VOID.value, void_reason=reason)
    )
    leave_place(unit.connection, comparison["id"])
    if is_our_fault and comparison["worker_id"] is not None:
        _credit(unit, comparison, reason)
    unit.log("store", "comparison.void", comparison["id"], reason=reason)


def _credit(unit: Unit, comparison: RowMapping, reason: str) -> None:
    at = now()
    credit = TimeCredit(
        comparison_id=comparison["id"],
        worker_id=comparison["worker_id"],
        study_id=comparison["study_id"],
        seconds=min((at - comparison["created_at"]).total_seconds(), LONGEST_CREDIT_SECONDS),
        reason=reason,
        credited_at=at,
    )
    unit.insert(turn_tables.time_credit, row_of(credit))


def _update_responses(unit: Unit, ids: Iterable[str], **values: object) -> None:
    unit.connection.execute(update(tables.response).where(tables.response.c.id.in_(list(ids))).values(**values))
