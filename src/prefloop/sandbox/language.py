"""The tiny world's language: requests, replies, and reading both back. Knows no models and no preference.

A reply is a row of sentences, each of one of these sorts (world.toml has the words):
    opener    names what was asked for: "Here is how to cook the soup."
    detail    something useful (or harmful) that belongs to one kind of request
    filler    chatter that says nothing
    closer    a friendly end
    rude      an unfriendly remark
    refusal   "I am sorry, but I can not help with that."
    reason    why a harmful request is refused, one for each harmful kind
    instead   what the assistant offers in its place

Every sentence that the grammar can make is known, so reading a reply back is looking its sentences up.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import product

from prefloop.schema import Message

REQUESTS = (
    "How do I {vp}?",
    "How can I {vp}?",
    "Can you help me to {vp}?",
    "I want to {vp}.",
    "Please tell me how to {vp}.",
    "I would like to {vp} today.",
    "What is the best way to {vp}?",
)
MORE_REQUESTS = ("Tell me more about that.", "What else can I do?", "Is there anything else?", "Please go on.")
OPENERS = (
    "Here is how to {vp}.",
    "This is how you can {vp}.",
    "It is not hard to {vp}.",
    "Let us see how to {vp}.",
)
FILLERS = (
    "That is a good question.",
    "Many people ask me this.",
    "I often think about such things.",
    "Well, there is a lot to say.",
)
CLOSERS = ("Tell me if you need more help.", "I hope this helps you.", "Good luck with it.")
RUDE = ("You should know that already.", "What a silly question.", "Do it yourself next time.")
REFUSALS = ("I am sorry, but I can not help with that.", "No, I will not help you to do this.")

_SENTENCE = re.compile(r"[^.?!]+[.?!]")


@dataclass(frozen=True)
class Kind:
    """One kind of request. `x` and `y` name slots; a harmful kind has a reason and something to do instead."""

    id: str
    verb: str
    details: tuple[str, ...]
    x: str
    y: str | None = None
    harmful: bool = False
    reason: str = ""
    instead: str = ""


@dataclass(frozen=True)
class Request:
    """What was asked for: a kind and its slots. `is_more` asks to go on with the request before."""

    kind: Kind
    slots: tuple[str, ...]
    is_more: bool = False

    def phrase(self) -> str:
        """ "cook soup", as the person says it."""
        return fill(self.kind.verb, self.slots)


@dataclass(frozen=True)
class Sentence:
    """One sentence of a reply, read back. `slots` are those that it names, None where it names none."""

    sort: str
    kind: str | None = None
    slots: tuple[str, ...] | None = None
    skeleton: str = ""


def fill(pattern: str, slots: Sequence[str]) -> str:
    """Puts the slots into a pattern."""
    return pattern.replace("{x}", slots[0]).replace("{y}", slots[-1])


class World:
    """The world's words and its grammar. `world()` gives the one that ships."""

    def __init__(self, words: dict[str, list[str]], kinds: Sequence[Kind]) -> None:
        self.words = words
        self.kinds = tuple(kinds)
        self.harmless = tuple(kind for kind in kinds if not kind.harmful)
        self.harmful = tuple(kind for kind in kinds if kind.harmful)
        self.kind = {kind.id: kind for kind in kinds}
        self._requests = {
            template.format(vp=request.phrase()): request for request in self.all_requests() for template in REQUESTS
        }
        self._sentences = dict(self._all_sentences())

    @property
    def sentence_count(self) -> int:
        """How many different sentences a reply can be made of."""
        return len(self._sentences)

    def all_requests(self) -> list[Request]:
        """Every kind with every filling of its slots."""
        return [
            Request(kind, slots)
            for kind in self.kinds
            for slots in product(*(self.words[name] for name in (kind.x, kind.y) if name))
        ]

    def draw_request(self, chance: random.Random, harmful: bool, unlike: Request | None = None) -> Request:
        """A random request; with `unlike`, of another kind."""
        kinds = self.harmful if harmful else self.harmless
        kind = chance.choice([k for k in kinds if unlike is None or k.id != unlike.kind.id])
        return Request(kind, self.draw_slots(chance, kind))

    def draw_slots(self, chance: random.Random, kind: Kind) -> tuple[str, ...]:
        return tuple(chance.choice(self.words[name]) for name in (kind.x, kind.y) if name)

    def say(self, chance: random.Random, request: Request) -> str:
        """A person's words for a request."""
        if request.is_more:
            return chance.choice(MORE_REQUESTS)
        return chance.choice(REQUESTS).format(vp=request.phrase())

    def read_request(self, context: Sequence[Message]) -> Request | None:
        """What the last user turn asks for; "tell me more" points back to the request before it."""
        users = [message.text for message in context if message.role == "user"]
        if not users:
            return None
        if users[-1] not in MORE_REQUESTS:
            return self._requests.get(users[-1])
        before = next((self._requests.get(text) for text in reversed(users[:-1]) if text not in MORE_REQUESTS), None)
        return None if before is None else Request(before.kind, before.slots, is_more=True)

    def read_reply(self, reply: str) -> list[Sentence] | None:
        """The sentences of a reply, or None where it is not of this language."""
        texts = [text.strip() for text in _SENTENCE.findall(reply)]
        if not texts or " ".join(texts) != reply:
            return None
        sentences = [self._sentences.get(text) for text in texts]
        return None if None in sentences else [sentence for sentence in sentences if sentence]

    def opener(self, chance: random.Random, request: Request) -> str:
        return chance.choice(OPENERS).format(vp=_addressed(request.phrase()))

    def _all_sentences(self) -> list[tuple[str, Sentence]]:
        known = [
            (text, Sentence(sort, skeleton=text))
            for sort, texts in (("filler", FILLERS), ("closer", CLOSERS), ("rude", RUDE), ("refusal", REFUSALS))
            for text in texts
        ]
        for request in self.all_requests():
            kind, slots = request.kind, request.slots
            known += [
                (text.format(vp=_addressed(request.phrase())), Sentence("opener", kind.id, slots, text))
                for text in OPENERS
            ]
            patterns = [("detail", text) for text in kind.details]
            if kind.harmful:
                patterns += [("reason", kind.reason), ("instead", kind.instead)]
            known += [(fill(text, slots), _sentence(sort, kind, text, slots)) for sort, text in patterns]
        return known


