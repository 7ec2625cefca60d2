"""Fixtures of the page's tests: an app in this process, a real server beside it, a browser."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from prefloop.config import WorkspaceSettings
from prefloop.schema import Study
from prefloop.store import Store
from prefloop.web import PageSettings, create_app

sys.path.insert(0, str(Path(__file__).parent))  # tests have no packages; the fake server is shared by name
from browsing import SIZES
from fake_server import FakeResponder, LiveServer, events_of, free_port

ORIGIN = "http://testserver"


@dataclass
class Client:
    """A worker's browser without a screen: signed in, with the API in short."""

    http: httpx.AsyncClient
    study: Study

    async def get(self, path: str, **more: Any) -> httpx.Response:
        return await self.http.get(path, **more)

    async def post(self, path: str, body: dict[str, Any] | None = None, **more: Any) -> httpx.Response:
        return await self.http.post(path, json=body or {}, **more)

    async def begin(self) -> str:
        answer = await self.post("/api/conversations", {"study_id": self.study.id})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["conversation_id"])

    async def send(self, conversation_id: str, text: str = "Hello") -> dict[str, Any]:
        answer = await self.post(f"/api/conversations/{conversation_id}/messages", {"text": text})
        assert answer.status_code == 201, answer.text
        return dict(answer.json())

    async def read(self, started: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        """All events of a turn until its stream is over."""
        return events_of((await self.get(started["stream_url"])).text)

    async def turn(self, conversation_id: str, text: str = "Hello") -> str:
        """Sends, waits for both answers, and gives the comparison."""
        started = await self.send(conversation_id, text)
        assert (await self.read(started))[-1][0] == "turn_ready"
        return str(started["comparison_id"])

    async def judge(self, comparison_id: str, grade: int = 2, **more: Any) -> httpx.Response:
        return await self.post(f"/api/comparisons/{comparison_id}/judgment", {"grade": grade, **more})

    async def state(self) -> dict[str, Any]:
        answer = await self.get(f"/api/studies/{self.study.id}/state")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


@dataclass
class Room:
    """An app in this process, started."""

    store: Store
    responder: FakeResponder
    app: Any
    clients: list[httpx.AsyncClient] = field(default_factory=list)

    def http(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=self.app, raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url=ORIGIN)
        self.clients.append(client)
        return client

    async def worker(self, study: Study) -> Client:
        """A new worker, in by an invitation link."""
        client = self.http()
        token = self.store.add_invitation(study.id)
        answer = await client.get(f"/join/{token}")
        assert (answer.status_code, answer.headers["location"]) == (303, f"/study/{study.id}")
        return Client(client, study)

    async def researcher(self) -> httpx.AsyncClient:
        client = self.http()
        await client.get(f"/join/{self.store.add_invitation(None, 'researcher')}")
        return client


RoomMaker = Callable[..., Any]


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Store]:
    with Store.open(sqlite_url) as store:
        yield store


@pytest.fixture
def open_room(sqlite_store: Store) -> RoomMaker:
    """`async with open_room(...) as room`: the app with its lifespan; on SQLite, or on the `store` that is given."""

    @asynccontextmanager
    async def opened(
        responder: FakeResponder | None = None,
        quality_report: Path | None = None,
        store: Store | None = None,
        **page: Any,
    ) -> AsyncIterator[Room]:
        answers = responder or FakeResponder()
        settings = PageSettings(**{"flush_seconds": 0.0, "cache_seconds": 0.0, "seed": 5, **page})
        kept = store or sqlite_store
        app = create_app(WorkspaceSettings(), kept, answers, page=settings, quality_report=quality_report)
        async with app.router.lifespan_context(app):
            room = Room(kept, answers, app)
            yield room
            for client in room.clients:
                await client.aclose()

    return opened


@pytest.fixture
def live_server(sqlite_store: Store) -> Iterator[LiveServer]:
    responder = FakeResponder(pause_seconds=0.01, words=20)
    app = create_app(WorkspaceSettings(), sqlite_store, responder, page=PageSettings(seed=5, cache_seconds=0.0))
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield LiveServer(f"http://127.0.0.1:{port}", sqlite_store, responder)
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def chromium(chromium_path: str) -> Iterator[Any]:
    """Chromium, once for a file of tests; each test takes a context of its own.

    Not for the whole run: while it is open its loop runs in this thread, and no asynchronous test could.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """A page in a context of its own; what its console complains about fails the test."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def opened(address: str, size: str = "wide", **more: Any) -> Any:
        width, height = SIZES[size]
        context = chromium.new_context(viewport={"width": width, "height": height}, **more)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if "Content Security Policy" in m.text else None)
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
