"""The tables, typed. Responsible for columns and constraints; knows nothing of who reads or writes them.

Two things are never changed by an UPDATE: judgments and events (triggers refuse it, see the first migration).
What lives outside of the nouns stands beside them: `continuation` (which reply the conversation went on with),
`import_text` (the text of an imported pair where its turns alone do not give it back), `import_digest` columns
(an imported row is found again by them), `overlap_draw` (decides whether a second worker judges). What stands around
the chat tasks of a study is in study_tables.py.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Named,
    Table,
    Text,
    TypedColumns,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcTime(TypeDecorator[datetime]):
    """An aware UTC time on both engines (SQLite keeps no zone)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite counts up a primary key only where its type is INTEGER.
_Counter = BigInteger().with_variant(Integer(), "sqlite")


def one_of(column: str, *values: str) -> CheckConstraint:
    """The values that a column may have."""
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


class WorkerColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    pseudonym: Named[str] = Column(Text)
    role: Named[str] = Column(Text)
    is_simulated: Named[bool]
    created_at = Column(UtcTime, nullable=False)


worker = Table("worker", metadata, WorkerColumns, one_of("role", "worker", "researcher"))


class SnapshotColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    name: Named[str] = Column(Text, unique=True)
    hash: Named[str] = Column(Text)
    path: Named[str] = Column(Text)
    kind: Named[str] = Column(Text)
    base: Named[str | None] = Column(Text)
    parent_id: Named[str | None] = Column(Text)
    run_id: Named[str | None] = Column(Text)
    prompt: Named[Any] = Column(JSON, nullable=False)
    sampling: Named[Any] = Column(JSON, nullable=False)
    best_of_k: Named[int]
    preference_model_id: Named[str | None] = Column(Text)
    state: Named[str] = Column(Text)
    created_at = Column(UtcTime, nullable=False)


snapshot = Table(
    "snapshot",
    metadata,
    SnapshotColumns,
    one_of("kind", "policy", "preference_model"),
    one_of("state", "registered", "deployed", "retired"),
)


class StudyColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    name: Named[str] = Column(Text)
    mode: Named[str] = Column(Text)
    tranche: Named[str] = Column(Text)
    continue_with: Named[str] = Column(Text)
    overlap = Column(Float, nullable=False)
    overlap_judges = Column(Integer, nullable=False, server_default="2")
    sampling: Named[Any] = Column(JSON, nullable=False)
    turns_per_conversation: Named[int]
    target_comparisons: Named[int | None]
    instructions: Named[str] = Column(Text)
    instructions_version: Named[str] = Column(Text)
    state: Named[str] = Column(Text)
    created_at = Column(UtcTime, nullable=False)


study = Table(
    "study",
    metadata,
    StudyColumns,
    Column("compare", Text, nullable=False),  # not an attribute: column collections have a method of this name
    one_of("mode", "helpful", "red_team"),
    one_of("tranche", "base", "rejection_sampled", "online"),
    one_of("state", "open", "paused", "closed"),
    CheckConstraint("overlap >= 0 AND overlap <= 1", name="overlap"),
)


class StudyShareColumns(TypedColumns):
    """A study's snapshots: a change is a new revision, the greatest one counts. Place keeps the order."""

    study_id: Named[str] = Column(Text, ForeignKey("study.id"), primary_key=True)
    revision = Column(Integer, primary_key=True, autoincrement=False)
    place = Column(Integer, primary_key=True, autoincrement=False)
    snapshot_id: Named[str | None] = Column(Text, ForeignKey("snapshot.id"))  # NULL: a revision without snapshots
    weight = Column(Float, nullable=False)


study_share = Table("study_share", metadata, StudyShareColumns)


class ConversationColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    mode: Named[str] = Column(Text)
    study_id: Named[str | None] = Column(Text, ForeignKey("study.id"))
    worker_id: Named[str | None] = Column(Text, ForeignKey("worker.id"))
    origin: Named[str] = Column(Text)
    created_at = Column(UtcTime, nullable=False)
    ended_at = Column(UtcTime, nullable=True)
    end_reason: Named[str | None] = Column(Text)
    import_digest: Named[str | None] = Column(Text, unique=True)


conversation = Table(
    "conversation",
    metadata,
    ConversationColumns,
    Index("ix_conversation_worker_id_study_id", "worker_id", "study_id"),
    one_of("mode", "helpful", "red_team"),
)


class ResponseColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    snapshot_id: Named[str | None] = Column(Text, ForeignKey("snapshot.id"))
    text: Named[str] = Column(Text)
    state: Named[str] = Column(Text)
    sampling: Named[Any] = Column(JSON(none_as_null=True), nullable=True)
    seed: Named[int | None] = Column(BigInteger)
    tokens: Named[int | None]
    finish_reason: Named[str | None] = Column(Text)
    error: Named[str | None] = Column(Text)
    created_at = Column(UtcTime, nullable=False)
    first_token_at = Column(UtcTime, nullable=True)
    done_at = Column(UtcTime, nullable=True)


response = Table(
    "response",
    metadata,
    ResponseColumns,
    one_of("state", "pending", "streaming", "done", "error", "void"),
    CheckConstraint("finish_reason IN ('stop', 'length', 'error')", name="finish_reason"),
)


class MessageColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    conversation_id: Named[str] = Column(Text, ForeignKey("conversation.id"), index=True)
    parent_id: Named[str | None] = Column(Text, ForeignKey("message.id"))
    role: Named[str] = Column(Text)
    text: Named[str] = Column(Text)
    response_id: Named[str | None] = Column(Text, ForeignKey("response.id"), unique=True)
    created_at = Column(UtcTime, nullable=False)
    import_digest: Named[str | None] = Column(Text, unique=True)


message = Table(
    "message",
    metadata,
    MessageColumns,
    one_of("role", "system", "user", "assistant"),
    Index(
        "uq_message_root",
        "conversation_id",
        unique=True,
        sqlite_where=text("parent_id IS NULL"),
        postgresql_where=text("parent_id IS NULL"),
    ),
)

_LIVE = text("import_digest IS NULL AND edit_of IS NULL AND state <> 'void'")


class ComparisonColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    conversation_id: Named[str] = Column(Text, ForeignKey("conversation.id"), index=True)
    context_message_id: Named[str] = Column(Text, ForeignKey("message.id"))
    turn: Named[int]
    response_a_id: Named[str] = Column(Text, ForeignKey("response.id"), unique=True)
    response_b_id: Named[str] = Column(Text, ForeignKey("response.id"), unique=True)
    mode: Named[str] = Column(Text)
    tranche: Named[str] = Column(Text)
    study_id: Named[str | None] = Column(Text, ForeignKey("study.id"))
    worker_id: Named[str | None] = Column(Text, ForeignKey("worker.id"))
    state: Named[str] = Column(Text)
    void_reason: Named[str | None] = Column(Text)
    interface_version: Named[str] = Column(Text)
    instructions_version: Named[str] = Column(Text)
    pacing: Named[str | None] = Column(Text)
    edit_of: Named[str | None] = Column(Text)
    created_at = Column(UtcTime, nullable=False)
    overlap_draw = Column(Float, nullable=False)
    import_digest: Named[str | None] = Column(Text, unique=True)


comparison = Table(
    "comparison",
    metadata,
    ComparisonColumns,
    one_of("mode", "helpful", "red_team"),
    one_of("tranche", "base", "rejection_sampled", "online"),
    one_of("state", "open", "judged", "void"),
    CheckConstraint("turn >= 1", name="turn"),
    CheckConstraint("response_a_id <> response_b_id", name="two_responses"),
    Index("ix_comparison_study_id_state", "study_id", "state"),
    Index("ix_comparison_study_id_id", "study_id", "id"),
    Index("uq_comparison_edit_of", "edit_of", unique=True),  # an answer is edited once
    Index(
        "uq_comparison_live",
        "conversation_id",
        "turn",
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    ),
)


class ContinuationColumns(TypedColumns):
    """Which reply the conversation went on with: a third fact beside clicked and preferred, settled once."""

    comparison_id: Named[str] = Column(Text, ForeignKey("comparison.id"), primary_key=True)
    side: Named[str] = Column(Text)
    message_id: Named[str] = Column(Text, ForeignKey("message.id"), unique=True)


continuation = Table("continuation", metadata, ContinuationColumns, one_of("side", "a", "b"))


class JudgmentColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    comparison_id: Named[str] = Column(Text, ForeignKey("comparison.id"), index=True)
    worker_id: Named[str | None] = Column(Text, ForeignKey("worker.id"))
    question: Named[str] = Column(Text)
    grade: Named[int | None]
    clicked: Named[str] = Column(Text)
    preferred: Named[str] = Column(Text)
    reason_tags: Named[Any] = Column(JSON, nullable=False)
    marks: Named[Any] = Column(JSON, nullable=False, server_default="[]")
    is_checked = Column(Boolean, nullable=False, server_default=false())
    checked_source: Named[str] = Column(Text, server_default="")
    go_on_with: Named[str | None] = Column(Text)
    revises: Named[str | None] = Column(Text, ForeignKey("judgment.id"), unique=True)
    interface_version: Named[str] = Column(Text)
    instructions_version: Named[str] = Column(Text)
    input_device: Named[str] = Column(Text)
    shown_at = Column(UtcTime, nullable=True)
    first_token_at = Column(UtcTime, nullable=True)
    both_done_at = Column(UtcTime, nullable=True)
    decided_at = Column(UtcTime, nullable=False)


