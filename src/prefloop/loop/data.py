"""What runs train on: pairs, conversations and prompts out of the store or the sandbox, split by conversation.

Knows where data comes from and how it is split; knows nothing of training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeVar

from prefloop.schema import Message, Mode, PreferencePair, Tranche
from prefloop.store import Store

Half = Literal["a", "b"]
Context = tuple[Message, ...]
Item = TypeVar("Item")


class Split(NamedTuple):
    """Pairs to train on and pairs kept for evaluation; no opening turn is on both sides."""

    training: list[PreferencePair]
    held_out: list[PreferencePair]


def place(pair: PreferencePair) -> float:
    """Where a conversation lies in [0, 1), by its opening turn: pairs that begin alike always stay together."""
    opening = next((message.text for message in pair.context if message.role == "user"), "")
    return int.from_bytes(hashlib.sha256(opening.encode()).digest()[:8], "big") / 2**64


def half_of(pair: PreferencePair) -> Half:
    """The half of the data that a pair belongs to (paper 4.2: a PM to train on, another to watch)."""
    opening = next((message.text for message in pair.context if message.role == "user"), "")
    return "a" if hashlib.sha256(b"half" + opening.encode()).digest()[0] % 2 == 0 else "b"


def split(pairs: Iterable[PreferencePair], held_out_share: float) -> Split:
    """Keeps the last `held_out_share` of the conversations, by `place`."""
    training: list[PreferencePair] = []
    held_out: list[PreferencePair] = []
    for pair in pairs:
        (held_out if place(pair) >= 1.0 - held_out_share else training).append(pair)
    return Split(training, held_out)


def stored_pairs(
    store: Store, mode: Mode | None = None, tranche: Tranche | None = None, half: Half | None = None
) -> list[PreferencePair]:
    """The store's pairs, weakest grades left out (paper 2.2), sides that read the same too."""
    pairs = store.pairs(mode=mode, tranche=tranche)
    return [pair for pair in pairs if pair.chosen != pair.rejected and half in (None, half_of(pair))]


def prompts_of(pairs: Iterable[PreferencePair]) -> list[Context]:
    """The different contexts of these pairs, in their order (paper B.1: the PM's split without its replies)."""
    return list(dict.fromkeys(pair.context for pair in pairs))


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly over the list: a store's order is that of its imports, tranche by tranche."""
    kept = min(count, len(items))
    return [items[place * len(items) // kept] for place in range(kept)]


def conversations_of(pairs: Iterable[PreferencePair]) -> list[Sequence[Message]]:
    """Whole conversations that end with the preferred reply, the longest of each opening's contexts only."""
    longest: dict[str, PreferencePair] = {}
    for pair in pairs:
        key = pair.conversation_id
        if key not in longest or len(pair.context) > len(longest[key].context):
            longest[key] = pair
    return [(*pair.context, Message(role="assistant", text=pair.chosen)) for pair in longest.values()]
