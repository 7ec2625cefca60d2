"""One turn in Chromium: a model server that is stopped or killed in mid-sentence, bettering an answer, telling."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from browsing import begin, overflow
from fake_server import LiveServer, a_study, free_port

from prefloop.client import OpenAIResponder
from prefloop.config import WorkspaceSettings
from prefloop.schema import Mode
from prefloop.store import Store
from prefloop.web import PageSettings, create_app

pytestmark = pytest.mark.browser


class ModelServer:
    """The rogue server in a process of its own."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(__file__).with_name("rogue_server.py")
        self._process = subprocess.Popen([sys.executable, str(program), str(self.port)])
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("the model server did not start within 30 s")

    def send(self, wanted: signal.Signals) -> None:
        assert self._process is not None
        os.kill(self._process.pid, wanted)
        if wanted is signal.SIGKILL:
            self._process.wait()


@pytest.fixture
def model_server() -> Iterator[ModelServer]:
    server = ModelServer()
    server.start()
    yield server
    server.send(signal.SIGKILL)


@pytest.fixture
def page_server(model_server: ModelServer, sqlite_store: Store) -> Iterator[str]:
    """The page on that model server, which may be silent for two seconds."""
    settings = PageSettings(seed=5, cache_seconds=0.0, stall_timeout_seconds=2.0)
    port = free_port()
    servers: list[uvicorn.Server] = []

    async def serve() -> None:
        async with OpenAIResponder(f"http://127.0.0.1:{model_server.port}") as responder:
            app = create_app(WorkspaceSettings(), sqlite_store, responder, page=settings)
            config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="critical", timeout_graceful_shutdown=1)
            servers.append(uvicorn.Server(config))
            await servers[0].serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    while not (servers and servers[0].started):
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}"
    servers[0].should_exit = True
    thread.join(10)


@pytest.mark.parametrize("wanted", [signal.SIGKILL, signal.SIGSTOP])
def test_a_model_server_that_is_gone_in_mid_sentence(
    page_server: str,
    model_server: ModelServer,
    sqlite_store: Store,
    open_page: Callable[..., Any],
    wanted: signal.Signals,
) -> None:
    study = a_study(sqlite_store)
    page = open_page(f"{page_server}/join/{sqlite_store.add_invitation(study.id)}", "narrow")
    begin(page)
    page.fill("#message", "Are you there?")
    page.click("#send")
    page.wait_for_selector("#answer-a:has-text('word2')")
    model_server.send(wanted)
    page.wait_for_selector("#void:visible")
    assert "counts as worked" in page.inner_text("#void-message")
    assert overflow(page) <= 0
    if wanted is signal.SIGSTOP:
        model_server.send(signal.SIGCONT)
    else:
        model_server.start()
    page.click("#retry")
    page.wait_for_selector("#grades:enabled")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:visible")
    assert "Are you there?" in page.inner_text("#transcript")
    assert [judged.judgment.grade for judged in sqlite_store.judged(study_id=study.id)] == [3]
    assert len(sqlite_store.time_credits(study.id)) == 1


@pytest.mark.parametrize(("mode", "size"), [(Mode.HELPFUL, "wide"), (Mode.RED_TEAM, "narrow")])
def test_bettering_an_answer_and_telling_the_researchers(
    live_server: LiveServer, open_page: Callable[..., Any], mode: Mode, size: str
) -> None:
    live_server.responder.turn_texts = ("A good start.", "Something quite wrong.")
    study = a_study(live_server.store, mode)
    page = open_page(live_server.invite(study), size)
    begin(page)
    if mode is Mode.RED_TEAM:
        page.click("#skip-goal")
    page.fill("#message", "Hello")
    page.click("#send")
    page.wait_for_selector("#grades:enabled")
    page.click("#show-report")
    page.get_by_label("Personal data of a real person").check()
    page.fill("#report-text", "There is an address in it")
    page.click("#send-report")
    page.wait_for_selector("#status:has-text('Thank you for telling us')", state="attached")
    page.keyboard.press("1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:visible")
    page.click("#composer >> [data-action=edit]")
    page.click("#save-edit")
    page.wait_for_selector("#editor-problem:visible")
    assert page.input_value("#editor-text") == page.locator("#transcript .assistant .prose").inner_text()
    page.fill("#editor-text", "A **much** better one.")
    page.click("#save-edit")
    page.wait_for_selector("#editor", state="hidden")
    page.wait_for_selector("#composer >> [data-action=edit]", state="hidden")
    goes_on = mode is Mode.HELPFUL
    assert ("A much better one." in page.inner_text("#transcript")) == goes_on
    assert ("edited by you" in page.inner_text("#transcript")) == goes_on
    assert overflow(page) <= 0
    page.fill("#message", "And now?")
    page.click("#send")
    page.wait_for_selector("#grades:enabled")
    edited = [pair for pair in live_server.store.pairs(study_id=study.id) if pair.grade is None]
    assert [(pair.chosen, pair.rejected) for pair in edited] == [("A **much** better one.", "A good start.")] or [
        pair.rejected for pair in edited
    ] == ["Something quite wrong."]
    (report,) = live_server.store.reports(study.id)
    (first, *_) = sorted(item.comparison.id for item in live_server.store.latest_comparisons(study.id))
    assert (report.kind, report.text, report.comparison_id) == ("personal", "There is an address in it", first)
