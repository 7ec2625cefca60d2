"""Practice turns, and care for people who read harmful texts: topics, breaks, how they feel. Knows nothing of pages.

What somebody said about their feelings is kept without their id; it comes out as counts of a whole study alone, and
only once `FEWEST_PEOPLE` were asked.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field
from sqlalchemy import Connection, func, select

from prefloop.schema import Noun, new_id, now
from prefloop.store import care_tables, tables
from prefloop.store.database import Database, Unit
from prefloop.store.rows import is_no_edit, one_row, row_of

FEWEST_PEOPLE = 5
"""Below so many people what they said is not told, nor how many said it."""
LONGEST_READING_SECONDS = 300.0
"""Most time that one judgment counts as reading: somebody who was away read nothing."""
_LONGEST_SHIFT_SECONDS = 4 * 3600.0
BREAK_SECONDS = 600.0
"""A pause of this length between two judgments is a break."""


class PracticeAnswer(Noun):
    """A grade on a practice turn; without an item, that the practice was skipped."""

    id: str = Field(default_factory=new_id)
    worker_id: str
    study_id: str
    item: str = ""
    shown: dict[str, Any] = Field(default_factory=dict)
    grade: int | None = None
    is_right: bool | None = None
    answered_at: datetime = Field(default_factory=now)


class CareCounts(Noun):
    """A study's people as a whole. `feelings` counts the points given to each question (0: rather not say)."""

    workers: int
    exposure_minutes: float
    breaks_taken: int
    breaks_declined: int
    skipped: int
    opted_out: int | None = Field(description="workers who opted out of a topic; None while too few people work")
    asked: int = Field(description="how often somebody was asked how they feel")
    feelings: dict[str, dict[int, int]] | None = Field(description="None until enough people were asked")


