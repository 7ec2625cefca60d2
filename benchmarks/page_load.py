"""Workers for bench_page.py, all in one process: each sends, reads both answers, judges, goes on at once.

    python benchmarks/page_load.py PAGE STUDY SECONDS < invitation tokens, one a line

Prints one JSON object: every measured turn with its times and a digest of what was read, for the side that knows the
database. A turn counts when it began after the first quarter of its worker's time (the workers' start is spread over
five seconds, so that they do not march in step).
"""

from __future__ import annotations

import asyncio
import gc
import hashlib
import json
import random
import sys
import time
from typing import Any

import aiohttp

SPREAD_SECONDS = 5.0
MESSAGES = ("How do I boil an egg?", "And how long for a soft one?", "What if it is from the fridge?", "Thank you!")


class Load:
    """What all workers share: where, what, until when, and what was measured."""

    def __init__(self, page: str, study: str, seconds: float) -> None:
        self.page, self.study, self.seconds = page, study, seconds
        self.begin = time.monotonic()
        self.turns: list[dict[str, Any]] = []
        self.faults: list[str] = []
        self.open_streams = 0
        self.samples: list[int] = []

    @property
    def counts_from(self) -> float:
        return self.begin + SPREAD_SECONDS + self.seconds / 4

    @property
    def end(self) -> float:
        return self.begin + SPREAD_SECONDS + self.seconds

    async def sample(self) -> None:
        """How many workers have both sides streaming, ten times a second."""
        while time.monotonic() < self.end:
            await asyncio.sleep(0.1)
            if time.monotonic() > self.counts_from:
                self.samples.append(self.open_streams)

    async def worker(self, token: str, wait: float, connector: aiohttp.TCPConnector) -> None:
        """One person, from the invitation on."""
        await asyncio.sleep(wait)
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(
            self.page, connector=connector, connector_owner=False, cookie_jar=jar
        ) as session:
            async with session.get(f"/join/{token}", allow_redirects=False) as answer:
                answer.raise_for_status()
            while time.monotonic() < self.end:
                started = await self._post(session, "/api/conversations", {"study_id": self.study})
                for text in MESSAGES:
                    if time.monotonic() >= self.end:
                        return
                    await self._turn(session, started["conversation_id"], text)

    async def _turn(self, session: aiohttp.ClientSession, conversation_id: str, text: str) -> None:
        asked = time.monotonic()
        pair = await self._post(session, f"/api/conversations/{conversation_id}/messages", {"text": text})
        posted = time.monotonic()
        texts = {"a": "", "b": ""}
        first = ready = 0.0
        last = ""
        async with session.get(pair["stream_url"]) as stream:
            stream.raise_for_status()
            event = ""
            async for line in stream.content:
                if line.startswith(b"event: "):
                    event = line[7:-1].decode()
                elif line.startswith(b"data: "):
                    last = event
                    if event == "delta":
                        if not first:
                            first = time.monotonic()
                            self.open_streams += 1
                        delta = json.loads(line[6:])
                        assert delta["offset"] == len(texts[delta["side"]]), "a piece is missing or came twice"
                        texts[delta["side"]] += delta["text"]
        ready = time.monotonic()
        self.open_streams -= bool(first)
        if last != "turn_ready":
            self.faults.append(f"{pair['comparison_id']} ended with {last}")
            await self._post(session, f"/api/conversations/{conversation_id}/retry", {})
            return
        grade = random.Random(pair["comparison_id"]).randint(1, 8)
        judged = await self._post(session, f"/api/comparisons/{pair['comparison_id']}/judgment", {"grade": grade})
        done = time.monotonic()
        models = [float(side.split(" ")[0]) for side in texts.values()]
        self.turns.append(
            {
                "comparison": pair["comparison_id"],
                "judgment": judged["judgment_id"],
                "grade": grade,
                "digest": hashlib.sha256(json.dumps([texts["a"], texts["b"]]).encode()).hexdigest(),
                "counts": asked > self.counts_from,
                "added_ttft_ms": 1000 * (first - asked) - max(models),
                "message_ms": 1000 * (posted - asked),
                "judgment_ms": 1000 * (done - ready),
                "stream_seconds": ready - first,
            }
        )

    async def _post(self, session: aiohttp.ClientSession, path: str, body: dict[str, Any]) -> dict[str, Any]:
        async with session.post(path, json=body) as answer:
            if answer.status >= 300:
                raise RuntimeError(f"{path}: {answer.status} {await answer.text()}")
            return dict(await answer.json())


async def main(page: str, study: str, seconds: float, tokens: list[str]) -> None:
    load = Load(page, study, seconds)
    async with aiohttp.TCPConnector(limit=0) as connector, asyncio.TaskGroup() as group:
        group.create_task(load.sample())
        for place, token in enumerate(tokens):
            group.create_task(load.worker(token, SPREAD_SECONDS * place / len(tokens), connector))
    streaming = sum(load.samples) / max(1, len(load.samples))
    print(json.dumps({"turns": load.turns, "faults": load.faults, "streaming": streaming}))


if __name__ == "__main__":
    gc.disable()  # no pauses of its own between the page and the clock
    arguments = (sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.stdin.read().split())
    try:
        import uvloop
    except ImportError:
        asyncio.run(main(*arguments))
    else:
        uvloop.run(main(*arguments))
