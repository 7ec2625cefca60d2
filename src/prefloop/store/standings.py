"""Which snapshot wins how often against which other in a study, by worker. Reads only; knows no statistics."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import case, func, select

from prefloop.schema import WEAKEST_GRADES, Noun
from prefloop.store import tables
from prefloop.store.database import Database
from prefloop.store.rows import is_no_edit


class SnapshotWins(Noun):
    """One worker's judgments between two snapshots: how often the first one's reply was preferred, of how many.

    `about_the_same` counts the weakest grades, which are in neither.
    """

    first_id: str
    second_id: str
    worker_id: str | None
    wins: int
    n: int
    about_the_same: int


class Standings(Database):
    """The part of the store that compares snapshots by what people preferred."""

    def snapshot_wins(self, study_id: str) -> Sequence[SnapshotWins]:
        """Counts by pair of snapshots (the smaller id first) and worker. A corrected judgment counts as corrected."""
        comparison, judgment = tables.comparison, tables.judgment
        a, b = tables.response.alias("a"), tables.response.alias("b")
        revised = select(judgment.c.revises).where(judgment.c.revises.is_not(None))
        is_a_first = a.c.snapshot_id < b.c.snapshot_id
        is_weak = judgment.c.grade.in_(WEAKEST_GRADES)
        has_won = ((judgment.c.preferred == "a") & is_a_first) | ((judgment.c.preferred == "b") & ~is_a_first)
        first = case((is_a_first, a.c.snapshot_id), else_=b.c.snapshot_id)
        second = case((is_a_first, b.c.snapshot_id), else_=a.c.snapshot_id)
        statement = (
            select(
                first,
                second,
                judgment.c.worker_id,
                func.sum(case((has_won & ~is_weak, 1), else_=0)),
                func.sum(case((~is_weak, 1), else_=0)),
                func.sum(case((is_weak, 1), else_=0)),
            )
            .join(comparison, comparison.c.id == judgment.c.comparison_id)
            .join(a, a.c.id == comparison.c.response_a_id)
            .join(b, b.c.id == comparison.c.response_b_id)
            .where(comparison.c.study_id == study_id, is_no_edit(), judgment.c.grade.is_not(None))
            .where(a.c.snapshot_id != b.c.snapshot_id, judgment.c.id.not_in(revised))
            .group_by(first, second, judgment.c.worker_id)
            .order_by(first, second, judgment.c.worker_id)
        )
        with self._read() as connection:
            return [
                SnapshotWins(
                    first_id=row[0],
                    second_id=row[1],
                    worker_id=row[2],
                    wins=int(row[3]),
                    n=int(row[4]),
                    about_the_same=int(row[5]),
                )
                for row in connection.execute(statement)
            ]
