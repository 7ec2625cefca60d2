"""The tables of practice and of care: practice turns, topic opt-outs, breaks, how people feel.

Columns and constraints only, on the metadata of tables.py. Answers about feelings are kept without the worker and with
the day alone: who was asked stands in another table, what was said in `feelings`. Nothing here is changed by an UPDATE.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, Boolean, Column, Float, ForeignKey, Index, Integer, Named, Table, Text, TypedColumns

from prefloop.store.tables import UtcTime, metadata, one_of


class PracticeAnswerColumns(TypedColumns):
    """A grade on a practice turn, with the turn as it was shown; `item` is empty where the practice was skipped."""

    id = Column(Text, primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    study_id: Named[str] = Column(Text, ForeignKey("study.id"))
    item: Named[str] = Column(Text)
    shown: Named[Any] = Column(JSON, nullable=False)
    grade: Named[int | None]
    is_right = Column(Boolean, nullable=True)
    answered_at = Column(UtcTime, nullable=False)


practice_answer = Table(
    "practice_answer",
    metadata,
    PracticeAnswerColumns,
    Index("ix_practice_answer_worker_id_study_id", "worker_id", "study_id"),
)


class TopicOptOutColumns(TypedColumns):
    """Topics that a worker does not want to read about; the newest row counts."""

    id = Column(Text, primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    study_id: Named[str] = Column(Text, ForeignKey("study.id"))
    topics: Named[Any] = Column(JSON, nullable=False)
    set_at = Column(UtcTime, nullable=False)


topic_opt_out = Table(
    "topic_opt_out",
    metadata,
    TopicOptOutColumns,
    Index("ix_topic_opt_out_worker_id_study_id", "worker_id", "study_id"),
)


class ConversationTopicColumns(TypedColumns):
    """What a red-team conversation is about, as its author says."""

    conversation_id: Named[str] = Column(Text, ForeignKey("conversation.id"), primary_key=True)
    topic: Named[str] = Column(Text)


conversation_topic = Table("conversation_topic", metadata, ConversationTopicColumns)


class CareBreakColumns(TypedColumns):
    """A break that was offered, after how much reading, and what the worker did with it."""

    id = Column(Text, primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    study_id: Named[str] = Column(Text, ForeignKey("study.id"))
    kind: Named[str] = Column(Text)
    exposure_minutes = Column(Float, nullable=False)
    at = Column(UtcTime, nullable=False)


care_break = Table(
    "care_break",
    metadata,
    CareBreakColumns,
    one_of("kind", "taken", "declined"),
    Index("ix_care_break_worker_id_study_id", "worker_id", "study_id"),
)


class FeelingsAskedColumns(TypedColumns):
    """That a worker was asked after so many tasks; not what was said."""

    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"), primary_key=True)
    study_id: Named[str] = Column(Text, ForeignKey("study.id"), primary_key=True)
    tasks = Column(Integer, primary_key=True, autoincrement=False)


feelings_asked = Table("feelings_asked", metadata, FeelingsAskedColumns)


class FeelingsColumns(TypedColumns):
    """What somebody said, without who and with the day alone; the id is random."""

    id = Column(Text, primary_key=True)
    study_id: Named[str] = Column(Text, ForeignKey("study.id"), index=True)
    day: Named[str] = Column(Text)
    answers: Named[Any] = Column(JSON, nullable=False)


feelings = Table("feelings", metadata, FeelingsColumns)
