"""What the page asks while a worker goes through a study: where a conversation stands, and what may be seen.

Reads only, each in one short transaction. Knows nothing of pages.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import bindparam, func, select, union_all

from prefloop.schema import Comparison, Conversation, Judgment, Noun, TreeMessage, now
from prefloop.store import tables
from prefloop.store.check_tables import check, check_answer
from prefloop.store.database import Database
from prefloop.store.rows import (
    conversation_from,
    is_no_edit,
    judgment_from,
    load_comparisons,
    one_row,
    tree_message_from,
)


class ConversationStanding(Noun):
    """A conversation as it stands: its messages and its comparisons (void ones too), each in order of creation, and
    the judgments of those about the newest comparison's message."""

    conversation: Conversation
    has_ended: bool
    messages: tuple[TreeMessage, ...]
    comparisons: tuple[Comparison, ...]
    judgments: tuple[Judgment, ...] = ()


class JudgingPace(Noun):
    """What a worker has judged; `free_at` is when the hour's limit lets them go on, None where it does now."""

    judged: int
    free_at: datetime | None

    @property
    def wait_seconds(self) -> float:
        return 0.0 if self.free_at is None else max(0.0, (self.free_at - now()).total_seconds())


_MESSAGES = (
    select(tables.message)
    .where(tables.message.c.conversation_id == bindparam("conversation_id"))
    .order_by(tables.message.c.id)
)
_COMPARISONS = (
    select(tables.comparison)
    .where(tables.comparison.c.conversation_id == bindparam("conversation_id"))
    .order_by(tables.comparison.c.id)
)
_JUDGMENTS = (
    select(tables.judgment)
    .join(tables.comparison, tables.comparison.c.id == tables.judgment.c.comparison_id)
    .where(
        tables.comparison.c.conversation_id == bindparam("conversation_id"),
        tables.comparison.c.context_message_id == bindparam("context_message_id"),
    )
    .order_by(tables.judgment.c.id)
)


class Collecting(Database):
    """The part of the store that a worker's page reads."""

    def standing(self, conversation_id: str) -> ConversationStanding:
        """Everything about one conversation, or NotFoundError."""
        of_it = {"conversation_id": conversation_id}
        with self._read() as connection:
            row = one_row(connection, tables.conversation, conversation_id, "conversation")
            turns = tuple(tree_message_from(item) for item in connection.execute(_MESSAGES, of_it).mappings())
            rows = connection.execute(_COMPARISONS, of_it).mappings().all()
            judged: tuple[Judgment, ...] = ()
            if rows:
                newest = {**of_it, "context_message_id": rows[-1]["context_message_id"]}
                judged = tuple(judgment_from(item) for item in connection.execute(_JUDGMENTS, newest).mappings())
            return ConversationStanding(
                conversation=conversation_from(row),
                has_ended=row["ended_at"] is not None,
                messages=turns,
                comparisons=tuple(load_comparisons(connection, rows)),
                judgments=judged,
            )

    def conversation_count(self, worker_id: str, study_id: str) -> int:
        """How many conversations a worker has begun in a study."""
        table = tables.conversation
        statement = select(func.count()).where(table.c.worker_id == worker_id, table.c.study_id == study_id)
        with self._read() as connection:
            return connection.scalar(statement) or 0

    def judging_pace(self, worker_id: str, study_id: str, most_per_hour: int | None) -> JudgingPace:
        """How much a worker has judged in a study, checks included, and when the hour's limit lets them go on."""
        judgment, comparison = tables.judgment, tables.comparison
        times = union_all(
            select(judgment.c.decided_at.label("at"))
            .join(comparison, comparison.c.id == judgment.c.comparison_id)
            .where(judgment.c.worker_id == worker_id, judgment.c.revises.is_(None))
            .where(comparison.c.study_id == study_id, is_no_edit()),
            select(check_answer.c.answered_at)
            .join(check, check.c.id == check_answer.c.check_id)
            .where(check.c.worker_id == worker_id, check.c.study_id == study_id),
        ).subquery()
        with self._read() as connection:
            judged = connection.scalar(select(func.count()).select_from(times)) or 0
            filling = None
            if most_per_hour is not None:
                recent = select(times.c.at).where(times.c.at > now() - timedelta(hours=1)).order_by(times.c.at.desc())
                filling = connection.scalar(recent.offset(most_per_hour - 1).limit(1))
        return JudgingPace(judged=judged, free_at=None if filling is None else filling + timedelta(hours=1))

    def may_join(self, worker_id: str, study_id: str) -> bool:
        """True for a worker invited to this study or to the workspace, and for one added without an invitation."""
        invitation, acceptance = tables.invitation, tables.acceptance
        statement = (
            select(invitation.c.study_id)
            .join(acceptance, acceptance.c.digest == invitation.c.digest)
            .where(acceptance.c.worker_id == worker_id)
        )
        with self._read() as connection:
            studies = set(connection.scalars(statement))
        return not studies or None in studies or study_id in studies

    def holds_lease(self, comparison_id: str, worker_id: str) -> bool:
        """True while a comparison is promised to a worker for a second judgment, and after it was given."""
        lease, judgment = tables.lease, tables.judgment
        promised = select(lease.c.comparison_id).where(
            lease.c.comparison_id == comparison_id, lease.c.worker_id == worker_id, lease.c.expires_at > now()
        )
        given = select(judgment.c.id).where(
            judgment.c.comparison_id == comparison_id, judgment.c.worker_id == worker_id
        )
        with self._read() as connection:
            return connection.scalar(select(promised.exists() | given.exists())) or False