# A worker's judgments on one comparison are a chain: one beginning (this index), each revised at most once (the
# unique `revises`), so that exactly one of them is unrevised.
_FIRST = text("revises IS NULL")
judgment = Table(
    "judgment",
    metadata,
    JudgmentColumns,
    CheckConstraint("grade >= 1 AND grade <= 8", name="grade"),
    one_of("clicked", "a", "b"),
    one_of("preferred", "a", "b"),
    Index(
        "uq_judgment_first",
        "comparison_id",
        "worker_id",
        unique=True,
        sqlite_where=_FIRST,
        postgresql_where=_FIRST,
    ),
)


class LeaseColumns(TypedColumns):
    """A promise that one worker may judge one comparison of somebody else until a time."""

    comparison_id: Named[str] = Column(Text, ForeignKey("comparison.id"), primary_key=True)
    study_id: Named[str] = Column(Text, ForeignKey("study.id"))
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    expires_at = Column(UtcTime, nullable=False)


lease = Table("lease", metadata, LeaseColumns, UniqueConstraint("study_id", "worker_id"))


class InvitationColumns(TypedColumns):
    digest = Column(Text, primary_key=True)
    study_id: Named[str | None] = Column(Text, ForeignKey("study.id"))
    role: Named[str] = Column(Text)
    pseudonym: Named[str | None] = Column(Text)
    uses: Named[int | None]
    created_at = Column(UtcTime, nullable=False)


invitation = Table("invitation", metadata, InvitationColumns, one_of("role", "worker", "researcher"))


class AcceptanceColumns(TypedColumns):
    digest: Named[str] = Column(Text, ForeignKey("invitation.digest"), primary_key=True)
    place = Column(Integer, primary_key=True, autoincrement=False)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    accepted_at = Column(UtcTime, nullable=False)


acceptance = Table("acceptance", metadata, AcceptanceColumns)


class SessionColumns(TypedColumns):
    digest = Column(Text, primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    created_at = Column(UtcTime, nullable=False)
    expires_at = Column(UtcTime, nullable=False)
    ended_at = Column(UtcTime, nullable=True)


session = Table("session", metadata, SessionColumns)


class ScoreColumns(TypedColumns):
    preference_model_id = Column(Text, primary_key=True)
    response_id: Named[str] = Column(Text, ForeignKey("response.id"), primary_key=True)
    value = Column(Float, nullable=False)


score = Table("score", metadata, ScoreColumns)


class RoundColumns(TypedColumns):
    """Every save is a row; the greatest version of a number counts."""

    version = Column(_Counter, primary_key=True)
    id: Named[str] = Column(Text)
    number: Named[int] = Column(Integer, index=True)
    step: Named[str] = Column(Text)
    state: Named[str] = Column(Text)
    facts: Named[Any] = Column(JSON, nullable=False)
    created_at = Column(UtcTime, nullable=False)
    saved_at = Column(UtcTime, nullable=False)


round_ = Table("round", metadata, RoundColumns)


class EvalResultColumns(TypedColumns):
    id = Column(Text, primary_key=True)
    evaluation: Named[str] = Column(Text)
    model_id: Named[str] = Column(Text, index=True)
    metric: Named[str] = Column(Text)
    value = Column(Float, nullable=False)
    low = Column(Float, nullable=False)
    high = Column(Float, nullable=False)
    n: Named[int]
    clusters: Named[int | None]
    data: Named[str] = Column(Text)
    created_at = Column(UtcTime, nullable=False)


eval_result = Table("eval_result", metadata, EvalResultColumns)


class EventColumns(TypedColumns):
    """What happened, in order of commit. Append-only."""

    id = Column(_Counter, primary_key=True)
    at = Column(UtcTime, nullable=False)
    actor: Named[str] = Column(Text)
    verb: Named[str] = Column(Text)
    object_id: Named[str] = Column(Text, index=True)
    payload: Named[Any] = Column(JSON, nullable=False)


event = Table("event", metadata, EventColumns)
