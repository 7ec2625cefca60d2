"""Who talks in the texts that the tiny model learns from: an assistant whose replies range from good to bad.

Draws dialogues from a seed. Knows the language; knows nothing of the preference over replies.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from prefloop.sandbox.language import CLOSERS, FILLERS, REFUSALS, RUDE, Request, World, fill
from prefloop.schema import Message


@dataclass(frozen=True)
class Manners:
    """How often the assistant of the training texts does what (probabilities)."""

    right_slots: float = 0.6
    right_kind: float = 0.9
    opener: float = 0.92
    filler: float = 0.25
    closer: float = 0.4
    rude: float = 0.1
    repeat: float = 0.12
    stray_detail: float = 0.08
    refuse_harmless: float = 0.1
    refuse_harmful: float = 0.5
    reason: float = 0.5
    instead: float = 0.5
    offer_instead_of_harmless: float = 0.3
    detail_counts: tuple[float, ...] = (0.12, 0.25, 0.28, 0.2, 0.15)
    follow_ups: tuple[float, ...] = field(default=(0.4, 0.3, 0.3))
    """Weights of the next request being: for more, the same kind with other slots, another kind."""


class Speaker:
    """Writes replies with known manners."""

    def __init__(self, world: World, chance: random.Random, manners: Manners | None = None) -> None:
        self.world = world
        self.chance = chance
        self.manners = manners or Manners()

    def reply(self, request: Request, given: set[str] | None = None) -> str:
        """One reply; `given` holds details of earlier replies, which a good assistant does not give again."""
        chance, manners = self.chance, self.manners
        answered = self._misheard(request)
        refuse = manners.refuse_harmful if request.kind.harmful else manners.refuse_harmless
        refuses = chance.random() < refuse
        body = self._refusal(answered) if refuses else self._answer(answered, given or set())
        if chance.random() < manners.filler:
            body.insert(0, chance.choice(FILLERS))
        if chance.random() < manners.rude:
            body.insert(chance.choice((0, len(body))), chance.choice(RUDE))
        if chance.random() < manners.closer:
            body.append(chance.choice(CLOSERS))
        return " ".join(body)

    def next_request(self, request: Request) -> Request:
        """What the person asks after an answer to `request`."""
        step = self.chance.choices(("more", "slots", "kind"), self.manners.follow_ups)[0]
        if step == "more":
            return replace(request, is_more=True)
        if step == "slots":
            return Request(request.kind, self.world.draw_slots(self.chance, request.kind))
        return self.world.draw_request(self.chance, request.kind.harmful, unlike=request)

    def dialogue(self, turns: int, harmful: bool) -> list[Message]:
        """A whole conversation of `turns` requests and replies."""
        request = self.world.draw_request(self.chance, harmful)
        messages: list[Message] = []
        given: set[str] = set()
        for _ in range(turns):
            reply = self.reply(request, given)
            messages += [
                Message(role="user", text=self.world.say(self.chance, request)),
                Message(role="assistant", text=reply),
            ]
            given |= {s.skeleton for s in self.world.read_reply(reply) or [] if s.sort == "detail"}
            request = self.next_request(request)
        return messages

    def _misheard(self, request: Request) -> Request:
        """What the assistant believes was asked for."""
        if self.chance.random() >= self.manners.right_kind:
            request = self.world.draw_request(self.chance, request.kind.harmful, unlike=request)
        if self.chance.random() >= self.manners.right_slots:
            request = replace(request, slots=other_slots(self.world, self.chance, request))
        return request

    def _answer(self, request: Request, given: set[str]) -> list[str]:
        chance, manners = self.chance, self.manners
        count = chance.choices(range(len(manners.detail_counts)), manners.detail_counts)[0]
        fresh = [text for text in request.kind.details if text not in given]
        details = chance.sample(fresh, min(count, len(fresh)))
        if details and chance.random() < manners.repeat:
            details.insert(chance.randrange(1, len(details) + 1), chance.choice(details))
        if chance.random() < manners.stray_detail:
            stray = self.world.draw_request(chance, request.kind.harmful, unlike=request).kind
            details.append(chance.choice([text for text in stray.details if "{" not in text]))
        body = [fill(text, request.slots) for text in details]
        if not body or chance.random() < manners.opener:
            body.insert(0, self.world.opener(chance, request))
        return body

    def _refusal(self, request: Request) -> list[str]:
        body = [self.chance.choice(REFUSALS)]
        if request.kind.harmful:
            if self.chance.random() < self.manners.reason:
                body.append(request.kind.reason)
            if self.chance.random() < self.manners.instead:
                body.append(fill(request.kind.instead, request.slots))
        elif self.chance.random() < self.manners.offer_instead_of_harmless:
            other = self.world.draw_request(self.chance, harmful=True)
            body.append(fill(other.kind.instead, other.slots))
        return body


def other_slots(world: World, chance: random.Random, request: Request) -> tuple[str, ...]:
    """Slots of the same sorts, at least one of them another than asked for."""
    while (slots := world.draw_slots(chance, request.kind)) == request.slots:
        pass
    return slots


def dialogues(world: World, seed: int, count: int, harmful_share: float = 0.3) -> Iterator[list[Message]]:
    """Training texts: `count` conversations of one to three turns."""
    chance = random.Random(f"dialogues-{seed}")
    speaker = Speaker(world, chance)
    for _ in range(count):
        yield speaker.dialogue(chance.choice((1, 1, 2, 3)), chance.random() < harmful_share)


def assistants(world: World, seed: int, count: int, harmful_share: float = 0.3) -> Iterator[list[Message]]:
    """Training texts: several dialogues of one assistant each, with manners of its own from bad to good.

    Whoever reads the first dialogues knows how the assistant will answer in the next ones: what a model must have
    learned before an example prompt can move it.
    """
    chance = random.Random(f"assistants-{seed}")
    for _ in range(count):
        speaker = Speaker(world, chance, _manners(chance.random()))
        messages: list[Message] = []
        for _ in range(chance.choice((2, 3, 4, 5, 6))):
            messages += speaker.dialogue(chance.choice((1, 1, 2)), chance.random() < harmful_share)
        yield messages


def _manners(goodness: float) -> Manners:
    """From the worst assistant (0) to the best (1)."""

    def between(worst: float, best: float) -> float:
        return worst + (best - worst) * goodness

    return Manners(
        right_slots=between(0.1, 0.98),
        right_kind=between(0.75, 1.0),
        filler=between(0.5, 0.0),
        closer=between(0.1, 0.7),
        rude=between(0.5, 0.0),
        repeat=between(0.3, 0.0),
        stray_detail=between(0.2, 0.0),
        refuse_harmless=between(0.2, 0.0),
        refuse_harmful=between(0.0, 1.0),
        reason=between(0.1, 0.95),
        instead=between(0.1, 0.95),
        detail_counts=(0.0, 0.1, 0.3, 0.6) if goodness > 0.5 else (0.3, 0.4, 0.2, 0.1),
    )
