"""Places in a study: one for each comparison of its target, so that not one more is collected. Knows nothing of pages.

A comparison takes a place when it is made and leaves it when it becomes void. Numbers are unique in the database and
never above the target there, so two workers who race for the last place get one.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from prefloop.schema import ComparisonState, Noun, now
from prefloop.store import tables
from prefloop.store.database import Database, Unit
from prefloop.store.rows import one_row
from prefloop.store.turn_tables import study_place


class PlacesLeft(Noun):
    """Places of a study with a target: free ones, and those of pairs that wait for their judgment."""

    free: int
    held: int


class Places(Database):
    """The part of the store that knows how many comparisons a study still takes."""

    def places_left(self, study_id: str, place_seconds: float) -> PlacesLeft | None:
        """None where the study has no target. A place that was held for longer than `place_seconds` counts as free."""
        with self._read() as connection:
            target = one_row(connection, tables.study, study_id, "study")["target_comparisons"]
            if target is None:
                return None
            taken = connection.scalar(select(func.max(study_place.c.number)).where(study_place.c.study_id == study_id))
            left = connection.scalar(
                select(func.count()).where(study_place.c.study_id == study_id, study_place.c.comparison_id.is_(None))
            )
            held = list(connection.scalars(_held(study_id).with_only_columns(study_place.c.taken_at)))
        since = now() - timedelta(seconds=place_seconds)
        stale = sum(taken_at <= since for taken_at in held)
        return PlacesLeft(free=max(0, target - (taken or 0)) + (left or 0) + stale, held=len(held) - stale)


def take_place(unit: Unit, study_id: str, comparison_id: str) -> bool:
    """Gives a place to a comparison that is in the store; False where all are taken. A study without a target has no
    end of them."""
    connection = unit.connection
    study = tables.study
    target = connection.scalar(  # key_share: the new comparison refers to the study, and others' do too
        select(study.c.target_comparisons).where(study.c.id == study_id).with_for_update(key_share=True)
    )
    if target is None:
        return True
    values = {"comparison_id": comparison_id, "taken_at": now()}
    free = connection.scalar(
        select(study_place.c.number)
        .where(study_place.c.study_id == study_id, study_place.c.comparison_id.is_(None))
        .order_by(study_place.c.number)
        .limit(1)
    )
    if free is not None:
        connection.execute(
            update(study_place).where(study_place.c.study_id == study_id, study_place.c.number == free).values(**values)
        )
        return True
    taken = connection.scalar(select(func.max(study_place.c.number)).where(study_place.c.study_id == study_id)) or 0
    if taken >= target:
        return False
    unit.insert(study_place, {"study_id": study_id, "number": taken + 1, **values})
    return True


def leave_place(connection: Connection, comparison_id: str) -> None:
    """The place of a comparison, if it has one, is free again."""
    connection.execute(
        update(study_place)
        .where(study_place.c.comparison_id == comparison_id)
        .values(comparison_id=None, taken_at=None)
    )


def longest_held(connection: Connection, study_id: str, since: datetime) -> str | None:
    """The open comparison that has held its place the longest, from before `since`; None without one."""
    statement = _held(study_id).where(study_place.c.taken_at <= since).order_by(study_place.c.taken_at).limit(1)
    found: str | None = connection.scalar(statement)
    return found


def _held(study_id: str) -> Select[Any]:
    """Open comparisons that hold a place."""
    comparison = tables.comparison
    return (
        select(comparison.c.id)
        .join(study_place, study_place.c.comparison_id == comparison.c.id)
        .where(comparison.c.study_id == study_id, comparison.c.state == ComparisonState.OPEN.value)
    )
