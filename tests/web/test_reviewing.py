"""The researcher's pages for reading along: checks, spot checks, reports, announcements, win rates; axe on all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browsing import begin, overflow
from fake_server import LiveServer, a_study

from prefloop.schema import Message, now
from prefloop.stats import wilson
from prefloop.store import CheckItem, FoundMessage, SnapshotWins, WorkerReport
from prefloop.web.researcher import win_rates
from prefloop.web.reviewing import writing_facts


def test_win_rates_by_hand() -> None:
    def row(worker: str, wins: int, n: int, same: int = 0, second: str = "2") -> SnapshotWins:
        return SnapshotWins(first_id="1", second_id=second, worker_id=worker, wins=wins, n=n, about_the_same=same)

    rows = [row("u", 3, 4), row("v", 0, 0, 5), row("w", 3, 6, 1), row("u", 2, 2, second="3"), row("u", 0, 0, 2, "4")]
    two, three = win_rates(rows, {"1": "base", "2": "better"})
    first, second, rate, same = two
    assert (first, second, same) == ("base", "better", 6)
    assert (rate.value, rate.n, rate.clusters) == (0.6, 10, 2)  # (3 + 3) / (4 + 6), two workers with a verdict
    assert 0.5 <= rate.low <= 0.6 <= rate.high <= 0.75  # resamples lie between the workers' 3/6 and 3/4
    assert three[:2] == ("base", "3")
    assert three[2] == wilson(2, 2)  # one worker alone


def test_variety_is_told_of_enough_words_only() -> None:
    def message(text: str) -> FoundMessage:
        facts = {"id": text, "conversation_id": "c", "worker_id": "w", "pseudonym": "kite", "role": "user"}
        return FoundMessage(**facts, text=text, created_at=now())

    assert writing_facts([]) == {"messages": 0, "median_words": None, "different_words": None}
    few = writing_facts([message("One two three"), message("one")])
    assert (few["median_words"], few["different_words"]) == (2, None)
    # 120 times two words that differ are 240 words; the first 200 hold two kinds, upper and lower case the same.
    assert writing_facts([message("Egg egg ham ham " * 60)])["different_words"] == 2


async def test_announcements_reach_every_worker_until_they_end(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study, other = a_study(room.store), a_study(room.store, name="Another")
        worker, stranger, researcher = await room.worker(study), await room.worker(other), await room.researcher()
        assert (await worker.state())["announcement"] is None
        path = f"/researcher/studies/{study.id}/announcement"
        await researcher.post(path, data={"text": " The server rests at noon. "})
        assert (await worker.state())["announcement"] == "The server rests at noon."
        assert (await stranger.state())["announcement"] is None
        refused = await worker.http.post(path, data={"text": "I am a researcher"})
        assert refused.status_code == 401
        await researcher.post(path, data={"text": ""})
        assert (await worker.state())["announcement"] is None


async def test_win_rates_and_reports_stand_on_the_pages(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, compare="distinct", turns_per_conversation=1)
        worker, researcher = await room.worker(study), await room.researcher()
        for grade in (1, 4):
            pair = await worker.turn(await worker.begin())
            await worker.judge(pair, grade)
        me = (await worker.get("/api/me")).json()["worker_id"]
        (wins,) = room.store.snapshot_wins(study.id)
        assert (wins.n, wins.about_the_same) == (1, 1)
        first = min(share.snapshot_id for share in study.snapshots)
        chosen = next(one for one in room.store.judged(study_id=study.id) if one.judgment.grade == 1).comparison
        assert wins.wins == (chosen.response_a.snapshot_id == first)
        body = {"kind": "harmful", "text": "<b>Bad</b> words", "comparison_id": pair}
        await worker.post(f"/api/studies/{study.id}/reports", body)
        page = (await researcher.get(f"/researcher/reports?study={study.id}")).text
        assert "&lt;b&gt;Bad&lt;/b&gt; words" in page
        assert "Which snapshot wins" in (await researcher.get(f"/researcher?study={study.id}")).text
        api = f"/api/research/studies/{study.id}"
        (rate,) = (await researcher.get(f"{api}/win-rates")).json()
        assert (rate["rate"]["n"], rate["about_the_same"]) == (1, 1)
        assert [one["kind"] for one in (await researcher.get(f"{api}/reports")).json()] == ["harmful"]
        item = {"messages": [{"role": "user", "text": "Why?"}], "answer_a": "So.", "answer_b": "Because.", "pick": "b"}
        assert (await researcher.post(f"{api}/checks", json=item)).status_code == 201
        assert (await researcher.post(f"{api}/checks", json={**item, "answer_a": "Because."})).status_code == 422
        assert [one["answer_b"] for one in (await researcher.get(f"{api}/checks")).json()] == ["Because."]
        assert (await worker.http.post(f"{api}/checks", json=item)).status_code == 401
        assert (await researcher.get(f"{api}/workers/{me}/checks")).json()["gold"] == [0, 0]
        await researcher.put(f"{api}/announcement", json={"text": "Noon"})
        assert (await worker.state())["announcement"] == "Noon"
        data = {"study": study.id, "worker_id": me, "reason": "Varied, polite."}
        await researcher.post("/researcher/spot-checks", data=data)
        assert [one.reason for one in room.store.decisions(me)] == ["Varied, polite."]


@pytest.mark.browser
@pytest.mark.parametrize(("size", "scheme"), [("wide", "light"), ("narrow", "dark")])
def test_the_researchers_pages_are_sound(
    live_server: LiveServer, open_page: Callable[..., Any], size: str, scheme: str
) -> None:
    store = live_server.store
    study = a_study(store, compare="distinct", turns_per_conversation=1)
    page = open_page(live_server.invite(study), size, color_scheme=scheme)
    begin(page)
    page.fill("#message", "How long do I boil an egg?")
    page.click("#send")
    page.wait_for_selector("#grades:enabled")
    page.locator("input[name=grade][value='2']").check()
    page.click("#submit-judgment")
    page.wait_for_selector("#complete:visible")
    (figures,) = store.worker_figures(study.id)
    (latest,) = store.latest_comparisons(study.id)
    worker, pair = figures.worker_id, latest.comparison
    store.add_report(WorkerReport(worker_id=worker, study_id=study.id, comparison_id=pair.id, kind="broken", text="Hm"))
    messages = (Message(role="user", text="Which is bigger, a cat or a house?"),)
    for pick in (None, "a"):
        store.add_check_item(
            CheckItem(study_id=study.id, messages=messages, answer_a="A house.", answer_b="A cat.", pick=pick, by="Ada")
        )
    address = live_server.address

    def is_sound(path: str, title: str | None = None) -> None:
        answer = page.goto(f"{address}{path}")
        assert answer.status == 200, path
        assert title in (None, page.inner_text("h1"))
        found = Axe().run(page).response["violations"]
        assert [f"{fault['id']}: {fault['nodes'][0]['html'][:200]}" for fault in found] == [], path
        assert overflow(page) <= 0, path

    is_sound("/researcher/sign-in")
    page.goto(f"{address}/join/{store.add_invitation(None, 'researcher')}")
    of = f"?study={study.id}"
    is_sound(f"/researcher{of}", "Studies")
    is_sound(f"/researcher/people{of}", "People")
    is_sound(f"/researcher/people/{worker}{of}", figures.pseudonym)
    is_sound(f"/researcher/transcripts{of}", "Transcripts")
    is_sound(f"/researcher/transcripts/{pair.conversation_id}", "Transcript")
    is_sound(f"/researcher/spot-checks{of}", "Spot checks")
    is_sound(f"/researcher/submissions{of}", "Platform’s submissions")
    export = {"name": "export.csv", "mimeType": "text/csv", "buffer": b"Submission id,Status\ns1,APPROVED\n"}
    page.set_input_files("#export", export)
    page.click("text=Compare")
    assert page.locator("td", has_text="never arrived").is_visible()
    assert overflow(page) <= 0
    is_sound(f"/researcher/reports{of}", "Reports")
    is_sound(f"/researcher/checks{of}", "Checks")
    page.click("text=Judge it")
    is_sound(page.url.removeprefix(address), "Judge an item")
    page.select_option("#grade", "2")
    page.click("text=Save judgment")
    assert page.inner_text("h1") == "Checks"
    assert list(store.check_picks(study.id).values()) in ([{"a": 1}], [{"b": 1}])
    is_sound("/researcher/new-study")
    is_sound(f"/researcher/studies/{study.id}/edit")
    is_sound("/researcher/account")
