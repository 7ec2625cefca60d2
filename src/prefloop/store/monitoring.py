"""Counts and latest rows for the people who run a study. Reads only; knows nothing of pages.

Counting happens in the database; lists come one page at a time, by id.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

from sqlalchemy import func, select

from prefloop.schema import Comparison, ComparisonState, Noun, now
from prefloop.store import tables
from prefloop.store.database import Database
from prefloop.store.rows import load_comparisons, one_row

MOST_REASONS = 8
"""Reasons for void pairs that are listed; rarer ones are not."""


class WorkerCount(Noun):
    """What one worker did in a study."""

    worker_id: str
    pseudonym: str
    is_simulated: bool
    judgments: int
    last_at: datetime | None


class StudyCounts(Noun):
    """A study in numbers. `responses` counts finished responses by snapshot id, `minutes` judgments per minute of the
    past hour, oldest first."""

    workers: tuple[WorkerCount, ...]
    void_reasons: dict[str, int]
    responses: dict[str, int]
    minutes: tuple[int, ...]


class Latest(Noun):
    """A comparison in a list, with its latest grade and who judged it last."""

    comparison: Comparison
    pseudonym: str | None
    grade: int | None


def first_id_of(time: datetime) -> str:
    """No id made after `time` is smaller: a uuid7 begins with its milliseconds since 1970, 12 hexadecimal digits."""
    digits = f"{int(time.timestamp() * 1000):012x}"
    return f"{digits[:8]}-{digits[8:]}"


class Monitoring(Database):
    """The part of the store that a researcher's page reads."""

    def study_counts(self, study_id: str) -> StudyCounts:
        """Counts by worker, void reason, snapshot and minute; NotFoundError for an unknown study."""
        comparison, judgment, response = tables.comparison, tables.judgment, tables.response
        worker = tables.worker
        since = now() - timedelta(minutes=60)
        with self._read() as connection:
            one_row(connection, tables.study, study_id, "study")
            people = connection.execute(
                select(
                    worker.c.id,
                    worker.c.pseudonym,
                    worker.c.is_simulated,
                    func.count(judgment.c.id).filter(judgment.c.revises.is_(None)),
                    func.max(judgment.c.decided_at),
                )
                .join(judgment, judgment.c.worker_id == worker.c.id)
                .join(comparison, comparison.c.id == judgment.c.comparison_id)
                .where(comparison.c.study_id == study_id)
                .group_by(worker.c.id, worker.c.pseudonym, worker.c.is_simulated)
                .order_by(func.count(judgment.c.id).desc(), worker.c.id)
            )
            workers = tuple(
                WorkerCount(worker_id=id, pseudonym=name, is_simulated=simulated, judgments=count, last_at=last)
                for id, name, simulated, count, last in people
            )
            reasons = connection.execute(
                select(comparison.c.void_reason, func.count())
                .where(comparison.c.study_id == study_id, comparison.c.state == ComparisonState.VOID.value)
                .group_by(comparison.c.void_reason)
                .order_by(func.count().desc(), comparison.c.void_reason)
                .limit(MOST_REASONS)
            )
            responses: Counter[str] = Counter()
            for side in (comparison.c.response_a_id, comparison.c.response_b_id):  # one join for both uses no index
                shares = connection.execute(
                    select(response.c.snapshot_id, func.count())
                    .join(comparison, side == response.c.id)
                    .where(comparison.c.study_id == study_id, response.c.state == "done")
                    .group_by(response.c.snapshot_id)
                )
                responses.update({str(snapshot): count for snapshot, count in shares})
            decided = connection.scalars(
                select(judgment.c.decided_at)
                .join(comparison, comparison.c.id == judgment.c.comparison_id)
                .where(comparison.c.study_id == study_id, judgment.c.decided_at > since)
                .where(judgment.c.id > first_id_of(since))
            )
            minutes = Counter(min(59, int((at - since).total_seconds() // 60)) for at in decided)
            return StudyCounts(
                workers=workers,
                void_reasons={reason or "": count for reason, count in reasons},
                responses=dict(responses),
                minutes=tuple(minutes[minute] for minute in range(60)),
            )

    def latest_comparisons(self, study_id: str, before: str | None = None, limit: int = 20) -> list[Latest]:
        """The newest comparisons of a study, those older than the id `before` where given; newest first."""
        table, judgment, worker = tables.comparison, tables.judgment, tables.worker
        statement = select(table).where(table.c.study_id == study_id).order_by(table.c.id.desc()).limit(limit)
        if before is not None:
            statement = statement.where(table.c.id < before)
        with self._read() as connection:
            comparisons = load_comparisons(connection, connection.execute(statement).mappings().all())
            judged = connection.execute(
                select(judgment.c.comparison_id, judgment.c.grade, worker.c.pseudonym)
                .join(worker, worker.c.id == judgment.c.worker_id)
                .where(judgment.c.comparison_id.in_([comparison.id for comparison in comparisons]))
                .order_by(judgment.c.id)
            )
            last = {comparison_id: (grade, name) for comparison_id, grade, name in judged}
        return [
            Latest(
                comparison=pair, grade=last.get(pair.id, (None, None))[0], pseudonym=last.get(pair.id, (None, None))[1]
            )
            for pair in comparisons
        ]
