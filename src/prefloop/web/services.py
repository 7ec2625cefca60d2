"""What the routes of one app share, and who is asking. Knows the cookies; knows nothing of what a route does.

A worker and a researcher are separate roles with separate cookies, so that one browser can hold both and neither
opens the other's pages.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.responses import Response
from fastapi.templating import Jinja2Templates

from prefloop.schema import Worker
from prefloop.store import AccountRole, Researcher, Store
from prefloop.web.broker import Broker
from prefloop.web.care import Care
from prefloop.web.checks import Checks
from prefloop.web.generation import Generation
from prefloop.web.live_quality import LiveQuality
from prefloop.web.passwords import Guesses
from prefloop.web.phases import Phases
from prefloop.web.problems import Problem
from prefloop.web.settings import PageSettings
from prefloop.web.store_threads import StoreThreads
from prefloop.web.texts import STANDING_MESSAGES
from prefloop.web.turns import Turns

COOKIES: dict[Literal["worker", "researcher"], str] = {
    "worker": "prefloop_worker",
    "researcher": "prefloop_researcher",
}


@dataclass(frozen=True)
class Services:
    """One app's parts; found at `app.state.services`.

    `passwords` is a pool of its own with one thread: a hash takes a core and 64 MiB for a while, and a rush of guesses
    must hold up nobody but the guessers.
    """

    store: Store
    threads: StoreThreads
    broker: Broker
    generation: Generation
    live_quality: LiveQuality
    turns: Turns
    phases: Phases
    care: Care
    checks: Checks
    page: PageSettings
    return_hosts: tuple[str, ...]
    arrivals: asyncio.Lock
    templates: Jinja2Templates
    quality_report: Path | None
    guesses: Guesses
    passwords: StoreThreads


def services_of(request: Request) -> Services:
    """The parts of the app that a request came to."""
    services: Services = request.app.state.services
    return services


async def _shared(request: Request) -> Services:
    return services_of(request)


Shared = Annotated[Services, Depends(_shared)]  # asynchronous: a plain function would run in a thread of its own


async def _worker(request: Request) -> Worker:
    services = services_of(request)
    token = request.cookies.get(COOKIES["worker"])
    person = await services.threads.recall_longer(services.store.session_worker, token) if token else None
    if person is None:
        raise Problem(401, "sign_in", "You are not signed in; open your personal invitation link.")
    if person.role != "worker":
        raise Problem(403, "forbidden", f"This page is for a worker; you are signed in as a {person.role}.")
    standing = await services.threads.recall_longer(services.store.worker_standing, person.id)
    if standing != "active":
        raise Problem(403, standing, STANDING_MESSAGES[standing])
    return person


SignedInWorker = Annotated[Worker, Depends(_worker)]

_RIGHTS: dict[AccountRole, int] = {"reviewer": 0, "researcher": 1, "owner": 2}


async def _researcher(request: Request, least: AccountRole) -> Researcher:
    """Who asks, by the session's cookie or (a script) by `Authorization: Bearer TOKEN`."""
    services = services_of(request)
    recall, store = services.threads.recall, services.store
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme:
        person = await recall(store.token_researcher, token.strip()) if scheme.lower() == "bearer" else None
        if person is None:
            raise Problem(401, "sign_in", "This token is not good (any more); make a new one on the page.")
    else:
        cookie = request.cookies.get(COOKIES["researcher"])
        person = await recall(store.session_researcher, cookie) if cookie else None
        if person is None:
            raise Problem(401, "sign_in", "You are not signed in; sign in, or open your one-time link.")
    if _RIGHTS[person.role] < _RIGHTS[least]:
        raise Problem(403, "forbidden", f"This is for the role {least!r}; you are signed in as {person.role!r}.")
    return person


async def _as_reviewer(request: Request) -> Researcher:
    return await _researcher(request, "reviewer")


async def _as_researcher(request: Request) -> Researcher:
    return await _researcher(request, "researcher")


async def _as_owner(request: Request) -> Researcher:
    return await _researcher(request, "owner")


AsReviewer = Annotated[Researcher, Depends(_as_reviewer)]
"""Anybody on the researcher's side: may look at everything, take notes and spot-check."""
AsResearcher = Annotated[Researcher, Depends(_as_researcher)]
"""May run studies and decide about workers and payments."""
AsOwner = Annotated[Researcher, Depends(_as_owner)]
"""May administer the accounts too."""


async def sign_in(request: Request, response: Response, person_id: str, role: Literal["worker", "researcher"]) -> None:
    """Gives the browser a session of its own."""
    services = services_of(request)
    page = services.page
    seconds = page.session_days * 86400 if role == "worker" else page.researcher_session_hours * 3600
    token = await services.threads.run(services.store.add_session, person_id, seconds)
    response.set_cookie(
        COOKIES[role],
        token,
        max_age=int(seconds),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
