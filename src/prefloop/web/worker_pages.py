"""The pages of a worker: the way in by an invitation link, and the study. Knows templates; facts come as JSON."""

from __future__ import annotations

import hashlib

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from prefloop.schema import Study, Worker
from prefloop.web.markdown import render_markdown
from prefloop.web.services import COOKIES, Services, Shared, SignedInWorker, sign_in
from prefloop.web.texts import MODES, PAGE_TEXTS
from prefloop.web.turns import instructions_version

router = APIRouter(include_in_schema=False)
_CAME_BY = "prefloop_came_by"
_AGREED = "prefloop_agreed"


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
    known, _, target = request.cookies.get(_CAME_BY, "").partition("|")
    if known == digest and target.startswith("/study/") and await _is_signed_in(request, shared):
        return RedirectResponse(target, 303)
    person, study_id = await shared.threads.run(shared.store.accept_invitation, token)
    if person.role == "researcher":
        response = RedirectResponse("/researcher", 303)
    else:
        target = f"/study/{study_id or await _first_open_study(shared)}"
        response = RedirectResponse(target, 303)
        response.set_cookie(
            _CAME_BY, f"{digest}|{target}", httponly=True, samesite="lax", secure=request.url.scheme == "https"
        )
    await sign_in(request, response, person)
    return response


@router.get("/study/{study_id}")
async def study_page(study_id: str, request: Request, worker: SignedInWorker, shared: Shared) -> Response:
    """Instructions, then the chat."""
    study = await shared.turns.joined(worker, study_id)
    texts = MODES[study.mode]
    facts = {
        "study": study,
        "texts": texts,
        "page_texts": PAGE_TEXTS,
        "instructions": render_markdown(study.instructions or texts.instructions, keeps_lines=False),
        "agreed": request.cookies.get(_AGREED) == _agreement(worker, study),
        "max_chars": shared.page.max_message_chars,
    }
    return shared.templates.TemplateResponse(request, "study.html", facts)


@router.post("/study/{study_id}/agree")
async def agree(study_id: str, request: Request, worker: SignedInWorker, shared: Shared) -> Response:
    """The worker has read the instructions and takes part; noted with their version."""
    study = await shared.turns.joined(worker, study_id)
    version = instructions_version(study)
    await shared.threads.run(shared.store.log, worker.id, "study.agreed", study.id, {"instructions_version": version})
    response = RedirectResponse(f"/study/{study_id}", 303)
    response.set_cookie(
        _AGREED,
        _agreement(worker, study),
        max_age=int(shared.page.session_days * 86400),
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


def _agreement(worker: Worker, study: Study) -> str:
    """Names who agreed to which version of what; a new version asks again."""
    return hashlib.sha256(f"{worker.id} {study.id} {instructions_version(study)}".encode()).hexdigest()[:32]


async def _is_signed_in(request: Request, shared: Services) -> bool:
    token = request.cookies.get(COOKIES["worker"])
    return token is not None and await shared.threads.recall(shared.store.session_worker, token) is not None


async def _first_open_study(shared: Services) -> str:
    studies = await shared.threads.run(shared.store.studies)
    return next((study.id for study in studies if study.state == "open"), "none")
