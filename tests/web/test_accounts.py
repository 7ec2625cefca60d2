"""Signing in as a researcher: passwords, links, roles, guesses, tokens; and what the API says about itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from prefloop.errors import DataError
from prefloop.store import AccountRole
from prefloop.web import setup_link
from prefloop.web.accounts import _own
from prefloop.web.passwords import WINDOW_SECONDS, Guesses, hash_password, is_outdated, is_password
from prefloop.web.problems import Problem

PASSWORD = "correct horse battery"


async def set_up(room: Any, name: str = "Ada", role: AccountRole = "owner") -> httpx.AsyncClient:
    """Somebody with an account, signed in by the link that made it."""
    client: httpx.AsyncClient = room.http()
    form = {"name": name, "password": PASSWORD, "again": PASSWORD}
    answer = await client.post(setup_link(room.store, "http://testserver", role), data=form)
    assert (answer.status_code, answer.headers["location"]) == (303, "/researcher"), answer.text
    return client


async def sign_in(client: httpx.AsyncClient, name: str, password: str, **more: str) -> httpx.Response:
    return await client.post("/researcher/sign-in", data={"name": name, "password": password, **more})


def test_passwords_are_argon2id_and_salted() -> None:
    one, two = hash_password(PASSWORD), hash_password(PASSWORD)
    assert one.startswith("$argon2id$")
    assert one != two
    assert is_password(PASSWORD, one)
    assert not is_password(PASSWORD + "!", one)
    assert not is_password(PASSWORD, None)
    assert not is_password(PASSWORD, "rubbish")
    assert not is_outdated(one)
    for wrong in ("x" * 11, "x" * 201):
        with pytest.raises(DataError, match="12 to 200"):
            hash_password(wrong)
    assert is_password("x" * 200, hash_password("x" * 200))
    assert not is_password("x" * 5000, hash_password("x" * 200))


async def test_the_first_link_makes_the_owner_and_is_good_once(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        link = setup_link(room.store, "http://testserver/")
        client = room.http()
        page = await client.get(link)
        assert page.status_code == 200
        assert "<strong>owner</strong>" in page.text
        for form, fault in (
            ({"name": "Ada", "password": "short", "again": "short"}, "12 to 200"),
            ({"name": "Ada", "password": PASSWORD, "again": PASSWORD + "!"}, "differ"),
            ({"name": " ", "password": PASSWORD, "again": PASSWORD}, "1 to 60"),
        ):
            answer = await client.post(link, data=form)
            assert answer.status_code == 422
            assert fault in answer.text
        answer = await client.post(link, data={"name": "Ada", "password": PASSWORD, "again": PASSWORD})
        cookie = next(one for one in answer.headers.get_list("set-cookie") if one.startswith("prefloop_researcher="))
        assert "HttpOnly" in cookie
        assert "Max-Age=43200" in cookie  # 12 hours
        assert "Owner" in (await client.get("/researcher")).text
        for again in (await client.get(link), await client.post(link, data={"password": PASSWORD, "again": PASSWORD})):
            assert again.status_code == 404


async def test_signing_in_and_back_to_what_was_asked_for(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        await set_up(room)
        client = room.http()
        asked = await client.get("/researcher/panel?study=7")
        assert asked.status_code == 401
        assert 'name="target" value="/researcher/panel?study=7"' in asked.text
        wrong = await sign_in(client, "Ada", "not the password")
        nobody = await sign_in(client, "Nobody", "not the password")
        assert (wrong.status_code, nobody.status_code) == (401, 401)
        assert wrong.text.replace("Ada", "") == nobody.text.replace("Nobody", "")  # neither says which was wrong
        assert "set-cookie" not in wrong.headers
        right = await sign_in(client, "ADA", PASSWORD, target="/researcher?study=7")
        assert (right.status_code, right.headers["location"]) == (303, "/researcher?study=7")
        assert (await client.get("/researcher")).status_code == 200


@pytest.mark.parametrize(
    "target",
    ["https://evil.example", "//evil.example", "/researcher.evil", "/\\evil", "/researcher/\\evil", "javascript:x"],
)
def test_signing_in_leads_nowhere_else(target: str) -> None:
    assert _own(target) == "/researcher"


async def test_guesses_are_limited_and_a_right_one_clears_them(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        await set_up(room)
        client = room.http()
        for _ in range(4):
            assert (await sign_in(client, "Ada", "wrong")).status_code == 401
        assert (await sign_in(client, "Ada", PASSWORD)).status_code == 303
        for _ in range(5):
            assert (await sign_in(client, "ada", "wrong")).status_code == 401
        refused = await sign_in(client, "Ada", PASSWORD)
        assert refused.status_code == 429
        assert 0 < int(refused.headers["retry-after"]) <= WINDOW_SECONDS + 1
        assert "15 minutes" in refused.text


def test_the_limits_of_guesses() -> None:
    time = [0.0]
    guesses = Guesses(clock=lambda: time[0])
    for _ in range(5):
        guesses.refuse_too_many("ada", "1.1.1.1")
        guesses.wrong("ada", "1.1.1.1")
    with pytest.raises(Problem, match="Too many") as refused:
        guesses.refuse_too_many("Ada", "1.1.1.1")
    assert refused.value.headers == {"Retry-After": "901"}
    guesses.refuse_too_many("ada", "2.2.2.2")  # the owner of the name gets in from elsewhere
    guesses.refuse_too_many("ben", "1.1.1.1")
    for person in range(25):
        guesses.wrong(f"name {person}", "1.1.1.1")  # 30 from one address
    with pytest.raises(Problem):
        guesses.refuse_too_many("ben", "1.1.1.1")
    for place in range(45):
        guesses.wrong("ada", f"address {place}")  # 50 at one name
    with pytest.raises(Problem):
        guesses.refuse_too_many("ada", "fresh")
    time[0] = WINDOW_SECONDS + 1.0
    guesses.refuse_too_many("ada", "1.1.1.1")


async def test_what_each_role_may_do(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        owner = await set_up(room)
        researcher = await set_up(room, "Ben", "researcher")
        reviewer = await set_up(room, "Cam", "reviewer")
        guest = await room.researcher()
        form = {"study": "none", "state": "open", "role": "owner"}
        rights = {
            "/researcher/accounts/links": (200, 403, 403, 403),
            "/researcher/studies/none/state": (404, 404, 403, 404),
            "/researcher/invitations": (404, 404, 403, 404),
        }
        for path, expected in rights.items():
            got = [(await who.post(path, data=form)).status_code for who in (owner, researcher, reviewer, guest)]
            assert tuple(got) == expected, path
        for who in (owner, researcher, reviewer, guest):
            assert (await who.get("/researcher")).status_code == 200
        assert "All accounts" in (await owner.get("/researcher/account")).text
        assert "All accounts" not in (await researcher.get("/researcher/account")).text
        assert "one-time link" in (await guest.get("/researcher/account")).text
        assert (await guest.post("/researcher/account/tokens", data={"label": "x"})).status_code == 409


async def test_an_owner_runs_the_accounts(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        owner = await set_up(room)
        page = await owner.post("/researcher/accounts/links", data={"role": "reviewer"})
        link = re.search(r"http://testserver/setup/[\w-]+", page.text)
        assert link is not None
        cam = room.http()
        await cam.post(link.group(), data={"name": "Cam", "password": PASSWORD, "again": PASSWORD})
        assert "Reviewer" in (await cam.get("/researcher")).text
        ids = {account.name: account.id for account in room.store.accounts()}
        changed = await owner.post(f"/researcher/accounts/{ids['Cam']}/role", data={"role": "researcher"})
        assert changed.status_code == 303
        assert "Researcher" in (await cam.get("/researcher")).text
        refused = await owner.post(f"/researcher/accounts/{ids['Ada']}/role", data={"role": "reviewer"})
        assert refused.status_code == 422
        assert "last owner" in refused.text
        assert (await owner.post(f"/researcher/accounts/{ids['Cam']}/end")).status_code == 303
        assert (await cam.get("/researcher")).status_code == 401
        assert (await sign_in(room.http(), "Cam", PASSWORD)).status_code == 401


async def test_a_new_password_signs_out_everywhere_else(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        here, there = await set_up(room), room.http()
        await sign_in(there, "Ada", PASSWORD)
        new = "another horse, another battery"
        form = {"old": "wrong", "password": new, "again": new}
        assert (await here.post("/researcher/account/password", data=form)).status_code == 422
        assert (await here.post("/researcher/account/password", data={**form, "old": PASSWORD})).status_code == 200
        assert (await here.get("/researcher")).status_code == 200
        assert (await there.get("/researcher")).status_code == 401
        assert (await sign_in(there, "Ada", PASSWORD)).status_code == 401
        assert (await sign_in(there, "Ada", new)).status_code == 303
        assert (await there.post("/researcher/sign-out", data={"everywhere": "true"})).status_code == 303
        assert (await here.get("/researcher")).status_code == 401


async def test_a_token_has_its_accounts_rights(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        owner, reviewer = await set_up(room), await set_up(room, "Cam", "reviewer")
        token = (await reviewer.post("/api/research/tokens", json={"label": "script"})).json()["token"]
        script = room.http()
        headers = {"Authorization": f"Bearer {token}"}
        assert (await script.get("/api/research/me")).json()["error"]["code"] == "sign_in"
        assert (await script.get("/api/research/me", headers=headers)).json()["name"] == "Cam"
        refused = await script.get("/api/research/accounts", headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")
        bad = {"Authorization": f"Bearer {token}x"}
        assert (await owner.get("/api/research/me", headers=bad)).status_code == 401  # no falling back to the cookie
        (kept,) = (await reviewer.get("/api/research/tokens")).json()
        assert (await owner.delete(f"/api/research/tokens/{kept['id']}")).status_code == 404
        assert (await reviewer.delete(f"/api/research/tokens/{kept['id']}")).status_code == 200
        assert (await script.get("/api/research/me", headers=headers)).status_code == 401


async def test_accounts_over_the_api(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        owner = await set_up(room)
        made = await owner.post("/api/research/accounts/links", json={"role": "researcher"})
        assert made.status_code == 201
        client = room.http()
        await client.post(made.json()["link"], data={"name": "Ben", "password": PASSWORD, "again": PASSWORD})
        listed = (await owner.get("/api/research/accounts")).json()
        assert [(one["name"], one["role"]) for one in listed] == [("Ada", "owner"), ("Ben", "researcher")]
        assert "hash" not in str(listed)
        ben = listed[1]["id"]
        assert (await owner.post(f"/api/research/accounts/{ben}/role", json={"role": "reviewer"})).status_code == 200
        assert (await owner.post(f"/api/research/accounts/{ben}/role", json={"role": "king"})).status_code == 422
        assert (await owner.delete(f"/api/research/accounts/{ben}")).status_code == 200
        refused = await owner.delete(f"/api/research/accounts/{listed[0]['id']}")
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
        assert (await client.get("/api/research/me")).status_code == 401


async def test_openapi_describes_every_route_and_the_one_error_shape(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        described = (await room.http().get("/openapi.json")).json()
        routes = [
            (f"{verb} {path}", facts) for path, verbs in described["paths"].items() for verb, facts in verbs.items()
        ]
        assert any(path.startswith("get /api/research/") for path, _ in routes)
        for name, facts in routes:
            assert facts.get("description"), f"{name} does not say what it does"
            for status in ("401", "403", "404", "409", "422"):
                schema = facts["responses"][status]["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ProblemBody"}, f"{name} {status}"
            if "/api/research/" in name:
                assert {key for one in facts["security"] for key in one} == {"HTTPBearer", "APIKeyCookie"}, name
