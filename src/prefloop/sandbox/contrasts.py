"""Pairs for PM pre-training (PMP): one reply speaks of what was asked for, the other of something else.

Both replies are drawn with the same manners. The wrong one is made in one of three ways: with the very same words
around other slots; from the right one, by putting another thing in one place; or independently of the right one, so
that a score must not depend on how a reply is made. Nothing else of anybody's preference is in these pairs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from prefloop.sandbox.language import Request, World, speaks_of
from prefloop.sandbox.speaker import Manners, Speaker, other_slots
from prefloop.schema import Message, Mode, PreferencePair

PRE_TRAINING_WAYS = (0.25, 0.25, 0.5)
"""Same words, one place, independent, as PM pre-training mixes them."""
_SAME_KIND = 0.7  # share of pairs whose wrong side differs in the slots, not in the kind of request
_EXACT = Manners(right_slots=1.0, right_kind=1.0, stray_detail=0.0)


def contrast_pairs(
    world: World, seed: int, count: int, *, harmful_share: float = 0.3, ways: Sequence[float] = (1.0, 0.0, 0.0)
) -> Iterator[PreferencePair]:
    """`count` pairs from a seed. `ways` weighs same words, one place, independent."""
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
        state = chance.getstate()
        right = exact.reply(request)
        if speaks_of(request, world.read_reply(right) or []) is not True:
            continue  # it names nothing
        way = chance.choices((_same_words, _one_place, _independent), ways)[0]
        wrong = way(exact, request, right, state)
        if wrong is None:
            continue
        made += 1
        yield PreferencePair(
            context=(*context, asked),
            chosen=right,
            rejected=wrong,
            conversation_id=f"contrast-{made}",
            mode=Mode.RED_TEAM if request.kind.harmful else Mode.HELPFUL,
        )


def _other(speaker: Speaker, request: Request) -> Request:
    """Something else to speak of."""
    if speaker.chance.random() < _SAME_KIND:
        return replace(request, slots=other_slots(speaker.world, speaker.chance, request))
    return speaker.world.draw_request(speaker.chance, request.kind.harmful, unlike=request)


def _same_words(speaker: Speaker, request: Request, right: str, state: Any) -> str | None:
    other = _other(speaker, request)
    after = speaker.chance.getstate()
    speaker.chance.setstate(state)  # what `right` was drawn from
    wrong = speaker.reply(other)
    speaker.chance.setstate(after)
    return _if_wrong(speaker, request, wrong)


def _independent(speaker: Speaker, request: Request, right: str, state: Any) -> str | None:
    return _if_wrong(speaker, request, speaker.reply(_other(speaker, request)))


def _one_place(speaker: Speaker, request: Request, right: str, state: Any) -> str | None:
    """Any other thing of the world in one of the places that name a slot; it need not make sense there."""
    words = right.split(" ")
    places = [i for i, word in enumerate(words) if word.rstrip(".") in request.slots]
    if not places:
        return None
    place = speaker.chance.choice(places)
    thing = speaker.chance.choice([w for sort in speaker.world.words.values() for w in sort if w not in request.slots])
    words[place] = thing + words[place][len(words[place].rstrip(".")) :]
    return " ".join(words)


def _if_wrong(speaker: Speaker, request: Request, reply: str) -> str | None:
    return reply if speaks_of(request, speaker.world.read_reply(reply) or []) is False else None
