"""What the routes of one app share, and who is asking. Knows the cookies; knows nothing of what a route does.

A worker and a researcher are separate roles with separate cookies, so that one browser can hold both and neither
opens the other's pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from fastapi import Depends, Request
from fastapi.responses import Response
from fastapi.templating import Jinja2Templates

from prefloop.schema import Worker
from prefloop.store import Store
from prefloop.web.broker import Broker
from prefloop.web.generation import Generation
from prefloop.web.phases import Phases
from prefloop.web.problems import Problem
from prefloop.web.settings import PageSettings
from prefloop.web.store_threads import StoreThreads
from prefloop.web.turns import Turns

COOKIES: dict[Literal["worker", "researcher"], str] = {
    "worker": "prefloop_worker",
    "researcher": "prefloop_researcher",
}


@dataclass(frozen=True)
class Services:
    """One app's parts; found at `app.state.services`."""

    store: Store
    threads: StoreThreads
    broker: Broker
    generation: Generation
    turns: Turns
    phases: Phases
    page: PageSettings
    templates: Jinja2Templates
    quality_report: Path | None


def services_of(request: Request) -> Services:
    """The parts of the app that a request came to."""
    services: Services = request.app.state.services
    return services


async def _shared(request: Request) -> Services:
    return services_of(request)


Shared = Annotated[Services, Depends(_shared)]  # asynchronous: a plain function would run in a thread of its own


async def _signed_in(request: Request, role: Literal["worker", "researcher"]) -> Worker:
    services = services_of(request)
    token = request.cookies.get(COOKIES[role])
    person = await services.threads.recall(services.store.session_worker, token) if token else None
    if person is None:
        raise Problem(401, "sign_in", "You are not signed in; open your personal invitation link.")
    if person.role != role:
        raise Problem(403, "forbidden", f"This page is for a {role}; you are signed in as a {person.role}.")
    return person


async def _worker(request: Request) -> Worker:
    return await _signed_in(request, "worker")


async def _researcher(request: Request) -> Worker:
    return await _signed_in(request, "researcher")


SignedInWorker = Annotated[Worker, Depends(_worker)]
SignedInResearcher = Annotated[Worker, Depends(_researcher)]


async def sign_in(request: Request, response: Response, person: Worker) -> None:
    """Gives the browser a session of its own."""
    services = services_of(request)
    seconds = services.page.session_days * 86400
    token = await services.threads.run(services.store.add_session, person.id, seconds)
    response.set_cookie(
        COOKIES[person.role],
        token,
        max_age=int(seconds),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
