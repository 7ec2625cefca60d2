"""The researcher's pages: numbers that are right, links that work, texts that are escaped."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fake_server import a_study

from prefloop.schema import ComparisonState, Mode, Study, Tranche
from prefloop.store import Earning, StudyProgress
from prefloop.web import researcher_link
from prefloop.web.researcher import effort_of


async def test_numbers_of_a_study(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, target_comparisons=4, turns_per_conversation=3)
        worker = await room.worker(study)
        conversation = await worker.begin()
        for text in ("One", "Two"):
            await worker.judge(await worker.turn(conversation, text), 6)
        await worker.read(await worker.send(conversation, "[fail]"))
        researcher = await room.researcher()
        page = (await researcher.get("/researcher")).text
        assert "2 of 4 wanted (50 %)" in page
        assert "out of memory" in page
        worker_name = (await worker.get("/api/me")).json()["pseudonym"]
        assert worker_name in page
        assert "The busiest minute had" in page
        panel = await researcher.get(f"/researcher/panel?study={study.id}")
        assert panel.text.lstrip().startswith("<section")
        assert panel.text.count('class="state judged"') == 2
        assert "Time and cost" in panel.text


def test_time_and_cost_by_hand() -> None:
    study = Study(name="a", mode=Mode.HELPFUL, tranche=Tranche.BASE, snapshots=(), target_comparisons=10)
    one = Earning(
        worker_id="w", pseudonym="w", tasks=1, judgments=4, worked_seconds=3000.0, credited_seconds=600.0,
        bonus_minor_units=50, paid_minor_units=7,
    )  # fmt: skip
    states = dict.fromkeys(ComparisonState, 0) | {ComparisonState.JUDGED: 4}
    progress = StudyProgress(comparisons=states, judgments=5, conversations=1, workers=1)
    # 3,600 s for 5 judgments are 12 min each; 4 comparisons took an hour, 6 are left; at 2 a minute, 3 minutes
    assert effort_of([one], study, progress, 2.0) == (1.0, 12.0, 1.5, 3.0, 50, 7)
    nothing = progress.model_copy(update={"comparisons": dict.fromkeys(states, 0), "judgments": 0})
    assert effort_of([], study, nothing, 0.0) == (0.0, None, None, None, 0, 0)


async def test_an_empty_workspace_says_what_to_do(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        page = await (await room.researcher()).get("/researcher")
        assert page.status_code == 200
        assert "There is no study yet" in page.text


async def test_a_made_link_lets_a_worker_in(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        researcher = await room.researcher()
        form = {"study": study.id, "uses": "2", "pseudonym": "<i>kite</i>"}
        page = (await researcher.post("/researcher/invitations", data=form)).text
        link = page.split('aria-label="Invitation link">')[1].split("<")[0]
        client = room.http()
        assert (await client.get(link)).headers["location"] == f"/study/{study.id}"
        assert (await client.get("/api/me")).json()["pseudonym"] == "<i>kite</i>"
        worker = await room.worker(study)
        await worker.get(link)
        await worker.judge(await worker.turn(await worker.begin()))
        page = (await researcher.get("/researcher")).text
        assert "<i>kite" not in page
        assert "&lt;i&gt;kite&lt;/i&gt;-2" in page
        bad = await researcher.post("/researcher/invitations", data={"study": study.id, "uses": "0"})
        assert bad.status_code == 422
        assert (await researcher.post("/researcher/invitations", data={"study": "none"})).status_code == 404


async def test_old_comparisons_come_page_by_page(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, turns_per_conversation=25)
        worker = await room.worker(study)
        conversation = await worker.begin()
        for _ in range(23):
            await worker.judge(await worker.turn(conversation))
        researcher = await room.researcher()
        first = (await researcher.get(f"/researcher?study={study.id}")).text
        assert first.count('class="state judged"') == 20
        older = first.split("before=")[1].split('"')[0]
        second = (await researcher.get(f"/researcher?study={study.id}&before={older}")).text
        assert second.count('class="state judged"') == 3
        assert "Back to the latest" in second
        assert (await researcher.get("/researcher?study=none")).status_code == 404


async def test_pause_and_open_again(open_room: Callable[..., Any]) -> None:
    async with open_room(cache_seconds=60.0) as room:
        study = a_study(room.store)
        researcher, worker = await room.researcher(), await room.worker(study)
        assert (await worker.state())["phase"] == "practice"
        for state, phase in (("paused", "closed"), ("open", "practice")):
            form = {"state": state}
            assert (await researcher.post(f"/researcher/studies/{study.id}/state", data=form)).status_code == 303
            assert (await worker.state())["phase"] == phase
        assert (
            await researcher.post(f"/researcher/studies/{study.id}/state", data={"state": "gone"})
        ).status_code == 422


async def test_the_printed_link_and_signing_out(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        client = room.http()
        link = researcher_link(room.store, "http://testserver/")
        assert link.startswith("http://testserver/join/")
        assert (await client.get(link)).headers["location"] == "/researcher"
        assert (await client.get("/researcher")).status_code == 200
        assert (await room.http().get(link)).status_code == 409  # good once
        session = client.cookies["prefloop_researcher"]
        assert (await client.post("/researcher/sign-out")).status_code == 303
        client.cookies.set("prefloop_researcher", session)
        assert (await client.get("/researcher")).status_code == 401  # the session is gone, not only the cookie


async def test_the_quality_report_is_shown_in_a_sandbox(open_room: Callable[..., Any], tmp_path: Path) -> None:
    report = tmp_path / "quality.html"
    async with open_room(quality_report=report) as room:
        a_study(room.store)
        researcher = await room.researcher()
        assert (await researcher.get("/researcher/quality")).status_code == 404
        assert 'href="/researcher/quality"' not in (await researcher.get("/researcher")).text
        report.write_text("<h1>Quality</h1>")
        answer = await researcher.get("/researcher/quality")
        assert answer.text == "<h1>Quality</h1>"
        assert "sandbox" in answer.headers["content-security-policy"]
        assert 'href="/researcher/quality"' in (await researcher.get("/researcher")).text


async def test_the_quality_page_is_worked_out_beside_the_server_and_remembered(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        a_study(room.store)
        researcher = await room.researcher()
        assert "/researcher/quality/now" in (await researcher.get("/researcher")).text
        first = await researcher.get("/researcher/quality/now")
        assert first.status_code == 202
        assert first.headers["refresh"] == "5"
        for _ in range(600):
            answer = await researcher.get("/researcher/quality/now")
            if answer.status_code == 200:
                break
            await asyncio.sleep(0.1)
        assert "There are no judgments yet" in answer.text
        assert "sandbox" in answer.headers["content-security-policy"]
        assert (await researcher.get("/researcher/quality/now")).text == answer.text  # remembered
        assert (await room.http().get("/researcher/quality/now")).status_code == 401
