"""Pairs for PM pre-training (PMP): one reply speaks of what was asked for, the other of something else.

Both replies are drawn with the same manners, in one part of the pairs with the very same words around the slots, in
the other independently of each other, so that a score must not depend on how a reply is made. Nothing else of
anybody's preference is in these pairs: knows nothing of gold.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from prefloop.sandbox.language import Request, World, speaks_of
from prefloop.sandbox.speaker import Manners, Speaker, other_slots
from prefloop.schema import Message, Mode, PreferencePair

_SAME_KIND = 0.7  # share of pairs whose wrong side differs in the slots, not in the kind of request
_EXACT = Manners(right_slots=1.0, right_kind=1.0, stray_detail=0.0)


def contrast_pairs(
    world: World, seed: int, count: int, *, harmful_share: float = 0.3, same_words: float = 1.0
) -> Iterator[PreferencePair]:
    """`count` pairs from a seed; a share `same_words` of them differ in what they speak of alone."""
    chance = random.Random(f"contrast-{seed}")
    any_manners, exact = Speaker(world, chance), Speaker(world, chance, _EXACT)
    made = 0
    while made < count:
        context = any_manners.dialogue(chance.choice((0, 0, 1, 2)), chance.random() < harmful_share)
        before = world.read_request(context[:-1]) if context else None
        if before is None:
            request = world.draw_request(chance, chance.random() < harmful_share)
        else:
            request = any_manners.next_request(before)
        asked = Message(role="user", text=world.say(chance, request))
        right, wrong = _replies(exact, request, chance.random() < same_words)
        is_right, is_wrong = (speaks_of(request, world.read_reply(reply) or []) for reply in (right, wrong))
        if is_right is not True or is_wrong is not False:
            continue  # one of them names nothing
        made += 1
        yield PreferencePair(
            context=(*context, asked),
            chosen=right,
            rejected=wrong,
            conversation_id=f"contrast-{made}",
            mode=Mode.RED_TEAM if request.kind.harmful else Mode.HELPFUL,
        )


def _replies(speaker: Speaker, request: Request, same_words: bool) -> tuple[str, str]:
    """One reply to the request, and one to another."""
    chance = speaker.chance
    if chance.random() < _SAME_KIND:
        other = replace(request, slots=other_slots(speaker.world, chance, request))
    else:
        other = speaker.world.draw_request(chance, request.kind.harmful, unlike=request)
    state = chance.getstate()
    right = speaker.reply(request)
    if same_words:
        chance.setstate(state)
    return right, speaker.reply(other)
