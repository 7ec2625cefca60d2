"""The tables of what stands around chat tasks: a study's phases, agreements, answers; and texts of imported pairs.

Columns and constraints only, on the metadata of tables.py; knows nothing of who reads or writes them. Agreements and
answers are never changed by an UPDATE (triggers refuse it, see the second migration).
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Column, ForeignKey, Index, Integer, Named, Table, Text, TypedColumns

from prefloop.store.tables import UtcTime, metadata, one_of


class ImportTextColumns(TypedColumns):
    comparison_id: Named[str] = Column(Text, ForeignKey("comparison.id"), primary_key=True)
    text_a: Named[str] = Column(Text)
    text_b: Named[str] = Column(Text)


import_text = Table("import_text", metadata, ImportTextColumns)


class StudyPhasesColumns(TypedColumns):
    """A study's phases as they were set: a change is a new revision, the greatest one counts."""

    study_id: Named[str] = Column(Text, ForeignKey("study.id"), primary_key=True)
    revision = Column(Integer, primary_key=True, autoincrement=False)
    phases: Named[Any] = Column(JSON, nullable=False)
    set_at = Column(UtcTime, nullable=False)


study_phases = Table("study_phases", metadata, StudyPhasesColumns)


class AgreementColumns(TypedColumns):
    """Who agreed to which text, word for word. Append-only."""

    id = Column(Text, primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    study_id: Named[str] = Column(Text, ForeignKey("study.id"))
    kind: Named[str] = Column(Text)
    version: Named[str] = Column(Text)
    text: Named[str] = Column(Text)
    agreed_at = Column(UtcTime, nullable=False)


agreement = Table(
    "agreement",
    metadata,
    AgreementColumns,
    one_of("kind", "consent", "instructions"),
    Index("ix_agreement_worker_id_study_id", "worker_id", "study_id"),
)


class TaskAnswersColumns(TypedColumns):
    """What a worker answered before or after a conversation, with the questions as they were shown. Append-only."""

    id = Column(Text, primary_key=True)
    conversation_id: Named[str] = Column(Text, ForeignKey("conversation.id"), index=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    kind: Named[str] = Column(Text)
    questions: Named[Any] = Column(JSON, nullable=False)
    answers: Named[Any] = Column(JSON, nullable=False)
    answered_at = Column(UtcTime, nullable=False)


task_answers = Table("task_answers", metadata, TaskAnswersColumns, one_of("kind", "goal", "closing"))


class AnnouncementColumns(TypedColumns):
    """What researchers want every worker of a study to know. Append-only; an empty text ends the one before."""

    id = Column(Text, primary_key=True)
    study_id: Named[str] = Column(Text, ForeignKey("study.id"), index=True)
    text: Named[str] = Column(Text)
    by: Named[str] = Column(Text)
    announced_at = Column(UtcTime, nullable=False)


announcement = Table("announcement", metadata, AnnouncementColumns)


class ArrivalColumns(TypedColumns):
    """Who came from a platform, under which ids of the platform's. Append-only."""

    id = Column(Text, primary_key=True)
    platform: Named[str] = Column(Text)
    external_id: Named[str] = Column(Text)
    external_study_id: Named[str] = Column(Text)
    external_session_id: Named[str] = Column(Text)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    study_id: Named[str] = Column(Text, ForeignKey("study.id"))
    arrived_at = Column(UtcTime, nullable=False)


arrival = Table(
    "arrival",
    metadata,
    ArrivalColumns,
    Index("ix_arrival_study_id", "study_id"),
    Index(
        "uq_arrival_session",
        "platform",
        "external_id",
        "external_study_id",
        "external_session_id",
        "study_id",
        unique=True,
    ),
)
