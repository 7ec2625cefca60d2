"""What the page writes in one transaction where the parts would each need their own: a whole turn, an end.

Knows nothing of pages; the rules of each part stand where the part does.
"""

from __future__ import annotations

from prefloop.schema import Comparison, TreeMessage
from prefloop.store.comparisons import PLACE_SECONDS, add_comparison
from prefloop.store.conversations import add_message, end_conversation
from prefloop.store.database import Database, Unit
from prefloop.store.judgments import continue_with
from prefloop.store.views import Continuation


class Asking(Database):
    """The part of the store that takes a conversation from one turn to the next."""

    def add_turn(
        self,
        message: TreeMessage,
        comparison: Comparison,
        continuation: Continuation | None = None,
        place_seconds: float = PLACE_SECONDS,
    ) -> TreeMessage | None:
        """A worker's message and the comparison of two answers to it; all of it or nothing.

        With a continuation, made before the message (turns sort by their ids), the conversation first goes on with
        that reply, which is returned and becomes the message's parent.

        Errors: those of `continue_with`, `add_message` and `add_comparison`.
        """

        def work(unit: Unit) -> TreeMessage | None:
            reply = None if continuation is None else continue_with(unit, continuation)
            if reply is None:
                conversation = add_message(unit, message)
            else:
                conversation = add_message(unit, message.model_copy(update={"parent_id": reply.id}), "assistant")
            asked = (comparison.context_message_id, comparison.conversation_id)
            is_its_context = message.role == "user" and asked == (message.id, message.conversation_id)
            add_comparison(unit, comparison, place_seconds, conversation if is_its_context else None)
            return reply

        return self._write(work)

    def close_conversation(self, id: str, reason: str, continuation: Continuation | None = None) -> None:
        """Ends a conversation, after it has gone on with its last reply. Errors: those of `continue_with`."""

        def work(unit: Unit) -> None:
            if continuation is not None:
                continue_with(unit, continuation)
            end_conversation(unit, id, reason)

        self._write(work)
