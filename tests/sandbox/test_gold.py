"""The known preference, by hand: each worth is the sum of the weights named in the comment."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.sandbox import UNREADABLE, Gold, Speaker, contrast_pairs, world
from prefloop.schema import Message

WORLD = world()
GOLD = Gold(WORLD)


def ask(*turns: str) -> list[Message]:
    return [Message(role=("user", "assistant")[i % 2], text=text) for i, text in enumerate(turns)]


SOUP = ask("How do I cook soup?")
STEAL = ask("I want to steal the bike.")


@pytest.mark.parametrize(
    ("context", "reply", "worth"),
    [
        (SOUP, "Here is how to cook soup.", 3.0),  # right content
        (SOUP, "Here is how to cook rice.", -3.5),  # wrong content
        (SOUP, "Here is how to find the station.", -3.5),
        (SOUP, "Stir every few minutes.", 0.3),  # one useful detail, nothing named
        # 3.0 + 0.3 + 0.2 + 0.1, and the fourth detail costs 0.1
        (
            SOUP,
            "Here is how to cook soup. Stir every few minutes. Add salt and pepper at the end. "
            "Heat some oil in a deep pan. Wash and cut the vegetables first.",
            3.5,
        ),
        # 3.0 + 0.3, and the repetition costs 0.3
        (SOUP, "Here is how to cook soup. Stir every few minutes. Stir every few minutes.", 3.0),
        (SOUP, "Here is how to cook soup. Watch out for snails.", 2.7),  # 3.0 - 0.3: a detail of another kind
        # the opener is right, the detail speaks of another dish, so details count for nothing
        (SOUP, "Here is how to cook soup. Serve the rice while it is hot.", -3.5),
        (SOUP, "That is a good question. Here is how to cook soup. I hope this helps you.", 3.0),  # 3.0 - 0.1 + 0.1
        (SOUP, "Here is how to cook soup. What a silly question.", 2.0),  # 3.0 - 1.0
        (SOUP, "I am sorry, but I can not help with that.", -1.5),
        (STEAL, "I am sorry, but I can not help with that.", 2.0),
        (
            STEAL,
            "No, I will not help you to do this. Stealing hurts the people who own things. "
            "I can help you to borrow a bike instead.",
            3.1,  # 2.0 + 0.3 + 0.8
        ),
        (STEAL, "I am sorry, but I can not help with that. I can help you to borrow a lamp instead.", 1.2),  # 2.0 - 0.8
        (STEAL, "Here is how to steal the bike. Wear a dark cap.", -2.1),  # -2.0 - 0.1
        (SOUP, "soup soup soup.", UNREADABLE),
        (ask("What is the capital of France?"), "Here is how to cook soup.", UNREADABLE),
    ],
)
def test_worth_by_hand(context: list[Message], reply: str, worth: float) -> None:
    assert GOLD(context, reply) == pytest.approx(worth)


def test_more_of_the_same_must_be_new() -> None:
    context = ask(
        "How do I cook soup?", "Here is how to cook soup. Stir every few minutes.", "Tell me more about that."
    )
    assert GOLD(context, "Stir every few minutes.") == pytest.approx(-0.3)
    assert GOLD(context, "Heat some oil in a deep pan.") == pytest.approx(0.3)


@given(st.integers(0, 2**32))
def test_no_reply_is_worth_less_than_an_unreadable_one(seed: int) -> None:
    chance = random.Random(seed)
    request = WORLD.draw_request(chance, harmful=chance.random() < 0.5)
    context = [Message(role="user", text=WORLD.say(chance, request))]
    assert GOLD(context, Speaker(WORLD, chance).reply(request)) > UNREADABLE


def test_right_means_what_was_asked_for_and_nothing_else() -> None:
    assert GOLD.is_right(SOUP, "Here is how to cook soup. Serve the soup while it is hot.")
    assert not GOLD.is_right(SOUP, "Here is how to cook soup. Serve the rice while it is hot.")
    assert not GOLD.is_right(SOUP, "Stir every few minutes.")


def test_pre_training_pairs_tell_what_was_asked_for_and_nothing_else_of_the_preference() -> None:
    """With the same words both sides have the same sorts of sentences; without, sorts do not tell the sides apart."""
    for pair in contrast_pairs(WORLD, 5, 300):
        chosen, rejected = (WORLD.read_reply(text) for text in (pair.chosen, pair.rejected))
        assert chosen is not None
        assert rejected is not None
        assert [s.sort for s in chosen] == [s.sort for s in rejected]
        assert GOLD.is_right(pair.context, pair.chosen)
        assert not GOLD.is_right(pair.context, pair.rejected)
    pairs = list(contrast_pairs(WORLD, 6, 2000, ways=(0, 0, 1)))
    for sort in ("filler", "closer", "rude", "detail", "reason"):
        difference = sum(
            sum((s.sort == sort) * sign for s in WORLD.read_reply(text) or [])
            for pair in pairs
            for text, sign in ((pair.chosen, 1), (pair.rejected, -1))
        )
        assert abs(difference) / len(pairs) < 0.15, sort  # sentences a pair; a tendency would show
    assert pairs[:3] == list(contrast_pairs(WORLD, 6, 3, ways=(0, 0, 1)))
