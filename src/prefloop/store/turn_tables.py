"""The tables of what stands around single turns: places in a study, credited time, reports.

Columns and constraints only, on the metadata of tables.py; knows nothing of who reads or writes them. Credits and
reports are never changed by an UPDATE, and a place above its study's target is refused (triggers of the migration).
"""

from __future__ import annotations

from sqlalchemy import Column, Float, ForeignKey, Index, Integer, Named, Table, Text, TypedColumns, text

from prefloop.store.tables import UtcTime, metadata, one_of

_FREE = text("comparison_id IS NULL")


class StudyPlaceColumns(TypedColumns):
    """A study with a target of N comparisons has the places 1 to N; one that a void pair left is free again."""

    study_id: Named[str] = Column(Text, ForeignKey("study.id"), primary_key=True)
    number = Column(Integer, primary_key=True, autoincrement=False)
    comparison_id: Named[str | None] = Column(Text, ForeignKey("comparison.id"), unique=True)
    taken_at = Column(UtcTime, nullable=True)


study_place = Table(
    "study_place",
    metadata,
    StudyPlaceColumns,
    Index("ix_study_place_free", "study_id", sqlite_where=_FREE, postgresql_where=_FREE),
)


class TimeCreditColumns(TypedColumns):
    """Time that a worker lost to a fault of ours: a pair that broke while it was written. Append-only."""

    comparison_id: Named[str] = Column(Text, ForeignKey("comparison.id"), primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    study_id: Named[str | None] = Column(Text, ForeignKey("study.id"), index=True)
    seconds = Column(Float, nullable=False)
    reason: Named[str] = Column(Text)
    credited_at = Column(UtcTime, nullable=False)


time_credit = Table("time_credit", metadata, TimeCreditColumns)


class WorkerReportColumns(TypedColumns):
    """What a worker wants the researchers to know, about a pair or about the study. Append-only."""

    id = Column(Text, primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    study_id: Named[str] = Column(Text, ForeignKey("study.id"), index=True)
    comparison_id: Named[str | None] = Column(Text, ForeignKey("comparison.id"))
    kind: Named[str] = Column(Text)
    text: Named[str] = Column(Text)
    reported_at = Column(UtcTime, nullable=False)


worker_report = Table(
    "worker_report", metadata, WorkerReportColumns, one_of("kind", "harmful", "personal", "broken", "other")
)
