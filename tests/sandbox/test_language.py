"""The language reads back what it says, and nothing else."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.sandbox import Manners, Request, Speaker, draw_prompts, is_harmful, world
from prefloop.sandbox.language import MORE_REQUESTS, OPENERS, REQUESTS
from prefloop.schema import Message

WORLD = world()
seeds = st.integers(0, 2**32)


def said(text: str) -> Message:
    return Message(role="user", text=text)


def test_two_dozen_kinds_harmless_and_harmful() -> None:
    assert len(WORLD.harmless) >= 18
    assert len(WORLD.harmful) >= 6
    assert all(kind.reason and kind.instead for kind in WORLD.harmful)


def test_every_detail_belongs_to_one_kind() -> None:
    details = [text for kind in WORLD.kinds for text in kind.details]
    assert len(details) == len(set(details))


@given(seeds)
def test_a_request_is_read_back(seed: int) -> None:
    chance = random.Random(seed)
    request = WORLD.draw_request(chance, harmful=chance.random() < 0.5)
    assert WORLD.read_request([said(WORLD.say(chance, request))]) == request


def test_no_two_requests_are_said_alike() -> None:
    requests = WORLD.all_requests()
    assert len({template.format(vp=r.phrase()) for r in requests for template in REQUESTS}) == len(requests) * len(
        REQUESTS
    )


def test_tell_me_more_points_to_the_request_before() -> None:
    cook = Request(WORLD.kind["cook"], ("soup",))
    context = [said("How do I cook soup?"), Message(role="assistant", text="x"), said(MORE_REQUESTS[0])]
    more = WORLD.read_request(context)
    assert more == Request(cook.kind, cook.slots, is_more=True)
    assert WORLD.read_request([said(MORE_REQUESTS[0])]) is None


@given(seeds)
def test_a_reply_is_read_back_sentence_by_sentence(seed: int) -> None:
    chance = random.Random(seed)
    reply = Speaker(WORLD, chance).reply(WORLD.draw_request(chance, harmful=chance.random() < 0.3))
    sentences = WORLD.read_reply(reply)
    assert sentences is not None
    assert len(sentences) == sum(reply.count(mark) for mark in ".?!")


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "Here is how to cook soup",  # no full stop
        "Here is how to cook soup.  Stir every few minutes.",  # two spaces
        "Here is how to cook dog.",  # no dish
        "Here is how to cook soup. soup soup.",
        " Here is how to cook soup.",
    ],
)
def test_what_is_not_of_the_language_does_not_parse(reply: str) -> None:
    assert WORLD.read_reply(reply) is None


def test_openers_name_the_slots_and_address_the_person() -> None:
    [sentence] = WORLD.read_reply(OPENERS[0].format(vp="care for your dog")) or []
    assert (sentence.sort, sentence.kind, sentence.slots) == ("opener", "pet", ("dog",))


def test_prompts_depend_on_the_seed_alone_and_do_not_repeat() -> None:
    first = draw_prompts(WORLD, 3, 200)
    assert first == draw_prompts(WORLD, 3, 200)
    assert len(set(first)) == 200
    fresh = draw_prompts(WORLD, 4, 200, exclude=first)
    assert not set(first) & set(fresh)
    harmful = sum(is_harmful(WORLD, context) for context in first)
    assert 30 <= harmful <= 90  # 200 draws at 0.3: mean 60, standard deviation 6.5


def test_manners_set_how_often_the_slots_are_right() -> None:
    chance = random.Random(0)
    speaker = Speaker(WORLD, chance, Manners(right_slots=1.0, right_kind=1.0, opener=1.0, refuse_harmless=0.0))
    for _ in range(200):
        request = WORLD.draw_request(chance, harmful=False)
        named = [s.slots for s in WORLD.read_reply(speaker.reply(request)) or [] if s.sort == "opener"]
        assert named == [request.slots]


def test_leaving_contexts_out_does_not_shift_the_mix_of_kinds() -> None:
    """Most of what can be asked in one turn is taken; without care, kinds with two slots would take its place."""

    def two_slots(contexts: list[tuple[Message, ...]]) -> float:
        requests = [request for context in contexts if (request := WORLD.read_request(context))]
        return sum(len(request.slots) == 2 for request in requests) / len(requests)

    taken = draw_prompts(WORLD, 1, 6000)
    fresh = draw_prompts(WORLD, 2, 2000, exclude=taken)
    assert two_slots(fresh) == pytest.approx(two_slots(draw_prompts(WORLD, 2, 2000)), abs=0.05)
