"""The pages of a worker: the way in by an invitation link, consent, instructions, the study. Facts come as JSON."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from prefloop.schema import Worker
from prefloop.store import PlatformArrival, WorkerDecision
from prefloop.web.markdown import render_markdown
from prefloop.web.platforms import arrival_of
from prefloop.web.services import COOKIES, Services, Shared, SignedInWorker, sign_in
from prefloop.web.texts import FEELINGS, PAGE_TEXTS

router = APIRouter(include_in_schema=False)
_CAME_BY = "prefloop_came_by"


@router.get("/")
async def welcome(request: Request, shared: Shared) -> Response:
    """For whoever comes without a link."""
    return shared.templates.TemplateResponse(request, "welcome.html")


@router.get("/join/{token}")
async def join(token: str, request: Request, shared: Shared) -> Response:
    """Signs the browser in by an invitation and goes on to the study, or to the researcher's page.

    A browser that opens the same link again while it is signed in stays who it is: a link for many would otherwise
    make a new worker at each reload.
    """
    digest = hashlib.sha256(token.encode()).hexdigest()[:32]
    comes_from_a_platform = arrival_of(request.query_params) is not None
    known, _, target = request.cookies.get(_CAME_BY, "").partition("|")
    if (
        not comes_from_a_platform
        and known == digest
        and target.startswith("/study/")
        and await _is_signed_in(request, shared)
    ):
        return RedirectResponse(target, 303)
    person, study_id = await _arrive(request, shared, token)
    if person.role == "researcher":
        response = RedirectResponse("/researcher", 303)
    else:
        target = f"/study/{study_id or await _first_open_study(shared)}"
        response = RedirectResponse(target, 303)
        response.set_cookie(
            _CAME_BY, f"{digest}|{target}", httponly=True, samesite="lax", secure=request.url.scheme == "https"
        )
    await sign_in(request, response, person.id, person.role)
    return response


@router.get("/study/{study_id}")
async def study_page(study_id: str, request: Request, worker: SignedInWorker, shared: Shared) -> Response:
    """Consent, then instructions, then the chat: whichever the worker has still before them."""
    study = await shared.turns.joined(worker, study_id)
    shown = await shared.phases.shown(study)
    stage = await shared.phases.stage(worker, shown)
    facts = {
        "study": study,
        "shown": shown,
        "texts": shown.texts,
        "page_texts": PAGE_TEXTS,
        "instructions": render_markdown(shown.instructions, keeps_lines=False),
        "consent": render_markdown(shown.consent, keeps_lines=False),
        "max_chars": shared.page.max_message_chars,
        "feelings": FEELINGS,
        "opt_outs": await shared.care.opt_outs(worker, shown),
    }
    return shared.templates.TemplateResponse(request, "study.html" if stage == "tasks" else f"{stage}.html", facts)


@router.get("/study/{study_id}/instructions")
async def instructions(study_id: str, request: Request, worker: SignedInWorker, shared: Shared) -> Response:
    """The expanded instructions, for reading beside the chat."""
    study = await shared.turns.joined(worker, study_id)
    shown = await shared.phases.shown(study)
    facts = {
        "study": study,
        "texts": shown.texts,
        "instructions": render_markdown(shown.instructions, keeps_lines=False),
        "full_instructions": render_markdown(shown.full_instructions, keeps_lines=False),
        "consent": render_markdown(shown.consent, keeps_lines=False),
    }
    return shared.templates.TemplateResponse(request, "full_instructions.html", facts)


@router.post("/study/{study_id}/withdraw")
async def withdraw(
    study_id: str, worker: SignedInWorker, shared: Shared, sure: Annotated[Literal["yes"], Form()]
) -> Response:
    """The worker withdraws their consent, for good and everywhere in this workspace."""
    await shared.turns.joined(worker, study_id)
    wish = WorkerDecision(worker_id=worker.id, kind="withdraw", reason="On the page, by the worker.", by="the worker")
    await shared.threads.run(shared.store.add_decision, wish)
    shared.threads.forget()
    return RedirectResponse(f"/study/{study_id}", 303)


@router.post("/study/{study_id}/{kind}")
async def agree(
    study_id: str,
    kind: Literal["consent", "agree"],
    worker: SignedInWorker,
    shared: Shared,
    version: Annotated[str | None, Form(max_length=60)] = None,
) -> Response:
    """The worker agrees to the consent text, or has read the instructions and begins; kept with the text itself."""
    study = await shared.turns.joined(worker, study_id)
    shown = await shared.phases.shown(study)
    await shared.phases.agree(worker, shown, "consent" if kind == "consent" else "instructions", version)
    return RedirectResponse(f"/study/{study_id}", 303)


async def _arrive(request: Request, shared: Services, token: str) -> tuple[Worker, str | None]:
    """Who comes by a link. Somebody whom a platform sent is the same worker each time, in any browser."""
    run, store = shared.threads.run, shared.store
    arrival = arrival_of(request.query_params)
    study_id = await run(store.invitation_study, token) if arrival is not None else None
    if arrival is None or study_id is None:
        return await run(store.accept_invitation, token)
    async with shared.arrivals:  # two tabs of somebody new make one worker
        known = await run(store.arrived_worker, arrival.platform, arrival.external_id, study_id)
        person = known or (await run(store.accept_invitation, token))[0]
        await run(store.add_arrival, PlatformArrival(**arrival._asdict(), worker_id=person.id, study_id=study_id))
    return person, study_id


async def _is_signed_in(request: Request, shared: Services) -> bool:
    token = request.cookies.get(COOKIES["worker"])
    return token is not None and await shared.threads.recall(shared.store.session_worker, token) is not None


async def _first_open_study(shared: Services) -> str:
    studies = await shared.threads.run(shared.store.studies)
    return next((study.id for study in studies if study.state == "open"), "none")
