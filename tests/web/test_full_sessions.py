"""Whole sessions in Chromium, from the invitation to the completion code, by mouse and by keyboard alone.

Both modes, wide and 320 pixels, light and dark; and one person among fifty simulated workers.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from browsing import SIZES, overflow, overlaps, shot
from fake_server import LiveServer, a_study, events_of

from prefloop.schema import ComparisonState, Mode
from prefloop.store.comparisons import overlap_draw
from prefloop.study import CareSettings, StudyPhases

pytestmark = pytest.mark.browser
PHASES = StudyPhases(
    tasks_per_worker=1, completion_code="C0DE-42", closing="require", care=CareSettings(feelings_every_tasks=1)
)


class Mouse:
    """Clicks and, where there are words to write, types."""

    device = "pointer"

    def __init__(self, page: Any) -> None:
        self.page = page

    def press(self, id: str) -> None:
        self.page.click(f"#{id}")

    def write(self, id: str, text: str) -> None:
        self.page.click(f"#{id}")
        self.page.keyboard.type(text)

    def grade(self, grade: int) -> None:
        self.page.locator(f"input[name=grade][value='{grade}']").check()
        self.press("submit-judgment")

    def point(self, question: str, point: int) -> None:
        self.page.locator(f"input[name=q-{question}][value='{point}']").check()


class Keyboard:
    """Tab, Enter, Space, arrows and the page's own keys; never a pointer."""

    device = "keyboard"

    def __init__(self, page: Any) -> None:
        self.page = page

    def _tab_to(self, selector: str) -> None:
        for _ in range(60):
            if self.page.evaluate("(wanted) => document.activeElement?.matches(wanted) ?? false", selector):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"{selector} cannot be reached with Tab")

    def press(self, id: str) -> None:
        self._tab_to(f"#{id}")
        self.page.keyboard.press("Enter")

    def write(self, id: str, text: str) -> None:
        self._tab_to(f"#{id}")
        self.page.keyboard.type(text)

    def grade(self, grade: int) -> None:
        self.page.keyboard.press(str(grade))
        self.page.keyboard.press("Enter")

    def point(self, question: str, point: int) -> None:
        self._tab_to(f"input[name=q-{question}]")
        self.page.keyboard.press("Space")
        for _ in range(point - 1):
            self.page.keyboard.press("ArrowRight")


def session(page: Any, hand: Mouse | Keyboard, mode: Mode) -> None:
    """Consent, instructions, practice, goal, two turns, the questions at the end."""
    hand.press("agree")
    page.wait_for_selector("#begin")
    hand.press("begin")
    for _ in range(2 if mode is Mode.HELPFUL else 1):
        page.wait_for_selector("#practice-note:visible")
        page.wait_for_selector("#grades:enabled")
        hand.grade(7)
        page.wait_for_selector("#feedback:visible")
        assert overflow(page) <= 0
        hand.press("after-practice")
        page.wait_for_selector("#feedback", state="hidden")
    if mode is Mode.RED_TEAM:
        page.wait_for_selector("#goal:visible")
        hand.write("goal-input", "Make it rude")
        hand.press("keep-goal")
    for turn, grade in ((1, 2), (2, 7)):
        page.wait_for_selector("#composer:visible")
        hand.write("message", f"Question {turn}")
        hand.press("send")
        page.wait_for_selector("#grades:enabled")
        assert overflow(page) <= 0
        hand.grade(grade)
        page.wait_for_selector("#composer:visible" if turn == 1 else "#complete:visible")
    for question in ("rating",) if mode is Mode.HELPFUL else ("success", "harm", "actionable"):
        hand.point(question, 4)
    assert overflow(page) <= 0
    hand.press("next")
    page.wait_for_selector("#completion:visible")
    assert page.inner_text("#completion-code") == "C0DE-42"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
@pytest.mark.parametrize("hand", [Mouse, Keyboard])
@pytest.mark.parametrize("mode", list(Mode))
def test_a_whole_session(
    live_server: LiveServer,
    open_page: Callable[..., Any],
    mode: Mode,
    hand: type[Mouse | Keyboard],
    size: str,
    scheme: str,
) -> None:
    study = a_study(live_server.store, mode)
    live_server.store.set_study_phases(study.id, PHASES)
    page = open_page(live_server.invite(study), size, color_scheme=scheme)
    session(page, hand(page), mode)
    judgments = [judged.judgment for judged in live_server.store.judged(study_id=study.id)]
    assert [(j.grade, j.input_device) for j in judgments] == [(2, hand.device), (7, hand.device)]
    (record, *_) = live_server.store.records(study_id=study.id)
    answers = {one.kind: one.answers for one in record.conversation.answers}
    ids = ("rating",) if mode is Mode.HELPFUL else ("success", "harm", "actionable")
    assert answers["closing"] == dict.fromkeys(ids, 4)
    assert live_server.store.care_counts(study.id).asked == (mode is Mode.RED_TEAM)


