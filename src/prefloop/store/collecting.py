"""What the page asks while a worker goes through a study: where a conversation stands, and what may be seen.

Reads only, each in one short transaction. Knows nothing of pages.
"""

from __future__ import annotations

from sqlalchemy import func, select

from prefloop.schema import Comparison, Conversation, Noun, TreeMessage, now
from prefloop.store import tables
from prefloop.store.database import Database
from prefloop.store.rows import conversation_from, load_comparisons, one_row, tree_message_from


class ConversationStanding(Noun):
    """A conversation as it stands: its messages and its comparisons (void ones too), each in order of creation."""

    conversation: Conversation
    has_ended: bool
    messages: tuple[TreeMessage, ...]
    comparisons: tuple[Comparison, ...]


class Collecting(Database):
    """The part of the store that a worker's page reads."""

    def standing(self, conversation_id: str) -> ConversationStanding:
        """Everything about one conversation, or NotFoundError."""
        message, comparison = tables.message, tables.comparison
        with self._read() as connection:
            row = one_row(connection, tables.conversation, conversation_id, "conversation")
            messages = connection.execute(
                select(message).where(message.c.conversation_id == conversation_id).order_by(message.c.id)
            )
            turns = tuple(tree_message_from(item) for item in messages.mappings())
            pairs = connection.execute(
                select(comparison).where(comparison.c.conversation_id == conversation_id).order_by(comparison.c.id)
            )
            return ConversationStanding(
                conversation=conversation_from(row),
                has_ended=row["ended_at"] is not None,
                messages=turns,
                comparisons=tuple(load_comparisons(connection, pairs.mappings().all())),
            )

    def conversation_count(self, worker_id: str, study_id: str) -> int:
        """How many conversations a worker has begun in a study."""
        table = tables.conversation
        statement = select(func.count()).where(table.c.worker_id == worker_id, table.c.study_id == study_id)
        with self._read() as connection:
            return connection.scalar(statement) or 0

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