class Care(Database):
    """The part of the store that looks after the workers."""

    def add_practice_answer(self, answer: PracticeAnswer) -> PracticeAnswer:
        """Keeps a grade on a practice turn, or that the practice was skipped."""

        def work(unit: Unit) -> PracticeAnswer:
            unit.insert(care_tables.practice_answer, row_of(answer))
            unit.log(answer.worker_id, "practice.answered", answer.study_id, item=answer.item, is_right=answer.is_right)
            return answer

        return self._write(work)

    def practice_answers(self, worker_id: str, study_id: str) -> list[PracticeAnswer]:
        """What a worker practised in a study, oldest first."""
        table = care_tables.practice_answer
        statement = select(table).where(table.c.worker_id == worker_id, table.c.study_id == study_id)
        with self._read() as connection:
            return [PracticeAnswer(**row) for row in connection.execute(statement.order_by(table.c.id)).mappings()]

    def set_opt_outs(self, worker_id: str, study_id: str, topics: tuple[str, ...]) -> None:
        """The topics that a worker does not want to read about from now on."""

        def work(unit: Unit) -> None:
            row = {"id": new_id(), "worker_id": worker_id, "study_id": study_id, "topics": topics, "set_at": now()}
            unit.insert(care_tables.topic_opt_out, row)
            unit.log(worker_id, "topics.opted_out", study_id, count=len(topics))

        self._write(work)

    def opt_outs(self, worker_id: str, study_id: str) -> tuple[str, ...]:
        """The topics that a worker opted out of."""
        with self._read() as connection:
            return opt_outs(connection, worker_id, study_id)

    def set_topic(self, conversation_id: str, topic: str) -> None:
        """What a conversation is about; said once."""

        def work(unit: Unit) -> None:
            one_row(unit.connection, tables.conversation, conversation_id, "conversation", lock=True)
            table = care_tables.conversation_topic
            if unit.connection.scalar(select(table.c.topic).where(table.c.conversation_id == conversation_id)) is None:
                unit.insert(table, {"conversation_id": conversation_id, "topic": topic})
                unit.log("store", "conversation.topic", conversation_id, topic=topic)

        self._write(work)

    def exposure_minutes(self, worker_id: str, study_id: str) -> float:
        """How long a worker has been reading in a study since their last break, offered or their own."""
        table = care_tables.care_break
        with self._read() as connection:
            since = connection.scalar(
                select(func.max(table.c.at)).where(table.c.worker_id == worker_id, table.c.study_id == study_id)
            )
            readings = _readings(connection, study_id, worker_id)
        seconds, before = 0.0, None
        for _, at, reading in readings:
            if since is not None and at <= since:
                continue
            if before is not None and (at - before).total_seconds() - reading >= BREAK_SECONDS:
                seconds = 0.0
            seconds, before = seconds + reading, at
        if before is not None and (now() - before).total_seconds() >= BREAK_SECONDS:
            return 0.0
        return seconds / 60.0

    def add_break(
        self, worker_id: str, study_id: str, kind: Literal["taken", "declined"], exposure_minutes: float
    ) -> None:
        """Keeps what a worker did with a break that was offered; reading is counted anew from here."""

        def work(unit: Unit) -> None:
            facts = {"worker_id": worker_id, "study_id": study_id, "kind": kind, "exposure_minutes": exposure_minutes}
            unit.insert(care_tables.care_break, {"id": new_id(), "at": now(), **facts})
            unit.log(worker_id, f"break.{kind}", study_id)

        self._write(work)

    def was_asked(self, worker_id: str, study_id: str, tasks: int) -> bool:
        """Whether a worker was asked how they feel after so many tasks."""
        table = care_tables.feelings_asked
        wanted = select(table.c.tasks).where(
            table.c.worker_id == worker_id, table.c.study_id == study_id, table.c.tasks == tasks
        )
        with self._read() as connection:
            return connection.scalar(wanted) is not None

    def add_feelings(self, worker_id: str, study_id: str, tasks: int, answers: dict[str, int]) -> None:
        """Keeps that a worker was asked, and apart from it what was said (0: rather not say). Asked again, nothing."""

        def work(unit: Unit) -> None:
            one_row(unit.connection, tables.worker, worker_id, "worker", lock=True)
            table = care_tables.feelings_asked
            known = unit.connection.scalar(
                select(table.c.tasks).where(
                    table.c.worker_id == worker_id, table.c.study_id == study_id, table.c.tasks == tasks
                )
            )
            if known is None:
                unit.insert(table, {"worker_id": worker_id, "study_id": study_id, "tasks": tasks})
                day = now().date().isoformat()
                row = {"id": str(uuid4()), "study_id": study_id, "day": day, "answers": answers}
                unit.insert(care_tables.feelings, row)

        self._write(work)

    def care_counts(self, study_id: str) -> CareCounts:
        """Exposure, breaks, skips and feelings of a whole study; nothing about one person."""
        asked, said, paused = care_tables.feelings_asked, care_tables.feelings, care_tables.care_break
        comparison, opted = tables.comparison, care_tables.topic_opt_out
        with self._read() as connection:
            one_row(connection, tables.study, study_id, "study")
            readings = _readings(connection, study_id)
            people, times = connection.execute(
                select(func.count(asked.c.worker_id.distinct()), func.count()).where(asked.c.study_id == study_id)
            ).one()
            answers = list(connection.scalars(select(said.c.answers).where(said.c.study_id == study_id)))
            breaks = Counter(connection.scalars(select(paused.c.kind).where(paused.c.study_id == study_id)))
            skipped = connection.scalar(
                select(func.count()).where(comparison.c.study_id == study_id, comparison.c.void_reason == "skipped")
            )
            wishes = connection.execute(
                select(opted.c.worker_id, opted.c.topics).where(opted.c.study_id == study_id).order_by(opted.c.id)
            )
            latest = {row.worker_id: row.topics for row in wishes}
        workers = len({worker_id for worker_id, _, _ in readings})
        counts: dict[str, Counter[int]] = {}
        for one in answers:
            for question, point in one.items():
                counts.setdefault(question, Counter())[point] += 1
        return CareCounts(
            workers=workers,
            exposure_minutes=sum(reading for _, _, reading in readings) / 60.0,
            breaks_taken=breaks["taken"],
            breaks_declined=breaks["declined"],
            skipped=skipped or 0,
            opted_out=sum(map(bool, latest.values())) if workers >= FEWEST_PEOPLE else None,
            asked=times,
            feelings={name: dict(points) for name, points in counts.items()} if people >= FEWEST_PEOPLE else None,
        )


def opt_outs(connection: Connection, worker_id: str, study_id: str) -> tuple[str, ...]:
    """`Care.opt_outs` inside a larger read."""
    table = care_tables.topic_opt_out
    newest = (
        select(table.c.topics)
        .where(table.c.worker_id == worker_id, table.c.study_id == study_id)
        .order_by(table.c.id.desc())
        .limit(1)
    )
    return tuple(connection.scalar(newest) or ())


def _readings(connection: Connection, study_id: str, worker_id: str | None = None) -> list[tuple[str, datetime, float]]:
    """Worker, time and seconds from the first text to the decision, of every first judgment, in order of time."""
    judgment, comparison = tables.judgment, tables.comparison
    statement = (
        select(judgment.c.worker_id, judgment.c.decided_at, judgment.c.first_token_at, judgment.c.both_done_at)
        .join(comparison, comparison.c.id == judgment.c.comparison_id)
        .where(comparison.c.study_id == study_id, is_no_edit(), judgment.c.revises.is_(None))
        .where(judgment.c.worker_id.is_not(None))
        .order_by(judgment.c.decided_at)
    )
    if worker_id is not None:
        recently = now() - timedelta(seconds=_LONGEST_SHIFT_SECONDS)
        statement = statement.where(judgment.c.worker_id == worker_id, judgment.c.decided_at > recently)
    readings = []
    for who, decided, first, done in connection.execute(statement):
        begun = first or done
        seconds = 0.0 if begun is None else (decided - begun).total_seconds()
        readings.append((str(who), decided, min(max(seconds, 0.0), LONGEST_READING_SECONDS)))
    return readings
