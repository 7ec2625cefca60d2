"""Simulated workers: they speak HTTP like a browser and judge by `judges`. Know the page's routes, not its inside.

Each worker opens an invitation link, agrees, and then works: a second opinion where the page has one to give, else a
conversation in which every next message depends on the one before. A worker sees texts alone.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from prefloop.errors import UnavailableError
from prefloop.sandbox.gold import Gold
from prefloop.sandbox.judges import Traits
from prefloop.sandbox.language import Request, World
from prefloop.sandbox.speaker import Speaker
from prefloop.schema import Message, Mode

_PATIENCE_SECONDS = 60.0
_RETRIES = 3


@dataclass(frozen=True)
class Assignment:
    """Where the workers work: one invitation link each, in one study."""

    base_url: str
    study_id: str
    mode: Mode
    tokens: tuple[str, ...]


@dataclass
class Work:
    """What was done so far; `on_judgment` is called after each accepted judgment."""

    target_judgments: int
    on_judgment: Callable[[], Any] = lambda: None
    judgments: int = 0
    reviews: int = 0
    voided: int = 0
    _started: int = field(default=0, repr=False)

    def claim(self) -> bool:
        """One more judgment to make? Claims are handed back by `give_back` where a pair came to nothing."""
        if self._started >= self.target_judgments:
            return False
        self._started += 1
        return True

    def give_back(self) -> None:
        self._started -= 1

    def done(self, is_review: bool) -> None:
        self.judgments += 1
        self.reviews += is_review
        self.on_judgment()


async def work(assignment: Assignment, world: World, traits: Sequence[Traits], work: Work, seed: int) -> None:
    """Lets one simulated worker per token work until `work` has its judgments.

    Errors:
        UnavailableError: the page does not answer.
    """
    gold = Gold(world)
    workers = [
        _SimulatedWorker(assignment, token, world, gold, trait, random.Random(f"worker-{seed}-{assignment.mode}-{i}"))
        for i, (token, trait) in enumerate(zip(assignment.tokens, traits, strict=True))
    ]
    try:
        async with asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run(work))
    except* httpx.TransportError as errors:
        raise UnavailableError(
            f"The page at {assignment.base_url} stopped answering ({errors.exceptions[0]!r}); start it and resume."
        ) from None


class _SimulatedWorker:
    def __init__(
        self, assignment: Assignment, token: str, world: World, gold: Gold, traits: Traits, chance: random.Random
    ) -> None:
        self.assignment, self.token, self.world, self.gold = assignment, token, world, gold
        self.traits, self.chance = traits, chance
        self.speaker = Speaker(world, chance)

    async def run(self, work: Work) -> None:
        async with httpx.AsyncClient(base_url=self.assignment.base_url, timeout=_PATIENCE_SECONDS) as self.http:
            await self._expect(await self.http.get(f"/join/{self.token}", follow_redirects=True))
            await self._expect(await self.http.post(f"/study/{self.assignment.study_id}/agree"))
            while work.claim():
                task = await self._get("/api/next", study_id=self.assignment.study_id)
                if task["kind"] == "review":
                    await self._review(task, work)
                elif not await self._conversation(work):
                    return

    async def _review(self, task: dict[str, Any], work: Work) -> None:
        """A second opinion: the context is read-only, both answers are there."""
        context = [Message(role=m["role"], text=m["text"]) for m in task["state"]["messages"]]
        replies = await self._read(task["stream_url"])
        if replies is None:
            work.give_back()
            return
        await self._judge(task["comparison_id"], context, replies)
        work.done(is_review=True)

    async def _conversation(self, work: Work) -> bool:
        """One conversation; its first judgment is claimed already. False where the study is closed."""
        begun = await self.http.post("/api/conversations", json={"study_id": self.assignment.study_id})
        if begun.status_code == 409:
            work.give_back()
            return False
        conversation = (await self._expect(begun)).json()
        path = f"/api/conversations/{conversation['conversation_id']}"
        request = self.world.draw_request(self.chance, self.assignment.mode is Mode.RED_TEAM)
        context: list[Message] = []
        for turn in range(conversation["turns_per_conversation"]):
            if turn > 0 and not work.claim():
                break
            context.append(Message(role="user", text=self.world.say(self.chance, request)))
            started = await self._post(f"{path}/messages", text=context[-1].text)
            replies = await self._read(started["stream_url"])
            for _ in range(_RETRIES):
                if replies is not None:
                    break
                work.voided += 1
                started = await self._post(f"{path}/retry")
                replies = await self._read(started["stream_url"])
            if replies is None:
                work.give_back()
                break
            judged = await self._judge(started["comparison_id"], context, replies)
            work.done(is_review=False)
            context.append(Message(role="assistant", text=replies[judged["continued"]]))
            request = self._next(request)
        await self._post(f"{path}/end")
        return True

    def _next(self, request: Request) -> Request:
        return self.speaker.next_request(request)

    async def _judge(self, comparison_id: str, context: Sequence[Message], replies: dict[str, str]) -> dict[str, Any]:
        if self.traits.seconds_per_judgment:
            await asyncio.sleep(self.chance.expovariate(1.0 / self.traits.seconds_per_judgment))
        gold_a, gold_b = (self.gold(context, replies[side]) for side in ("a", "b"))
        grade = self.traits.grade(self.chance, gold_a, gold_b, self.assignment.mode)
        return await self._post(f"/api/comparisons/{comparison_id}/judgment", grade=grade)

    async def _read(self, stream_url: str) -> dict[str, str] | None:
        """Follows a stream to its end, as a browser does. Both texts, or None where the pair was voided."""
        texts = {"a": "", "b": ""}
        async with self.http.stream("GET", stream_url) as response:
            await self._expect(response)
            async for event, data in _events(response):
                if event == "delta":
                    texts[data["side"]] = texts[data["side"]][: data["offset"]] + data["text"]
                elif event == "turn_ready":
                    return texts
                elif event == "void":
                    return None
        raise UnavailableError(f"The stream {stream_url} ended without a last event; look at the page's log.")

    async def _get(self, path: str, **query: str) -> dict[str, Any]:
        return dict((await self._expect(await self.http.get(path, params=query))).json())

    async def _post(self, path: str, **body: Any) -> dict[str, Any]:
        return dict((await self._expect(await self.http.post(path, json=body or None))).json())

    @staticmethod
    async def _expect(response: httpx.Response) -> httpx.Response:
        if response.status_code >= 400:
            await response.aread()
            raise UnavailableError(
                f"The page refused {response.request.url} ({response.status_code}): {response.text[:300]}"
            )
        return response


async def _events(response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events as (name, data)."""
    name = "message"
    async for line in response.aiter_lines():
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            yield name, json.loads(line[5:])
