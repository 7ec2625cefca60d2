"""Who may come in, from where, and what every answer carries."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_server import a_study

from prefloop.schema import Mode, Study
from prefloop.study import StudyPhases


async def test_a_link_signs_in_and_leads_to_the_study(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        client = room.http()
        answer = await client.get(f"/join/{room.store.add_invitation(study.id, pseudonym='kite')}")
        cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("prefloop_worker="))
        assert "HttpOnly" in cookie
        assert "samesite=lax" in cookie.lower()
        assert "Secure" not in cookie  # plain http
        assert (await client.get("/api/me")).json()["pseudonym"] == "kite"
        page = await client.get(f"/study/{study.id}")
        assert page.status_code == 200
        assert study.name in page.text


async def test_over_https_the_cookie_is_secure(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        transport = httpx.ASGITransport(app=room.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://page.example") as client:
            answer = await client.get(f"/join/{room.store.add_invitation(study.id)}")
        assert all("Secure" in cookie for cookie in answer.headers.get_list("set-cookie"))


async def test_the_same_browser_stays_the_same_worker(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        token = room.store.add_invitation(study.id, uses=3)
        client, other = room.http(), room.http()
        for _ in range(5):
            assert (await client.get(f"/join/{token}")).headers["location"] == f"/study/{study.id}"
        await other.get(f"/join/{token}")
        names = {(await c.get("/api/me")).json()["worker_id"] for c in (client, other)}
        assert len(names) == len(room.store.workers()) == 2


async def test_unknown_and_used_up_links_say_so(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        unknown = await room.http().get("/join/nonsense")
        assert unknown.status_code == 404
        assert "ask the researcher for a new link" in unknown.text
        token = room.store.add_invitation(a_study(room.store).id, uses=2)
        statuses = [(await room.http().get(f"/join/{token}")).status_code for _ in range(3)]
        assert statuses == [303, 303, 409]


async def test_an_invitation_to_the_workspace_leads_to_an_open_study(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        closed, opened = a_study(room.store), a_study(room.store, Mode.RED_TEAM)
        room.store.set_study_state(closed.id, "paused")
        client = room.http()
        answer = await client.get(f"/join/{room.store.add_invitation(None)}")
        assert answer.headers["location"] == f"/study/{opened.id}"
        assert (await client.get(f"/study/{opened.id}")).status_code == 200


async def test_nothing_without_signing_in(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        client = room.http()
        for path in (f"/api/studies/{study.id}/state", "/api/me", f"/api/next?study_id={study.id}"):
            answer = await client.get(path)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "sign_in"
        assert (await client.post("/api/conversations", json={"study_id": study.id})).status_code == 401
        for path in (f"/study/{study.id}", "/researcher", "/researcher/panel", "/researcher/quality"):
            page = await client.get(path)
            assert page.status_code == 401
            assert "Please sign in" in page.text
        client.cookies.set("prefloop_worker", "forged")
        assert (await client.get("/api/me")).status_code == 401


async def test_roles_do_not_open_each_others_pages(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        worker = await room.worker(study)
        researcher = await room.researcher()
        assert (await worker.get("/researcher")).status_code == 401
        # the worker's session under the other role's cookie is still a worker's
        worker.http.cookies.set("prefloop_researcher", worker.http.cookies["prefloop_worker"])
        for path in ("/researcher", f"/researcher/panel?study={study.id}", "/researcher/quality"):
            assert (await worker.get(path)).status_code == 401
        forged = await worker.http.post("/researcher/invitations", data={"study": study.id})
        assert forged.status_code == 401
        assert (await researcher.get("/api/me")).status_code == 401
        assert (await researcher.get("/researcher")).status_code == 200


WRITES: list[tuple[str, dict[str, str]]] = [
    ("/api/conversations", {}),
    ("/api/comparisons/x/judgment", {}),
    ("/study/x/agree", {}),
    ("/researcher/invitations", {}),
    ("/researcher/sign-out", {}),
]


@pytest.mark.parametrize(("path", "body"), WRITES)
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://testserver"},
    ],
)
async def test_other_sites_write_nothing(
    open_room: Callable[..., Any], path: str, body: dict[str, str], headers: dict[str, str]
) -> None:
    async with open_room() as room:
        answer = await room.http().post(path, json=body, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "cross_site"


@pytest.mark.parametrize(
    "headers", [{}, {"Origin": "http://testserver"}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}]
)
async def test_the_page_itself_and_programs_may_write(open_room: Callable[..., Any], headers: dict[str, str]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        answer = await worker.post("/api/conversations", {"study_id": worker.study.id}, headers=headers)
        assert answer.status_code == 201


async def test_every_answer_carries_the_policy(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        nonces = set()
        for path in (f"/study/{worker.study.id}", "/", "/static/study.js", "/api/me", "/nowhere", "/api/nowhere"):
            answer = await worker.get(path)
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'nonce-")
            assert "unsafe" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "no-referrer"
            nonces.update(re.findall(r"nonce-([\w-]+)", policy))
        assert len(nonces) == 6
        for kind in ("consent", "agree"):
            await worker.http.post(f"/study/{worker.study.id}/{kind}")
        page = await worker.get(f"/study/{worker.study.id}")
        (nonce,) = re.findall(r"nonce-([\w-]+)", page.headers["content-security-policy"])
        scripts = re.findall(r"<script[^>]*>", page.text)
        assert scripts
        assert all(f'nonce="{nonce}"' in script for script in scripts)
        assert not re.search(r"\son\w+=|style=|https?://(?!testserver)", page.text)


async def test_consent_and_instructions_are_kept_word_for_word_and_asked_again_when_they_change(
    open_room: Callable[..., Any],
) -> None:
    async with open_room() as room:
        study = a_study(room.store, instructions="Be *kind*.", instructions_version="7")
        worker = await room.worker(study)
        address = f"/study/{study.id}"
        assert "Your consent" in (await worker.get(address)).text
        assert (await worker.http.post(f"{address}/consent", data={"version": "built-in-2"})).status_code == 303
        page = (await worker.get(address)).text
        assert "What to do" in page
        assert "Be <em>kind</em>." in page
        assert (await worker.http.post(f"{address}/agree", data={"version": "7"})).status_code == 303
        assert 'id="transcript"' in (await worker.get(address)).text
        me = (await worker.get("/api/me")).json()["worker_id"]
        consent, instructions = room.store.agreements(me, study.id)
        assert (consent.kind, consent.version) == ("consent", "built-in-2")
        assert "Taking part is voluntary" in consent.text
        assert (instructions.kind, instructions.version) == ("instructions", "7")
        assert instructions.text.startswith("Be *kind*.")

        room.store.set_study_phases(study.id, StudyPhases(consent="We keep *all*.", consent_version="2"))
        assert "We keep <em>all</em>." in (await worker.get(address)).text
        stale = await worker.http.post(f"{address}/consent", data={"version": "built-in-2"})
        assert stale.status_code == 409  # the text that was read is not the present one
        assert "Your consent" in (await worker.get(address)).text
        await worker.http.post(f"{address}/consent", data={"version": "2"})
        assert 'id="transcript"' in (await worker.get(address)).text  # the instructions are the same as before
        assert [(a.kind, a.version) for a in room.store.agreements(me, study.id)] == [
            ("consent", "built-in-2"),
            ("instructions", "7"),
            ("consent", "2"),
        ]
        other = a_study(room.store, Mode.RED_TEAM)
        await worker.get(f"/join/{room.store.add_invitation(other.id)}")
        assert "Your consent" in (await worker.get(f"/study/{other.id}")).text


async def test_red_team_is_warned_before_it_begins(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study: Study = a_study(room.store, Mode.RED_TEAM)
        worker = await room.worker(study)
        page = (await worker.get(f"/study/{study.id}")).text
        assert page.index("Content warning") < page.index("I agree")
        full = (await worker.get(f"/study/{study.id}/instructions")).text  # before and after agreeing
        assert "Content warning" in full
        assert "Where to look" in full


async def test_an_unexpected_fault_is_told_in_our_shape(
    open_room: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        monkeypatch.setattr(room.store, "standing", lambda conversation_id: 1 / 0)
        answer = await worker.post("/api/conversations/x/end")
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "internal"
        assert "ZeroDivision" not in answer.text


def test_the_page_runs_where_no_torch_is_installed() -> None:
    import subprocess

    code = "import sys; sys.modules['torch'] = None; import prefloop.web"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent)
