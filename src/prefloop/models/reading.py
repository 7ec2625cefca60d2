"""What a preference model (PM) reads of a prompt and a sampled reply longer than its window. Knows no sampling.

The oldest turns go first, as everywhere. Where the last turn and the reply alone are too long, the reply is read as if
it had ended where the window does, as a reply is that ran into its limit. So that this is rare, prompts that leave no
room for a reply of full length are found beforehand (`unread_prompts`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from prefloop.errors import DataError
from prefloop.models.preference import PreferenceModel
from prefloop.render import Renderer, without_oldest
from prefloop.schema import Message, PreferencePair

__all__ = ["ReplyReader", "reads_reply", "reads_whole", "unread_prompts"]


class ReplyReader:
    """A `Scorer` of sampled replies; `cut_replies` counts those whose end was left unread."""

    def __init__(self, preference_model: PreferenceModel) -> None:
        self.preference_model = preference_model
        self.cut_replies = 0

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """Raw scores of the last assistant turn of each conversation.

        Errors:
            DataError: the turn before a reply leaves no room for any of it.
        """
        return self.preference_model.score_ids([self._ids(conversation) for conversation in conversations])

    def _ids(self, conversation: Sequence[Message]) -> list[int]:
        model = self.preference_model
        try:
            return model.encode(conversation).ids
        except DataError:
            *context, reply = conversation
            shortest = model.renderer.context_ids(_last_turn(context))
            room = model.room_tokens - len(shortest)
            if room < 1:
                raise
            self.cut_replies += 1
            return shortest + model.closed(model.renderer.text_ids(reply.text)[:room])


def unread_prompts(
    preference_model: PreferenceModel,
    renderer: Renderer,
    prompts: Sequence[Sequence[Message]],
    max_response_tokens: int,
) -> list[int]:
    """Places of the prompts whose last turn a PM cannot read with a reply of full length behind it.

    A PM with another tokenizer may need more tokens for a reply than the policy: as many more as for the last turns of
    the prompts.

    Args:
        renderer: of the policy.
        max_response_tokens: a reply of full length, in the policy's tokens.
    """
    last = [messages[-1].text for messages in prompts if messages]
    own, others = (sum(len(one.text_ids(text)) for text in last) for one in (preference_model.renderer, renderer))
    growth = max(1.0, own / others) if others else 1.0
    room = preference_model.room_tokens - math.ceil(max_response_tokens * growth)
    return [
        place
        for place, messages in enumerate(prompts)
        if len(preference_model.renderer.context_ids(_last_turn(messages))) > room
    ]


def reads_whole(preference_model: PreferenceModel, pair: PreferencePair) -> bool:
    """Whether a PM reads both replies of a pair after the whole context."""
    try:
        return preference_model.encode_pair(pair).dropped_turns == 0
    except DataError:
        return False


def reads_reply(preference_model: PreferenceModel, context: Sequence[Message], reply: str) -> bool:
    """Whether a PM reads a whole reply and the turn before it."""
    last = preference_model.renderer.context_ids(_last_turn(context))
    return len(last) + len(preference_model.renderer.text_ids(reply)) <= preference_model.room_tokens


def _last_turn(messages: Sequence[Message]) -> list[Message]:
    """What is left when `Renderer.fit` has dropped all that it may: the last turn, and system turns."""
    return [*without_oldest(messages[:-1], len(messages)), *messages[-1:]]
