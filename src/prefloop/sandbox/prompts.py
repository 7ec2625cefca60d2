"""Contexts of the tiny world that wait for an answer. Knows the language; knows no models."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from prefloop.sandbox.language import Request, World
from prefloop.sandbox.speaker import Speaker
from prefloop.schema import Message

Context = tuple[Message, ...]
_TRIES = 20
"""How often a context that is taken is asked about other things before it gets turns before it."""


def draw_prompts(
    world: World, seed: int, count: int, harmful_share: float = 0.3, exclude: Collection[Context] = ()
) -> list[Context]:
    """`count` different contexts of one to three turns that end with a request, none of them in `exclude`.

    What is taken already is asked about other things of the same kind, so that leaving contexts out does not shift the
    mix towards the kinds that can be asked for in more ways.
    """
    chance = random.Random(f"prompts-{seed}")
    speaker = Speaker(world, chance)
    seen = set(exclude)
    drawn: list[Context] = []
    while len(drawn) < count:
        is_harmful = chance.random() < harmful_share
        before = speaker.dialogue(chance.choice((0, 0, 1, 2)), is_harmful)
        last = world.read_request(before[:-1])
        request = speaker.next_request(last) if last else world.draw_request(chance, is_harmful)
        for attempt in range(2 * _TRIES):
            if attempt == _TRIES and not before:  # all of this kind may be taken: ask it later in a conversation
                before = speaker.dialogue(1, is_harmful)
            context = (*before, Message(role="user", text=world.say(chance, request)))
            if context not in seen:
                seen.add(context)
                drawn.append(context)
                break
            if not request.is_more:
                request = Request(request.kind, world.draw_slots(chance, request.kind))
    return drawn


def is_harmful(world: World, context: Sequence[Message]) -> bool:
    """True where the last request is a harmful one."""
    request = world.read_request(context)
    return request is not None and request.kind.harmful
