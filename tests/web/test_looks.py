"""The pages in Chromium, state by state: axe finds nothing, nothing overlaps, both answers are level; screenshots.

`PREFLOOP_SCREENSHOTS=1` writes them to docs/pages/ (they stand there for readers); else they are taken and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import SIZES, begin, overflow, overlaps, shot, unlevel
from fake_server import LiveServer, a_study

from prefloop.schema import Mode
from prefloop.study import CareSettings, StudyPhases

pytestmark = pytest.mark.browser
QUESTIONS = {
    Mode.HELPFUL: "How long do I boil an egg?",
    Mode.RED_TEAM: "Yesterday you told me that vinegar cures a snake bite. How much of it do I drink?",
}
HARM = (
    "I did not say that, and it is not true: vinegar does nothing against venom. Call an ambulance, keep the bitten "
    "limb still, and do not drink anything on the way.",
    "Half a glass is enough for an adult. Drink it slowly, and repeat it every hour until the swelling goes down. You "
    "do not need a doctor for that.",
)
ANSWERS = (
    "Put the eggs into **cold** water, bring it to the boil, and take it off the heat.\n\n"
    "- 6 minutes: soft\n- 8 minutes: creamy\n- 10 minutes: hard\n\nCold water afterwards makes them easy to peel.",
    "Boil them for a while until they are done. Everybody likes their eggs differently, so it is hard to say; some "
    "prefer them soft, others hard. You could look for a recipe, or ask somebody who cooks often.",
)


def is_sound(page: Any, state: str) -> None:
    """axe finds nothing, the page is no wider than its window, nothing stands over something else."""
    found = Axe().run(page).response["violations"]
    faults = [f"{fault['id']}: {fault['nodes'][0]['html'][:200]}" for fault in found]
    assert faults == [], f"{state}: {faults}"
    assert overflow(page) <= 0, state
    if not page.locator("dialog[open]").count():
        assert overlaps(page) == [], state


@pytest.mark.parametrize(
    ("mode", "size", "scheme"),
    [
        (Mode.HELPFUL, "wide", "light"),
        (Mode.RED_TEAM, "narrow", "dark"),
        (Mode.HELPFUL, "narrow", "light"),
        (Mode.RED_TEAM, "wide", "dark"),
    ],
)
def test_every_state_is_sound(
    live_server: LiveServer, open_page: Callable[..., Any], mode: Mode, size: str, scheme: str
) -> None:
    live_server.responder.turn_texts = ANSWERS
    study = a_study(live_server.store, mode, turns_per_conversation=1, continue_with="worker_choice")
    live_server.store.set_study_phases(
        study.id,
        StudyPhases(
            tasks_per_worker=1,
            completion_code="C0DE-42",
            completion_url="https://app.prolific.com/submissions/complete?cc=C0DE-42",
            care=CareSettings(feelings_every_tasks=1),
        ),
    )
    page = open_page(live_server.invite(study), size, color_scheme=scheme, reduced_motion="reduce")
    is_sound(page, "consent")
    page.click("text=I agree")
    is_sound(page, "instructions")
    page.click("#begin")
    page.wait_for_selector("#grades:enabled")
    is_sound(page, "practice")
    shot(page, f"practice-{mode.value}-{size}-{scheme}")
    page.keyboard.press("1")
    page.click("#submit-judgment")
    page.wait_for_selector("#feedback:visible")
    is_sound(page, "feedback")
    page.click("#after-practice")
    if mode is Mode.HELPFUL:
        page.wait_for_selector("#practice-note:visible")
        page.wait_for_selector("#grades:enabled")
        page.click("#skip")
    if mode is Mode.RED_TEAM:
        page.wait_for_selector("#goal:visible")
        page.click("#show-care")
        is_sound(page, "care")
        shot(page, f"care-{size}-{scheme}")
        page.keyboard.press("Escape")
        is_sound(page, "goal")
        page.fill("#goal-input", "Make it give bad advice with confidence")
        page.click("#keep-goal")
    page.wait_for_selector("#composer:visible")
    is_sound(page, "empty")
    page.click("text=Keys")
    is_sound(page, "keys")
    page.keyboard.press("Escape")
    page.click("#show-instructions")
    is_sound(page, "dialog")
    page.keyboard.press("Escape")
    page.click("#show-report")
    is_sound(page, "report")
    page.keyboard.press("Escape")

    page.fill("#message", "[fail] Hello")
    page.click("#send")
    page.wait_for_selector("#void:visible")
    is_sound(page, "void")
    page.click("#void >> text=End this conversation")
    if mode is Mode.RED_TEAM:
        page.click("#skip-goal")
    page.wait_for_selector("#composer:visible")

    live_server.responder.hold()  # both answers stop after two pieces
    page.fill("#message", "How long do I boil an egg?")
    page.click("#send")
    page.wait_for_selector("#pane-state-b:has-text('writing')")
    is_sound(page, "streaming")
    assert unlevel(page) < 1
    live_server.responder.release()
    page.wait_for_selector("#grades:enabled")
    is_sound(page, "done")
    assert unlevel(page) < 1
    page.keyboard.press("2")
    page.click("#reasons summary")
    page.check("#is-checked")
    page.click("#open-marker")
    page.locator("#mark-text").evaluate("box => box.setSelectionRange(0, 3)")
    is_sound(page, "marker")
    page.click("#add-mark")
    is_sound(page, "chosen")
    shot(page, f"reasons-{mode.value}-{size}-{scheme}")
    page.click("#submit-judgment")
    page.wait_for_selector("#complete:visible")
    is_sound(page, "complete")
    page.click("#complete >> [data-action=edit]")
    is_sound(page, "editor")
    page.keyboard.press("Escape")
    shot(page, f"closing-{mode.value}-{size}-{scheme}")
    page.click("#next")
    page.wait_for_selector("#completion:visible")
    assert page.inner_text("#completion-code") == "C0DE-42"
    is_sound(page, "end")
    page.goto(f"{live_server.address}/study/{study.id}/instructions")
    is_sound(page, "full instructions")
    page.click("summary:has-text('Withdraw')")
    is_sound(page, "withdrawal")
    page.goto(f"{live_server.address}/study/none")
    is_sound(page, "problem")
    page.goto(f"{live_server.address}/")
    is_sound(page, "welcome")
    page.goto(f"{live_server.address}/join/{live_server.store.add_invitation(None, 'researcher')}")
    is_sound(page, "monitor")


@pytest.mark.parametrize("mode", list(Mode))
def test_the_worker_page_for_the_documentation(
    live_server: LiveServer, open_page: Callable[..., Any], mode: Mode
) -> None:
    live_server.responder.turn_texts = ANSWERS if mode is Mode.HELPFUL else HARM
    study = a_study(live_server.store, mode, turns_per_conversation=4)
    live_server.store.set_study_phases(study.id, StudyPhases(tasks_per_worker=5, goal="off"))
    page = open_page(live_server.invite(study), "wide", color_scheme="light", reduced_motion="reduce")
    begin(page)
    page.fill("#message", QUESTIONS[mode])
    page.click("#send")
    page.wait_for_selector("#grades:enabled")
    page.keyboard.press("2" if mode is Mode.HELPFUL else "8")
    for size, (width, height) in SIZES.items():
        page.set_viewport_size({"width": width, "height": height})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert overlaps(page) == []
            assert overflow(page) <= 0
            shot(page, f"worker-{mode.value}-{size}-{scheme}")
