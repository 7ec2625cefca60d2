"""Where one conversation stands: its newest pair, what can be done next, and the sentences for it. Reads no store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from prefloop.schema import Comparison, ComparisonState, Conversation, Judgment, Mode, Response, Study, TreeMessage
from prefloop.store import Continuation, ConversationStanding
from prefloop.web.texts import VOID_MESSAGES


@dataclass(frozen=True)
class Standing:
    """Where a conversation stands in its study."""

    study: Study
    facts: ConversationStanding
    is_full: bool = False

    @property
    def conversation(self) -> Conversation:
        return self.facts.conversation

    @property
    def messages(self) -> tuple[TreeMessage, ...]:
        """From the root on."""
        return self.facts.messages

    @property
    def pairs(self) -> tuple[Comparison, ...]:
        """Two answers each, as a model gave them; edits are left out."""
        return tuple(comparison for comparison in self.facts.comparisons if comparison.edit_of is None)

    @property
    def last(self) -> Comparison | None:
        """The newest pair, if it belongs to the newest message."""
        if self.pairs and self.messages[-1].role == "user":
            newest = self.pairs[-1]
            return newest if newest.context_message_id == self.messages[-1].id else None
        return None

    def edit(self, response: Response) -> Comparison | None:
        """The worker's edit of an answer."""
        return next((one for one in self.facts.comparisons if one.edit_of == response.id), None)

    def own_judgment(self, comparison: Comparison) -> Judgment:
        """The latest judgment by the worker whose conversation it is, of a comparison about the newest message."""
        judgments = [one for one in self.facts.judgments if one.comparison_id == comparison.id]
        return [one for one in judgments if one.worker_id == comparison.worker_id][-1]

    def reply(self, continuation: Continuation) -> TreeMessage:
        """What the conversation goes on with, as a turn that is not in the store yet."""
        comparison = next(one for one in self.facts.comparisons if one.id == continuation.comparison_id)
        text = comparison.response(continuation.side).text
        return TreeMessage(conversation_id=comparison.conversation_id, role="assistant", text=text)

    @property
    def judged(self) -> int:
        """How many turns are judged."""
        return sum(comparison.state is ComparisonState.JUDGED for comparison in self.pairs)

    @property
    def phase(self) -> Literal["write", "answers", "void", "complete", "full"]:
        """What the worker can do now. A message whose pair was never made counts as one whose pair is void.

        Where the study is full, a conversation is complete with what is judged; without any judgment it is `full`.
        """
        is_answered = self.last is not None and self.last.state is ComparisonState.OPEN
        if self.is_full and not is_answered:
            return "complete" if self.judged else "full"
        if self.judged >= self.study.turns_per_conversation:
            return "complete"
        if not self.messages or self.messages[-1].role == "assistant":
            return "write"
        if self.last is None or self.last.state is ComparisonState.VOID:
            return "void"
        return "answers" if self.last.state is ComparisonState.OPEN else "write"


def goes_on_with_edits(study: Study) -> bool:
    """A red-team conversation goes on with what was clicked: its edit is the harmless answer and would end it."""
    return study.mode is Mode.HELPFUL


def void_message(comparison: Comparison | None) -> str:
    """What the worker is told about a void pair (None: it was never made); the stored reason is for the researcher."""
    if comparison is None:
        return VOID_MESSAGES["restarted"]
    reason = (comparison.void_reason or "").removeprefix("a response failed: ").split(":")[0]
    return VOID_MESSAGES.get(reason, VOID_MESSAGES["failed"])


def stopped_message(study: Study) -> str | None:
    """Why nobody may go on at all, not even in a conversation under way; None while the study is open."""
    return (
        None if study.state == "open" else f"This study is {study.state} at the moment. Thank you for your help so far."
    )
