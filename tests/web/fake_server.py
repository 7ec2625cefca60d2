"""A deterministic responder, a small study around it, and a real server process for them.

What the last message of a worker spells decides what goes wrong: "[fail]" an error event on side B, "[raise]" a server
that cannot be reached, "[cut]" a stream without an end, "[empty]" an empty answer, "[stall]" silence, "[bug]" an
exception that nobody expects, "[lag]" a slow side B. `python fake_server.py DATABASE PORT` serves until killed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from prefloop.config import WorkspaceSettings
from prefloop.errors import UnavailableError
from prefloop.schema import (
    Mode,
    ResponderEvent,
    ResponderRequest,
    Snapshot,
    SnapshotShare,
    Study,
    Tranche,
)
from prefloop.store import Store
from prefloop.web import PageSettings, create_app


class FakeResponder:
    """Answers word by word; keeps every request.

    Args:
        pause_seconds: before each word.
        words: of an answer that is not told otherwise.
        text: the whole answer, in place of words.
    """

    def __init__(self, pause_seconds: float = 0.0, words: int = 12, text: str | None = None) -> None:
        self.pause_seconds, self.words, self.text = pause_seconds, words, text
        self.requests: list[ResponderRequest] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.turn_texts: tuple[str, str] | None = None  # of the first and the second side that is asked, for people
        self.is_held = False
        self._times: Counter[tuple[str, int]] = Counter()

    def hold(self) -> None:
        """Answers stop after two pieces until `release`, from any thread."""
        self.is_held = True

    def release(self) -> None:
        self.is_held = False

    async def models(self) -> list[str]:
        return ["base", "better"]

    async def stream(self, request: ResponderRequest) -> AsyncIterator[ResponderEvent]:
        self.requests.append(request)
        order = request.messages[-1].text
        self._times[order, len(request.messages)] += 1
        is_second = self._times[order, len(request.messages)] % 2 == 0
        if "[raise]" in order:
            raise UnavailableError("The model server at nowhere cannot be reached; start it.")
        if "[bug]" in order:
            raise ZeroDivisionError("a fault that nobody expects")
        words = [] if "[empty]" in order else self._words(request)
        if self.turn_texts is not None:
            text = self.turn_texts[is_second]
            words = [text[i : i + 12] for i in range(0, len(text), 12)]
        for count, word in enumerate(words):
            if count == 2:
                if "[fail]" in order and is_second:
                    yield ResponderEvent(kind="error", text="out of memory")
                    return
                if "[cut]" in order and is_second:
                    return
                if "[stall]" in order and is_second:
                    await asyncio.sleep(3600)
                await self.gate.wait()
                while self.is_held:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(self.pause_seconds * (4 if "[lag]" in order and is_second else 1))
            yield ResponderEvent(kind="delta", text=word)
        yield ResponderEvent(kind="done", finish_reason="stop", tokens=len(words))

    def _words(self, request: ResponderRequest) -> list[str]:
        if self.text is not None:
            return [self.text[i : i + 61] for i in range(0, len(self.text), 61)]  # cuts words, tags and links in two
        return [f"{'' if i == 0 else ' '}{request.model}{request.seed}-{i}" for i in range(self.words)]


def a_study(store: Store, mode: Mode = Mode.HELPFUL, **changes: object) -> Study:
    """A study on two registered snapshots, "base" and "better"."""
    known = {snapshot.name: snapshot for snapshot in store.snapshots()}
    for name in ("base", "better"):
        if name not in known:
            known[name] = store.add_snapshot(Snapshot(name=name, hash=f"hash of {name}", path=name, state="deployed"))
    shares = (
        SnapshotShare(snapshot_id=known["base"].id, weight=1.0),
        SnapshotShare(snapshot_id=known["better"].id, weight=3.0),
    )
    facts: dict[str, object] = {
        "name": f"A {mode.value} study",
        "mode": mode,
        "tranche": Tranche.BASE,
        "snapshots": shares,
        "turns_per_conversation": 2,
        **changes,
    }
    return store.add_study(Study.model_validate(facts))


def events_of(text: str) -> list[tuple[str, dict[str, Any]]]:
    """Server-sent events as (name, data)."""
    events = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(":"))
        if lines:
            events.append((lines["event"], json.loads(lines["data"])))
    return events


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class LiveServer:
    """A real server on a real port in a thread of this process."""

    address: str
    store: Store
    responder: FakeResponder

    def invite(self, study: Study) -> str:
        return f"{self.address}/join/{self.store.add_invitation(study.id)}"


def main(database: str, port: int) -> None:
    """Serves the page on the fake responder, slowly enough to be killed in the middle of a turn."""
    import uvicorn

    with Store.open(database) as store:
        app = create_app(
            WorkspaceSettings(), store, FakeResponder(pause_seconds=0.05, words=40), page=PageSettings(seed=1)
        )
        uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
