"""Who has earned what in a study: time, tasks, credited time, bonuses, sums paid. Moves no money.

Time is what lies between a worker's own doings (a conversation begun, a pair asked for, a judgment given), a pause of
more than ten minutes counting as ten: nobody is paid for a night, and nobody loses a slow answer.
"""

from __future__ import annotations

from datetime import datetime
from itertools import groupby, pairwise
from typing import Literal

from pydantic import Field
from sqlalchemy import func, literal, select, union_all

from prefloop.errors import DataError, StateError
from prefloop.schema import Noun, new_id, now
from prefloop.store import tables, turn_tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.decision_tables import payment
from prefloop.store.rows import one_row, row_of

LONGEST_PAUSE_SECONDS = 600.0
MAX_MINOR_UNITS = 10_000_000


class Payment(Noun):
    """A bonus that is owed or a sum that was paid, in the currency's smallest unit. `key` is the caller's own."""

    id: str = Field(default_factory=new_id)
    key: str
    worker_id: str
    study_id: str
    kind: Literal["bonus", "paid"]
    minor_units: int
    reason: str
    by: str
    recorded_at: datetime = Field(default_factory=now)


class Earning(Noun):
    """One worker's line of the payment list; money in the currency's smallest unit."""

    worker_id: str
    pseudonym: str
    tasks: int
    judgments: int
    worked_seconds: float
    credited_seconds: float
    bonus_minor_units: int
    paid_minor_units: int


class Payments(Database):
    """The part of the store that knows what people have earned."""

    def add_payment(self, wanted: Payment) -> Payment:
        """Keeps a bonus or a sum paid; the same key again changes nothing and gives the kept one.

        Errors:
            DataError: no key, or a sum that is not from 1 to 10,000,000.
            StateError: the key was used for something else.
            NotFoundError: no such worker or study.
        """
        if not 1 <= wanted.minor_units <= MAX_MINOR_UNITS:
            raise DataError(f"The sum is {wanted.minor_units}; give one from 1 to {MAX_MINOR_UNITS} minor units.")
        if not wanted.key.strip():
            raise DataError("The payment has no key; give one that is its own, so that asking twice pays once.")
        checked_text(wanted.key + wanted.reason, "The payment")

        def work(unit: Unit) -> Payment:
            one_row(unit.connection, tables.worker, wanted.worker_id, "worker", lock=True)
            one_row(unit.connection, tables.study, wanted.study_id, "study")
            row = unit.connection.execute(select(payment).where(payment.c.key == wanted.key)).mappings().one_or_none()
            if row is not None:
                kept = Payment(**row)
                same = {"worker_id", "study_id", "kind", "minor_units"}
                if kept.model_dump(include=same) != wanted.model_dump(include=same):
                    raise StateError(f"The key {wanted.key!r} was used for another payment; give this one its own.")
                return kept
            unit.insert(payment, row_of(wanted))
            unit.log(wanted.by, f"payment.{wanted.kind}", wanted.worker_id, minor_units=wanted.minor_units)
            return wanted

        return self._write(work)

    def earnings(self, study_id: str) -> list[Earning]:
        """The payment list of a study: everybody who began a conversation or judged, by pseudonym."""
        conversation, comparison, judgment = tables.conversation, tables.comparison, tables.judgment
        doings = union_all(
            select(conversation.c.worker_id, conversation.c.created_at.label("at"), literal(0).label("judged")).where(
                conversation.c.study_id == study_id
            ),
            select(comparison.c.worker_id, comparison.c.created_at, literal(0)).where(
                comparison.c.study_id == study_id
            ),
            select(judgment.c.worker_id, judgment.c.decided_at, literal(1))
            .join(comparison, comparison.c.id == judgment.c.comparison_id)
            .where(comparison.c.study_id == study_id, judgment.c.revises.is_(None)),
        ).subquery()
        in_order = select(doings).where(doings.c.worker_id.is_not(None)).order_by(doings.c.worker_id, doings.c.at)
        done = (
            select(conversation.c.worker_id, func.count(conversation.c.id.distinct()))
            .join(comparison, comparison.c.conversation_id == conversation.c.id)
            .where(
                conversation.c.study_id == study_id,
                conversation.c.ended_at.is_not(None),
                comparison.c.state == "judged",
            )
            .group_by(conversation.c.worker_id)
        )
        credit = turn_tables.time_credit
        credited = (
            select(credit.c.worker_id, func.sum(credit.c.seconds))
            .where(credit.c.study_id == study_id)
            .group_by(credit.c.worker_id)
        )
        money = (
            select(payment.c.worker_id, payment.c.kind, func.sum(payment.c.minor_units))
            .where(payment.c.study_id == study_id)
            .group_by(payment.c.worker_id, payment.c.kind)
        )
        with self._read() as connection:
            one_row(connection, tables.study, study_id, "study")
            worked: dict[str, tuple[float, int]] = {}
            for worker_id, rows in groupby(connection.execute(in_order), key=lambda row: row.worker_id):
                times, judged = zip(*((row.at, row.judged) for row in rows), strict=True)
                gaps = [(after - before).total_seconds() for before, after in pairwise(times)]
                worked[worker_id] = (sum(min(gap, LONGEST_PAUSE_SECONDS) for gap in gaps), sum(judged))
            tasks = {str(worker): count for worker, count in connection.execute(done)}
            seconds = {worker: float(total) for worker, total in connection.execute(credited)}
            sums = {(worker, kind): int(total) for worker, kind, total in connection.execute(money)}
            people = {*worked, *seconds, *(worker for worker, _ in sums)}
            known = connection.execute(select(tables.worker.c.id, tables.worker.c.pseudonym))
            names = {str(row.id): str(row.pseudonym) for row in known}
        return [
            Earning(
                worker_id=id,
                pseudonym=names[id],
                tasks=tasks.get(id, 0),
                judgments=worked.get(id, (0.0, 0))[1],
                worked_seconds=worked.get(id, (0.0, 0))[0],
                credited_seconds=seconds.get(id, 0.0),
                bonus_minor_units=sums.get((id, "bonus"), 0),
                paid_minor_units=sums.get((id, "paid"), 0),
            )
            for id in sorted(people, key=lambda id: (names[id], id))
        ]
