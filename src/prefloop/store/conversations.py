"""Conversation trees: roots, turns, paths. Knows nothing of comparisons."""

from __future__ import annotations

from sqlalchemy import Connection, RowMapping, select, update

from prefloop.errors import NotFoundError, StateError
from prefloop.schema import Conversation, TreeMessage, now
from prefloop.store import tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import conversation_from, load_paths, one_row, row_of


class Conversations(Database):
    """The part of the store that keeps what was said."""

    def add_conversation(self, conversation: Conversation) -> Conversation:
        """Opens a conversation; its turns come by `add_message`."""

        def work(unit: Unit) -> Conversation:
            if conversation.study_id is not None:
                one_row(unit.connection, tables.study, conversation.study_id, "study")
            if conversation.worker_id is not None:
                one_row(unit.connection, tables.worker, conversation.worker_id, "worker")
            unit.insert(tables.conversation, row_of(conversation))
            unit.log(
                conversation.worker_id or "store",
                "conversation.added",
                conversation.id,
                study_id=conversation.study_id,
                mode=conversation.mode,
            )
            return conversation

        return self._write(work)

    def conversation(self, id: str) -> Conversation:
        """The conversation with an id, or NotFoundError."""
        with self._read() as connection:
            return conversation_from(one_row(connection, tables.conversation, id, "conversation"))

    def add_message(self, message: TreeMessage) -> TreeMessage:
        """Adds a turn below its parent.

        Errors:
            NotFoundError: no such conversation or parent.
            StateError: the conversation has ended, has a root already, or the parent is of the same speaker.
            DataError: a text that no database can hold.
        """

        def work(unit: Unit) -> TreeMessage:
            add_message(unit, message)
            return message

        return self._write(work)

    def path(self, message_id: str) -> list[TreeMessage]:
        """The messages from the root down to a message, or NotFoundError."""
        table = tables.message
        with self._read() as connection:
            leaf = (
                connection.execute(
                    select(table.c.conversation_id, table.c.id.label("context_message_id")).where(
                        table.c.id == message_id
                    )
                )
                .mappings()
                .one_or_none()
            )
            if leaf is None:
                raise NotFoundError(f"There is no message {message_id!r}; it may belong to another workspace.")
            return load_paths(connection, [leaf])[0]

    def open_conversation(self, worker_id: str, study_id: str) -> Conversation | None:
        """The worker's newest conversation in a study that has not ended."""
        table = tables.conversation
        statement = (
            select(table)
            .where(table.c.worker_id == worker_id, table.c.study_id == study_id, table.c.ended_at.is_(None))
            .order_by(table.c.id.desc())
            .limit(1)
        )
        with self._read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else conversation_from(row)

    def end_conversation(self, id: str, reason: str) -> None:
        """Ends a conversation; one that has ended keeps its first reason."""
        self._write(lambda unit: end_conversation(unit, id, reason))


def add_message(unit: Unit, message: TreeMessage, parent_role: str | None = None) -> RowMapping:
    """`Conversations.add_message` as a part of a larger unit; the row of the conversation.

    Args:
        parent_role: of the message's parent, where the same unit has just written it.
    """
    conversation = one_row(unit.connection, tables.conversation, message.conversation_id, "conversation", lock=True)
    insert_message(unit, conversation, message, parent_role)
    unit.log(
        conversation["worker_id"] or "store",
        "message.added",
        message.id,
        conversation_id=message.conversation_id,
        role=message.role,
    )
    return conversation


def end_conversation(unit: Unit, id: str, reason: str) -> None:
    """`Conversations.end_conversation` as a part of a larger unit."""
    table = tables.conversation
    row = one_row(unit.connection, table, id, "conversation", lock=True)
    if row["ended_at"] is None:
        unit.connection.execute(update(table).where(table.c.id == id).values(ended_at=now(), end_reason=reason))
        unit.log(row["worker_id"] or "store", "conversation.ended", id, reason=reason)


def insert_message(unit: Unit, conversation: RowMapping, message: TreeMessage, parent_role: str | None = None) -> None:
    """The row of a turn, after the rules of a conversation: one root, speakers take turns, nothing after the end."""
    checked_text(message.text, f"The {message.role} turn")
    if conversation["ended_at"] is not None:
        raise StateError(f"Conversation {message.conversation_id} has ended; begin a new one.")
    if message.parent_id is None:
        if _root(unit.connection, message.conversation_id) is not None:
            raise StateError(f"Conversation {message.conversation_id} has a first turn already; name its parent.")
    else:
        if parent_role is None:
            parent = one_row(unit.connection, tables.message, message.parent_id, "message")
            parent_role = parent["role"]
            if parent["conversation_id"] != message.conversation_id:
                raise StateError(
                    f"Message {message.parent_id} belongs to another conversation; name a parent of this one."
                )
        if parent_role == message.role:
            raise StateError(f"Two {message.role} turns cannot follow each other; wait for the other speaker.")
    unit.insert(tables.message, row_of(message))


def _root(connection: Connection, conversation_id: str) -> str | None:
    table = tables.message
    return connection.scalar(
        select(table.c.id).where(table.c.conversation_id == conversation_id, table.c.parent_id.is_(None))
    )
