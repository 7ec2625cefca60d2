"""From two lists of turns to a usable pair, or the reason why not: the rules that all pair formats share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from prefloop.errors import DataError
from prefloop.schema import Message
from prefloop.store.database import checked_text
from prefloop.store.imports import ImportedPair, Unusable

# A pair with several faults counts under the first of them, in this order.
IDENTICAL = "identical sides"
NO_REPLY = "does not end in a reply"
CONTEXTS_DIFFER = "contexts differ before the last reply"
NO_TURNS = "no turns"
NOT_STORABLE = "U+0000 or half a surrogate pair in a text"
EMPTY_TURN = "empty turn"
SAME_SPEAKER = "two turns of the same speaker in a row"
NO_USER_TURN = "no human turn before the reply"


def pair_from_turns(
    chosen: Sequence[Message], rejected: Sequence[Message], texts: tuple[str, str] | None = None
) -> ImportedPair | Unusable:
    """The pair whose sides are two whole conversations that end in the replies.

    Args:
        texts: the file's own chosen and rejected text, where turns alone do not give them back.
    """
    if chosen == rejected:
        return Unusable(IDENTICAL)
    if any(turns and turns[-1].role != "assistant" for turns in (chosen, rejected)):
        return Unusable(NO_REPLY)
    if chosen[:-1] != rejected[:-1]:
        return Unusable(CONTEXTS_DIFFER)
    for turns in (chosen, rejected):
        if fault := _fault(turns):
            return Unusable(fault)
    return ImportedPair(tuple(chosen[:-1]), chosen[-1].text, rejected[-1].text, texts)


def _fault(turns: Sequence[Message]) -> str | None:
    if not turns:
        return NO_TURNS
    try:
        for turn in turns:
            checked_text(turn.text, "A turn")
    except DataError:
        return NOT_STORABLE
    if any(not turn.text.strip() for turn in turns):
        return EMPTY_TURN
    if any(one.role == after.role for one, after in pairwise(turns)):
        return SAME_SPEAKER
    if len(turns) < 2 or turns[-2].role != "user":
        return NO_USER_TURN
    return None
