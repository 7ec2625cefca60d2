"""What workers did in a study, in counts that intervals are made from; their texts, and a search in all. Reads only.

Counting happens in the database, a page of workers at a time. Knows no statistics and no pages.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import case, func, select

from prefloop.schema import GRADES, Noun
from prefloop.store import tables
from prefloop.store.columns import seconds_since_1970
from prefloop.store.database import Database
from prefloop.store.rows import one_row

MOST_FOUND = 50
_LONGEST_DECISION_SECONDS = 600.0


class WorkerFigures(Noun):
    """One worker in one study. `seconds` counts decisions of at most ten minutes: their number, sum and squares."""

    worker_id: str
    pseudonym: str
    is_simulated: bool
    judgments: int
    clicked_a: int
    grades: tuple[int, ...]
    seconds: tuple[int, float, float]
    last_at: datetime


class FoundMessage(Noun):
    """A user's or assistant's turn in a list."""

    id: str
    conversation_id: str
    worker_id: str | None
    pseudonym: str | None
    role: str
    text: str
    created_at: datetime


class Workforce(Database):
    """The part of the store that shows who does what."""

    def worker_figures(
        self, study_id: str, worker_id: str | None = None, offset: int = 0, limit: int = 50
    ) -> list[WorkerFigures]:
        """Workers of a study by number of judgments, the most first; one of them where `worker_id` is given.

        A corrected judgment counts once, with its first grade.
        """
        judgment, comparison, worker = tables.judgment, tables.comparison, tables.worker
        spent = seconds_since_1970(judgment.c.decided_at) - seconds_since_1970(judgment.c.both_done_at)
        is_timed = (spent >= 0.0) & (spent <= _LONGEST_DECISION_SECONDS)
        statement = (
            select(
                *(worker.c.id, worker.c.pseudonym, worker.c.is_simulated, func.count().label("n")),
                func.sum(case((judgment.c.clicked == "a", 1), else_=0)),
                func.max(judgment.c.decided_at),
                *(func.sum(case((judgment.c.grade == grade, 1), else_=0)) for grade in range(1, GRADES + 1)),
                *(func.sum(case((is_timed, value), else_=0.0)) for value in (1, spent, spent * spent)),
            )
            .join(judgment, judgment.c.worker_id == worker.c.id)
            .join(comparison, comparison.c.id == judgment.c.comparison_id)
            .where(comparison.c.study_id == study_id, judgment.c.revises.is_(None))
            .group_by(worker.c.id, worker.c.pseudonym, worker.c.is_simulated)
            .order_by(func.count().desc(), worker.c.id)
            .offset(offset)
            .limit(limit)
        )
        if worker_id is not None:
            statement = statement.where(worker.c.id == worker_id)
        with self._read() as connection:
            one_row(connection, tables.study, study_id, "study")
            rows = connection.execute(statement).all()
        return [
            WorkerFigures(
                worker_id=row[0],
                pseudonym=row[1],
                is_simulated=row[2],
                judgments=row[3],
                clicked_a=int(row[4]),
                last_at=row[5],
                grades=tuple(int(count) for count in row[6:14]),
                seconds=(int(row[14]), float(row[15]), float(row[16])),
            )
            for row in rows
        ]

    def found_messages(
        self,
        study_id: str,
        words: str = "",
        worker_id: str | None = None,
        role: str | None = None,
        before: str | None = None,
        limit: int = MOST_FOUND,
    ) -> list[FoundMessage]:
        """The newest turns of a study that hold `words` (upper and lower case are the same), older than `before`."""
        message, conversation, worker = tables.message, tables.conversation, tables.worker
        statement = (
            select(
                *(message.c.id, message.c.conversation_id, conversation.c.worker_id, worker.c.pseudonym),
                *(message.c.role, message.c.text, message.c.created_at),
            )
            .join(conversation, conversation.c.id == message.c.conversation_id)
            .outerjoin(worker, worker.c.id == conversation.c.worker_id)
            .where(conversation.c.study_id == study_id)
            .order_by(message.c.id.desc())
            .limit(limit)
        )
        if words.strip():
            statement = statement.where(message.c.text.icontains(words.strip(), autoescape=True))
        for column, value in ((conversation.c.worker_id, worker_id), (message.c.role, role)):
            if value is not None:
                statement = statement.where(column == value)
        if before is not None:
            statement = statement.where(message.c.id < before)
        with self._read() as connection:
            one_row(connection, tables.study, study_id, "study")
            return [FoundMessage(**row) for row in connection.execute(statement).mappings()]
