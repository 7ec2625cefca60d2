"""The tables of checks: pairs whose answer is known, pairs that researchers judge first, own pairs that come again.

Columns and constraints only, on the metadata of tables.py. What people answer on a check is no judgment: it stands
here, apart from what is collected, and reaches no export and no training set. Answers are never changed by an UPDATE.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Column, ForeignKey, Index, Integer, Named, Table, Text, TypedColumns

from prefloop.store.tables import UtcTime, metadata, one_of


class CheckItemColumns(TypedColumns):
    """A pair that researchers chose: with a pick it is a gold item, without one they judge it first (calibration)."""

    id = Column(Text, primary_key=True)
    study_id: Named[str] = Column(Text, ForeignKey("study.id"), index=True)
    messages: Named[Any] = Column(JSON, nullable=False)
    answer_a: Named[str] = Column(Text)
    answer_b: Named[str] = Column(Text)
    pick: Named[str | None] = Column(Text)
    by: Named[str] = Column(Text)
    created_at = Column(UtcTime, nullable=False)
    ended_at = Column(UtcTime, nullable=True)


check_item = Table("check_item", metadata, CheckItemColumns, one_of("pick", "a", "b", "same"))


class CheckColumns(TypedColumns):
    """One showing to one person: of an item, or of a comparison that the worker judged before."""

    id = Column(Text, primary_key=True)
    study_id: Named[str] = Column(Text, ForeignKey("study.id"))
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    kind: Named[str] = Column(Text)
    item_id: Named[str | None] = Column(Text, ForeignKey("check_item.id"))
    comparison_id: Named[str | None] = Column(Text, ForeignKey("comparison.id"))
    is_swapped = Column(Boolean, nullable=False)
    shown_at = Column(UtcTime, nullable=False)


check = Table(
    "check_shown",
    metadata,
    CheckColumns,
    one_of("kind", "gold", "calibration", "repeat"),
    Index("ix_check_shown_study_id_worker_id", "study_id", "worker_id"),
    Index("uq_check_shown_item", "worker_id", "item_id", unique=True),
    Index("uq_check_shown_comparison", "worker_id", "comparison_id", unique=True),
)


class CheckAnswerColumns(TypedColumns):
    """What was answered, as a grade in the order shown; without one the check was skipped."""

    check_id: Named[str] = Column(Text, ForeignKey("check_shown.id"), primary_key=True)
    grade: Named[int | None] = Column(Integer)
    input_device: Named[str] = Column(Text)
    answered_at = Column(UtcTime, nullable=False)


check_answer = Table("check_answer", metadata, CheckAnswerColumns)