def test_keys_can_be_changed_and_set_back(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    page = open_page(live_server.invite(a_study(live_server.store)))
    page.click("#agree")
    page.click("#begin")
    page.wait_for_selector("#grades:enabled")

    def graded(key: str) -> str | None:
        page.evaluate("document.getElementById('judgment').reset()")
        page.keyboard.press(key)
        checked = page.locator("input[name=grade]:checked")
        value: str | None = checked.get_attribute("value") if checked.count() else None
        return value

    assert graded("3") == "3"
    page.click("#show-keys")
    page.click("[data-key=grade-3]")
    page.keyboard.press("4")  # taken
    assert "taken" in page.inner_text("#keys-note")
    page.keyboard.press("q")
    assert page.inner_text("[data-key=grade-3]") == "q"
    page.keyboard.press("Escape")
    assert (graded("3"), graded("q"), graded("4")) == (None, "3", "4")
    page.reload()
    page.wait_for_selector("#grades:enabled")
    assert graded("q") == "3"  # it lasts
    page.click("#show-keys")
    page.click("#reset-keys")
    page.keyboard.press("Escape")
    assert (graded("q"), graded("3")) == (None, "3")
    page.keyboard.press("?")
    assert page.is_visible("dialog#keys")


KINDS = {"honest": 26, "lazy": 6, "side_biased": 6, "fast": 6, "dropping_out": 6}


async def _works(
    address: str, token: str, study_id: str, kind: str, chance: random.Random, kept: dict[str, int]
) -> None:
    """One simulated worker over real HTTP: a second opinion or a conversation, twice."""
    async with httpx.AsyncClient(base_url=address, timeout=60.0) as http:
        await http.get(f"/join/{token}")
        for text in ("consent", "agree"):
            await http.post(f"/study/{study_id}/{text}")

        async def judge(comparison_id: str) -> None:
            grade = {"lazy": 4, "side_biased": 1}.get(kind) or chance.randint(1, 8)
            answer = await http.post(f"/api/comparisons/{comparison_id}/judgment", json={"grade": grade})
            assert answer.status_code in (201, 409), answer.text
            if answer.status_code == 201:
                kept[answer.json()["judgment_id"]] = grade

        for _ in range(2):
            task = (await http.get("/api/next", params={"study_id": study_id})).json()
            if task["kind"] == "review":
                await http.get(task["stream_url"])
                await judge(task["comparison_id"])
                continue
            begun = await http.post("/api/conversations", json={"study_id": study_id})
            if begun.status_code == 409:
                return
            path = f"/api/conversations/{begun.json()['conversation_id']}"
            for turn in range(2):
                order = "[fail] " if chance.random() < 0.1 else ""
                sent = await http.post(f"{path}/messages", json={"text": f"{order}Question {turn}"})
                if sent.status_code == 409 or (kind == "dropping_out" and turn == 1):
                    break
                if kind == "fast":
                    await judge(sent.json()["comparison_id"])
                if events_of((await http.get(sent.json()["stream_url"])).text)[-1][0] == "void":
                    break
                await judge(sent.json()["comparison_id"])
            if kind == "dropping_out":
                return
            await http.post(f"{path}/end")


def test_fifty_simulated_workers_and_one_person(live_server: LiveServer, open_page: Callable[..., Any]) -> None:
    live_server.responder.pause_seconds, live_server.responder.words = 0.002, 6
    store, target, overlap = live_server.store, 120, 0.5
    study = a_study(store, overlap=overlap, target_comparisons=target)
    store.set_study_phases(study.id, PHASES.model_copy(update={"closing": "ask"}))
    kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
    random.Random(3).shuffle(kinds)
    tokens = [store.add_invitation(study.id) for _ in kinds]
    kept: dict[str, int] = {}

    async def all_work() -> None:
        async with asyncio.TaskGroup() as group:
            for number, (kind, token) in enumerate(zip(kinds, tokens, strict=True)):
                chance = random.Random(number)
                group.create_task(_works(live_server.address, token, study.id, kind, chance, kept))

    page = open_page(live_server.invite(study))
    crowd = threading.Thread(target=lambda: asyncio.run(all_work()), daemon=True)
    crowd.start()
    page.click("#agree")
    page.click("#begin")
    page.wait_for_selector("#practice-note:visible")
    page.click("#skip")
    page.wait_for_selector("#practice-note", state="hidden")
    judged = 0
    while judged < 2:  # a second opinion may come first
        page.wait_for_selector("#composer:visible, #grades:enabled:visible")
        if page.is_visible("#composer"):
            page.fill("#message", f"A person's question {judged}")
            page.click("#send")
            page.wait_for_selector("#grades:enabled")
        is_own = not page.is_visible("#review-note")
        page.locator("input[name=grade][value='6']").check()
        page.click("#submit-judgment")
        page.wait_for_selector("input[name=grade]:checked", state="hidden")  # the next pair, or none
        judged += is_own
    page.wait_for_selector("#complete:visible")
    crowd.join(120)
    assert not crowd.is_alive()

    records = list(store.records(study_id=study.id))
    found = {j.id: j.grade for record in records for j in record.judgments}
    assert kept.items() <= found.items()  # no acknowledged judgment is lost
    assert len(found) >= len(kept) + 2  # and the person's
    live = [record for record in records if record.comparison.state is not ComparisonState.VOID]
    assert len(live) <= target
    for record in records:
        judges = [j.worker_id for j in record.judgments]
        assert len(judges) == len(set(judges))
        assert len(judges) <= (2 if overlap_draw(record.comparison.id) < overlap else 1)
        assert bool(judges) == (record.comparison.state is ComparisonState.JUDGED)
        if judges:
            assert record.comparison.response_a.state == record.comparison.response_b.state == "done"

    page.goto(f"{live_server.address}/join/{store.add_invitation(None, 'researcher')}")
    page.wait_for_selector("#wins-title")
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert overlaps(page) == []
            assert overflow(page) <= 0
            shot(page, f"monitor-{size}-{scheme}")