def speaks_of(request: Request, sentences: list[Sentence]) -> bool | None:
    """Whether all that a reply names is what was asked for; None where it names nothing."""
    openers = [sentence for sentence in sentences if sentence.sort == "opener"]
    named = [sentence for sentence in sentences if sentence.slots is not None and sentence.kind == request.kind.id]
    if any(opener.kind != request.kind.id for opener in openers):
        return False
    if not named:
        return None
    return all(_names(request, sentence) for sentence in named)


def _names(request: Request, sentence: Sentence) -> bool:
    if sentence.sort == "opener":
        return sentence.slots == request.slots
    return set(sentence.slots or ()) <= set(request.slots)


def _sentence(sort: str, kind: Kind, text: str, slots: tuple[str, ...]) -> Sentence:
    """A sentence of a kind names only the slots that stand in its pattern."""
    named = tuple(slot for mark, slot in zip(("{x}", "{y}"), slots, strict=False) if mark in text)
    return Sentence(sort, kind.id, named or None, text)


def _addressed(phrase: str) -> str:
    """The person's "my" is the assistant's "your"."""
    return phrase.replace(" my ", " your ")


@cache
def world() -> World:
    """The world that ships with the package."""
    text = resources.files("prefloop.sandbox").joinpath("world.toml").read_text(encoding="utf-8")
    data = tomllib.loads(text)
    return World(data["slots"], [Kind(**{**entry, "details": tuple(entry["details"])}) for entry in data["kind"]])
