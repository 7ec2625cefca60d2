"""What the store hands out beside the nouns: plain frozen views of rows. Knows no SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import Field

from prefloop.schema import (
    Comparison,
    ComparisonState,
    Conversation,
    FinishReason,
    Judgment,
    Message,
    Noun,
    Side,
    TreeMessage,
    new_id,
    now,
)


class Answer(NamedTuple):
    """What a model gave for one response; `id` is the response's."""

    id: str
    text: str
    tokens: int | None
    finish_reason: FinishReason | None
    first_token_at: datetime | None
    done_at: datetime


class Continuation(Noun):
    """A conversation goes on with one side of a judged comparison; `message_id` is that of the assistant turn."""

    comparison_id: str
    side: Side
    message_id: str = Field(default_factory=new_id)
    created_at: datetime = Field(default_factory=now)


class JudgedComparison(Noun):
    """A comparison with one judgment on it and the context that both responses answer."""

    comparison: Comparison
    judgment: Judgment
    context: tuple[Message, ...]


class Agreement(Noun):
    """A worker agreed to a text of a study, kept word for word."""

    id: str = Field(default_factory=new_id)
    worker_id: str
    study_id: str
    kind: Literal["consent", "instructions"]
    version: str
    text: str
    agreed_at: datetime = Field(default_factory=now)


class TaskAnswers(Noun):
    """What a worker answered before ('goal') or after ('closing') a conversation; later ones replace earlier ones.

    `questions` are as they were shown; `answers` are by the id of the question, those left open are missing.
    """

    id: str = Field(default_factory=new_id)
    conversation_id: str
    worker_id: str
    kind: Literal["goal", "closing"]
    questions: tuple[dict[str, Any], ...] = ()
    answers: dict[str, int | str] = Field(default_factory=dict)
    answered_at: datetime = Field(default_factory=now)


class TimeCredit(Noun):
    """Time that a worker lost to a fault of ours: from when a pair was asked for until it was void."""

    comparison_id: str
    worker_id: str
    study_id: str | None
    seconds: float
    reason: str
    credited_at: datetime


class WorkerReport(Noun):
    """What a worker wants the researchers to know, about a comparison or (without one) about the study."""

    id: str = Field(default_factory=new_id)
    worker_id: str
    study_id: str
    comparison_id: str | None = None
    kind: Literal["harmful", "personal", "broken", "other"]
    text: str = ""
    reported_at: datetime = Field(default_factory=now)


class ConversationRecord(Noun):
    """A conversation with what the store knows beside: its end, the digest of its opening where imported, answers."""

    conversation: Conversation
    ended_at: datetime | None = None
    end_reason: str | None = None
    import_digest: str | None = None
    answers: tuple[TaskAnswers, ...] = ()


class ComparisonRecord(Noun):
    """All that is known of one comparison: the path to it, every judgment (revised ones too), how it went on.

    `import_texts` are the whole texts of side A and B in the file that it came from, where its turns alone do not
    give them back.
    """

    conversation: ConversationRecord
    path: tuple[TreeMessage, ...]
    comparison: Comparison
    judgments: tuple[Judgment, ...] = ()
    continuation: TreeMessage | None = None
    import_digest: str | None = None
    import_texts: tuple[str, str] | None = None


class StudyProgress(Noun):
    """Counts of a study. `judgments` counts unrevised ones, overlap included; `workers` those who judged."""

    comparisons: dict[ComparisonState, int]
    judgments: int
    workers: int
    conversations: int


class Event(Noun):
    """One row of the append-only log."""

    id: int
    at: datetime
    actor: str
    verb: str
    object_id: str
    payload: dict[str, Any]


class ImportReport(Noun):
    """Rows that came in, and how many were skipped for which reason."""

    imported: int = 0
    skipped: dict[str, int] = Field(default_factory=dict)


class ExportReport(Noun):
    """Rows written, and how many a format could not express, by reason."""

    exported: int = 0
    skipped: dict[str, int] = Field(default_factory=dict)
