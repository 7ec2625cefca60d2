"""The page in real Chromium: whole conversations by mouse and by keyboard, reloads, hostile texts, a killed server."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from browsing import begin, overflow
from fake_server import LiveServer, a_study, free_port
from hostile import HOSTILE

from prefloop.schema import ComparisonState, Mode, Study
from prefloop.store import Store

pytestmark = pytest.mark.browser


def judgments_of(store: Store, study: Study) -> list[Any]:
    return [judged.judgment for judged in store.judged(study_id=study.id)]


@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("narrow", "dark")])
def test_a_helpful_conversation_by_mouse(
    live_server: LiveServer, open_page: Callable[..., Any], size: str, scheme: str
) -> None:
    study = a_study(live_server.store)
    page = open_page(live_server.invite(study), size, color_scheme=scheme)
    assert overflow(page) <= 0
    begin(page)
    for turn, label in ((1, "A is much better"), (2, "B is slightly better")):
        page.fill("#message", f"Question {turn}")
        page.click("text=Send")
        page.wait_for_selector("#grades:enabled")
        assert overflow(page) <= 0
        assert page.inner_text("#pane-state-a") == page.inner_text("#pane-state-b") == "complete"
        assert page.is_disabled("text=Save judgment")
        page.get_by_label(label, exact=True).check()
        assert page.inner_text("#grade-choice") == label
        if turn == 1:
            page.click("text=Say why")  # it stays open for the next pair
        page.get_by_label("Clearer").check()
        page.click("text=Save judgment")
        page.wait_for_selector("#composer:visible" if turn == 1 else "#complete:visible")
        assert overflow(page) <= 0
    assert page.inner_text("#progress") == "Turn 2 of 2 · conversation 1"
    assert [(j.grade, j.reason_tags, j.input_device) for j in judgments_of(live_server.store, study)] == [
        (1, ("clear",), "pointer"),
        (6, ("clear",), "pointer"),
    ]
    page.click("text=Start the next conversation")
    page.wait_for_selector("#composer:visible")
    assert page.inner_text("#progress") == "Turn 1 of 2 · conversation 2"
    assert page.locator("#transcript li").count() == 0


def test_a_red_team_conversation_by_keyboard_alone(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    study = a_study(live_server.store, Mode.RED_TEAM)
    page = open_page(live_server.invite(study))
    assert "Content warning" in page.inner_text("main")

    def focused() -> str:
        text: str = page.evaluate("document.activeElement.id")
        return text

    def tab_to(wanted: str) -> None:
        for _ in range(40):
            if focused() == wanted:
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"#{wanted} cannot be reached with Tab; the focus is on #{focused()}")

    tab_to("agree")
    page.keyboard.press("Enter")
    page.wait_for_selector("#begin")
    tab_to("begin")
    page.keyboard.press("Enter")
    page.wait_for_selector("#grades:enabled")  # the practice turn
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    page.wait_for_selector("#feedback:visible")
    assert page.inner_text("#feedback-title") == "We see it the same way"
    tab_to("after-practice")
    page.keyboard.press("Enter")
    page.wait_for_selector("#goal:visible")
    tab_to("goal-input")
    page.keyboard.type("Make it swear")
    tab_to("keep-goal")
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:visible")
    assert page.inner_text("#goal-text") == "Make it swear"
    tab_to("message")
    for turn, key in ((1, "3"), (2, "8")):
        page.keyboard.type(f"Attack {turn} with 5 words")  # a digit in a text field is no grade
        page.keyboard.press("Enter")
        page.wait_for_selector("#grades:enabled")
        page.wait_for_selector("#status:has-text('Both answers are complete')", state="attached")
        page.keyboard.press(key)
        page.keyboard.press("Enter")
        page.wait_for_selector("#composer:visible" if turn == 1 else "#complete:visible")
        assert focused() == ("message" if turn == 1 else "complete-title")
    for _ in range(3):  # the paper's three questions, each a group of radio buttons
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
    tab_to("next")
    page.keyboard.press("Enter")
    page.wait_for_selector("#goal:visible")
    tab_to("skip-goal")
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:visible")
    (done,) = {pair.conversation.conversation.id: pair for pair in live_server.store.records()}.values()
    assert {a.kind: a.answers for a in done.conversation.answers} == {
        "goal": {"goal": "Make it swear"},
        "closing": {"success": 2, "harm": 2, "actionable": 2},
    }
    kept = judgments_of(live_server.store, study)
    assert [(j.grade, j.clicked, j.preferred, j.input_device) for j in kept] == [
        (3, "a", "b", "keyboard"),
        (8, "b", "a", "keyboard"),
    ]


def test_single_keys_can_be_switched_off_and_are_listed(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    page = open_page(live_server.invite(a_study(live_server.store)))
    begin(page)
    page.fill("#message", "Hello")
    page.click("text=Send")
    page.wait_for_selector("#grades:enabled")
    page.keyboard.press("?")
    assert page.is_visible("dialog#keys")
    page.uncheck("#keys-on")
    page.keyboard.press("Escape")
    page.keyboard.press("4")
    assert page.locator("input[name=grade]:checked").count() == 0
    page.click("text=Instructions")
    assert "What makes an answer better" in page.inner_text("dialog#instructions")


def test_undo_changes_the_judgment_and_what_continues(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    study = a_study(live_server.store)
    page = open_page(live_server.invite(study))
    begin(page)
    page.fill("#message", "Hello")
    page.click("text=Send")
    page.wait_for_selector("#grades:enabled")
    answers = {side: page.inner_text(f"#answer-{side}") for side in "ab"}
    page.keyboard.press("1")
    page.click("text=Save judgment")
    page.wait_for_selector("#composer:visible")
    assert answers["a"] in page.inner_text("#transcript")
    page.click("text=Change my last judgment")
    page.wait_for_selector("#grades:enabled")
    assert page.inner_text("#answer-a") == answers["a"]
    assert page.locator("input[name=grade]:checked").get_attribute("value") == "1"
    page.keyboard.press("7")
    page.click("text=Save judgment")
    page.wait_for_selector("#composer:visible")
    assert answers["b"] in page.inner_text("#transcript")
    (judgment,) = judgments_of(live_server.store, study)
    assert judgment.grade == 7
    assert judgment.revises is not None


def test_a_failed_pair_offers_new_answers(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    study = a_study(live_server.store)
    page = open_page(live_server.invite(study))
    begin(page)
    page.fill("#message", "[fail] Hello")
    page.click("text=Send")
    page.wait_for_selector("#void:visible")
    assert "does not count" in page.inner_text("#void")
    assert "does not count" in page.inner_text("#status")
    live_server.responder.pause_seconds = 0.3  # or the pair has failed before the browser has drawn it
    page.click("text=Get new answers")
    page.wait_for_selector("#answers:visible")
    page.wait_for_selector("#void:visible")
    live_server.responder.pause_seconds = 0.0
    page.click("#void >> text=End this conversation")
    page.wait_for_selector("#composer:visible")
    page.fill("#message", "Hello again")
    page.click("text=Send")
    page.click("text=Skip this pair")
    page.wait_for_selector("#void:visible")
    page.click("text=Get new answers")
    page.wait_for_selector("#grades:enabled")
    states = [item.comparison.state for item in live_server.store.latest_comparisons(study.id)]
    assert states == [ComparisonState.OPEN, *[ComparisonState.VOID] * 3]


def test_reloads_and_second_tabs_in_mid_stream_lose_and_repeat_nothing(
    live_server: LiveServer, open_page: Callable[..., Any]
) -> None:
    live_server.responder.pause_seconds, live_server.responder.words = 0.03, 40
    study = a_study(live_server.store)
    page = open_page(live_server.invite(study))
    begin(page)
    page.fill("#message", "[lag] Hello")
    page.click("text=Send")
    page.wait_for_selector("#answer-a:has-text('-4')")
    second = page.context.new_page()
    second.goto(page.url)
    page.reload()
    for tab in (page, second):
        tab.wait_for_selector("#grades:enabled")
        (kept,) = live_server.store.latest_comparisons(study.id)
        assert tab.inner_text("#answer-a") == kept.comparison.response_a.text
        assert tab.inner_text("#answer-b") == kept.comparison.response_b.text
    assert len(live_server.responder.requests) == 2  # a reader never starts a generation
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:visible")
    second.keyboard.press("6")
    second.keyboard.press("Enter")  # the second tab comes too late, is told so and shows the facts
    second.wait_for_selector("#problem:visible")
    second.wait_for_selector("#composer:visible")
    (judgment,) = judgments_of(live_server.store, study)
    assert judgment.grade == 2


def test_while_streaming_no_side_runs_ahead_and_nothing_can_be_judged(
    live_server: LiveServer, open_page: Callable[..., Any]
) -> None:
    live_server.responder.pause_seconds = 0.02
    page = open_page(live_server.invite(a_study(live_server.store)))
    begin(page)
    page.evaluate(
        """() => {
          window.seen = 0;
          window.lead = 0;
          window.enabled = 0;
          const length = (side) => document.getElementById(`answer-${side}`).textContent.trim().length;
          new MutationObserver(() => {
            if (document.getElementById('pane-b').getAttribute('aria-busy') !== 'true') return;
            window.seen += 1;
            window.lead = Math.max(window.lead, length('a') - length('b'));
            window.enabled += document.getElementById('grades').disabled ? 0 : 1;
          }).observe(document.getElementById('answer-b'), { childList: true });
        }"""
    )
    page.fill("#message", "[lag] Hello")
    page.click("text=Send")
    page.wait_for_selector("#grades:enabled")
    assert page.evaluate("window.seen") > 5
    assert page.evaluate("window.lead") == 0
    assert page.evaluate("window.enabled") == 0


def test_shown_only_when_complete(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    page = open_page(live_server.invite(a_study(live_server.store)))
    begin(page)
    page.wait_for_selector("#composer:visible")
    page.click("text=Keys")
    page.check("#when-complete")
    page.keyboard.press("Escape")
    page.evaluate(
        """() => {
          window.partial = 0;
          new MutationObserver(() => {
            const pane = document.getElementById('pane-a');
            const text = document.getElementById('answer-a').textContent;
            if (text && document.getElementById('grades').disabled && pane.ariaBusy === 'true') window.partial += 1;
          }).observe(document.getElementById('answer-a'), { childList: true, characterData: true, subtree: true });
        }"""
    )
    page.fill("#message", "Hello")
    page.click("text=Send")
    page.wait_for_selector("#grades:enabled")
    assert page.inner_text("#answer-a")
    assert page.evaluate("window.partial") == 0


def test_hostile_answers_execute_nothing_and_load_nothing(
    live_server: LiveServer, open_page: Callable[..., Any]
) -> None:
    live_server.responder.text = "\n\n".join(HOSTILE)
    live_server.responder.pause_seconds = 0.0
    study = a_study(live_server.store, instructions="\n\n".join(HOSTILE).replace("\x00", ""))
    foreign: list[str] = []
    page = open_page(live_server.invite(study))
    page.on("request", lambda r: None if r.url.startswith(live_server.address) else foreign.append(r.url))
    begin(page)
    page.fill("#message", "\n".join(HOSTILE)[:7000])
    page.click("text=Send")
    page.wait_for_selector("#grades:enabled")
    page.keyboard.press("1")
    page.click("text=Save judgment")
    page.wait_for_selector("#composer:visible")
    page.reload()
    page.wait_for_selector("#composer:visible")
    for link in page.locator("#transcript a").all():
        assert not re.match(r"\s*(javascript|data|vbscript):", link.get_attribute("href") or "", re.IGNORECASE)
    for attribute in ("onclick", "onerror", "onload", "onmouseover", "style", "src"):
        assert page.locator(f"#transcript [{attribute}]").count() == 0
    assert page.evaluate("window.pwned") is None
    assert foreign == []
    assert live_server.address in page.url


def test_a_second_opinion(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    study = a_study(live_server.store, overlap=1.0, turns_per_conversation=1)
    author = open_page(live_server.invite(study))
    begin(author)
    author.fill("#message", "Tell me something")
    author.click("text=Send")
    author.wait_for_selector("#grades:enabled")
    author.keyboard.press("2")
    author.keyboard.press("Enter")
    author.wait_for_selector("#complete:visible")
    other = open_page(live_server.invite(study))
    begin(other)
    other.wait_for_selector("#review-note:visible")
    assert "Tell me something" in other.inner_text("#transcript")
    other.wait_for_selector("#grades:enabled")
    assert not other.is_visible("#composer")
    other.keyboard.press("7")
    other.keyboard.press("Enter")
    other.wait_for_selector("#composer:visible")
    assert sorted(j.grade for j in judgments_of(live_server.store, study)) == [2, 7]


def test_the_researchers_page_keeps_itself_fresh(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    study = a_study(live_server.store)
    page = open_page(f"{live_server.address}/join/{live_server.store.add_invitation(None, 'researcher')}", "narrow")
    assert page.inner_text("#study-title") == study.name
    assert overflow(page) <= 0
    live_server.store.set_study_state(study.id, "paused")
    page.wait_for_selector(".study-head .state:has-text('paused')")
    page.click("text=Make links")
    assert "/join/" in page.inner_text(".link-box")
    assert overflow(page) <= 0


class Process:
    """A server in a process of its own, to be killed."""

    def __init__(self, database: str) -> None:
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._database = database
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        program = Path(__file__).with_name("fake_server.py")
        self._process = subprocess.Popen([sys.executable, str(program), self._database, str(self.port)])
        for _ in range(600):
            try:
                httpx.get(self.address)
                return
            except httpx.TransportError:
                assert self._process.poll() is None, "the server ended"
                time.sleep(0.05)
        raise AssertionError("the server did not answer within 30 s")

    def kill(self) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def test_a_killed_server_loses_nothing_that_was_accepted(open_page: Callable[..., Any], sqlite_url: str) -> None:
    with Store.open(sqlite_url) as store:
        study = a_study(store)
        token = store.add_invitation(study.id)
    server = Process(sqlite_url)
    try:
        server.start()
        page = open_page(f"{server.address}/join/{token}")
        begin(page)
        page.fill("#message", "First")
        page.click("text=Send")
        page.wait_for_selector("#grades:enabled")
        page.keyboard.press("6")
        page.keyboard.press("Enter")
        page.wait_for_selector("#composer:visible")
        page.fill("#message", "Second")
        page.click("text=Send")
        page.wait_for_selector("#pane-state-b:has-text('writing')")
        server.kill()
        page.wait_for_selector("#problem:visible")
        assert "Reconnecting" in page.inner_text("#problem")
        server.start()
        page.wait_for_selector("#void:visible", timeout=30_000)  # the browser comes back by itself
        assert "restarted" in page.inner_text("#void-message")
        assert "Second" in page.inner_text("#transcript")
        page.click("text=Get new answers")
        page.wait_for_selector("#grades:enabled")
        page.keyboard.press("2")
        page.keyboard.press("Enter")
        page.wait_for_selector("#complete:visible")
    finally:
        server.kill()
    with Store.open(sqlite_url) as store:
        pairs = sorted(store.latest_comparisons(study.id), key=lambda item: item.comparison.id)
        assert [(item.comparison.turn, item.comparison.state.value, item.grade) for item in pairs] == [
            (1, "judged", 6),
            (2, "void", None),
            (2, "judged", 2),
        ]
        assert [j.grade for j in judgments_of(store, study)] == [6, 2]
