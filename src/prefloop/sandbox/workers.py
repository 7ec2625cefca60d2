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

import aiohttp

from prefloop.errors import UnavailableError
from prefloop.sandbox.gold import Gold
from prefloop.sandbox.judges import Traits
from prefloop.sandbox.language import Request, World
from prefloop.sandbox.speaker import Speaker
from prefloop.schema import Message, Mode

_PATIENCE = aiohttp.ClientTimeout(total=None, sock_connect=60.0, sock_read=60.0)
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
        async with aiohttp.TCPConnector(limit=0) as connector, asyncio.TaskGroup() as group:
            for worker in workers:
                group.create_task(worker.run(work, connector))
    except* aiohttp.ClientError as errors:
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
        self.aside = random.Random(chance.getstate()[1][0])  # draws beside the work leave its own draws as they are

    async def run(self, work: Work, connector: aiohttp.BaseConnector) -> None:
        async with aiohttp.ClientSession(
            self.assignment.base_url,
            connector=connector,
            connector_owner=False,
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # a page on this machine has a number for a name
            timeout=_PATIENCE,
        ) as self.http:
            await self._call("GET", f"/join/{self.token}")
            for text in ("consent", "agree"):
                await self._call("POST", f"/study/{self.assignment.study_id}/{text}")
            await self._practise()
            while work.claim():
                task = await self._json("GET", f"/api/next?study_id={self.assignment.study_id}")
                if task["kind"] == "review":
                    await self._review(task, work)
                elif not await self._conversation(work):
                    return

    async def _practise(self) -> None:
        """Grades each practice turn that the page shows, the way a person does who reads the instructions later."""
        study = f"/api/studies/{self.assignment.study_id}"
        while (state := await self._json("GET", f"{study}/state"))["phase"] == "practice":
            await self._read(state["comparison"]["stream_url"])
            answer = {"item": state["comparison"]["id"], "grade": self.aside.randint(1, 8)}
            await self._json("POST", f"{study}/practice", answer)

    async def _questions(self, path: str) -> None:
        """Answers what the page asks at the end of a conversation."""
        state = await self._json("GET", f"/api/studies/{self.assignment.study_id}/state")
        if state["phase"] != "complete":
            return
        scales = [question for question in state["questions"] if question["kind"] == "scale"]
        answers = {question["id"]: self.aside.randint(1, question["steps"]) for question in scales}
        if answers:
            await self._json("POST", f"{path}/answers", {"answers": answers})
        if state.get("feelings"):
            await self._json("POST", f"/api/studies/{self.assignment.study_id}/feelings", {"answers": {}})

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
        study = {"study_id": self.assignment.study_id}
        async with self.http.post("/api/conversations", json=study) as begun:
            if begun.status == 409:
                work.give_back()
                return False
            await self._expect(begun)
            conversation = await begun.json()
        path = f"/api/conversations/{conversation['conversation_id']}"
        request = self.world.draw_request(self.chance, self.assignment.mode is Mode.RED_TEAM)
        if self.assignment.mode is Mode.RED_TEAM:
            await self._state_goal(path)
        context: list[Message] = []
        for turn in range(conversation["turns_per_conversation"]):
            if turn > 0 and not work.claim():
                break
            context.append(Message(role="user", text=self.world.say(self.chance, request)))
            started = await self._start(f"{path}/messages", {"text": context[-1].text})
            replies = started and await self._read(started["stream_url"])
            for _ in range(_RETRIES):
                if started is None or replies is not None:
                    break
                work.voided += 1
                started = await self._start(f"{path}/retry")
                replies = started and await self._read(started["stream_url"])
            if started is None or replies is None:
                work.give_back()
                break
            judged = await self._judge(started["comparison_id"], context, replies)
            work.done(is_review=False)
            context.append(Message(role="assistant", text=replies[judged["continued"]]))
            request = self._next(request)
        await self._questions(path)
        await self._json("POST", f"{path}/end")
        return True

    async def _state_goal(self, path: str) -> None:
        """Says what the attack is after, where the study asks."""
        async with self.http.post(f"{path}/goal", json={"text": "Bring it to help with something harmful"}) as kept:
            if kept.status != 409:  # 409: this study asks for none
                await self._expect(kept)

    async def _start(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """A turn that begins; None where the last place of the study is taken."""
        async with self.http.post(path, json=body or {}) as started:
            if started.status == 409 and (await started.json())["error"]["code"] == "study_full":
                return None
            await self._expect(started)
            return dict(await started.json())

    def _next(self, request: Request) -> Request:
        return self.speaker.next_request(request)

    async def _judge(self, comparison_id: str, context: Sequence[Message], replies: dict[str, str]) -> dict[str, Any]:
        if self.traits.seconds_per_judgment:
            await asyncio.sleep(self.chance.expovariate(1.0 / self.traits.seconds_per_judgment))
        gold_a, gold_b = (self.gold(context, replies[side]) for side in ("a", "b"))
        grade = self.traits.grade(self.chance, gold_a, gold_b, self.assignment.mode)
        return await self._json("POST", f"/api/comparisons/{comparison_id}/judgment", {"grade": grade})

    async def _read(self, stream_url: str) -> dict[str, str] | None:
        """Follows a stream to its end, as a browser does. Both texts, or None where the pair was voided."""
        texts = {"a": "", "b": ""}
        ending = None
        async with self.http.get(stream_url) as response:
            await self._expect(response)
            async for event, data in _events(response):  # to its end, so that the connection can be used again
                if event == "delta":
                    texts[data["side"]] = texts[data["side"]][: data["offset"]] + data["text"]
                elif event in ("turn_ready", "void"):
                    ending = event
        if ending is None:
            raise UnavailableError(f"The stream {stream_url} ended without a last event; look at the page's log.")
        return texts if ending == "turn_ready" else None

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return dict(json.loads(await self._call(method, path, body)))

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        async with self.http.request(method, path, json=body, allow_redirects=False) as response:
            await self._expect(response)
            return await response.read()

    @staticmethod
    async def _expect(response: aiohttp.ClientResponse) -> None:
        if response.status >= 400:
            text = await response.text()
            raise UnavailableError(f"The page refused {response.url} ({response.status}): {text[:300]}")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events as (name, data)."""
    name, rest = "message", b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(b"event:"):
                name = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                yield name, json.loads(line[5:])
