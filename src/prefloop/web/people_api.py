"""The API about studies and people, with the same rights as the pages: state, links, figures, decisions, payments.

Knows nothing of HTML.
"""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from prefloop.schema import Interval, Noun, SnapshotShare, Study
from prefloop.store import (
    DecisionKind,
    Earning,
    FoundMessage,
    Payment,
    StudyCounts,
    StudyProgress,
    WorkerDecision,
    WorkerFigures,
    WorkerStanding,
)
from prefloop.store.study_settings import add_study
from prefloop.study import StudyPhases, StudySettings
from prefloop.web.people import PAGE_WORKERS, figures_of
from prefloop.web.problems import Problem
from prefloop.web.research_api import DESCRIBED, Body
from prefloop.web.researcher import MOST_LINKS, invitation_links
from prefloop.web.services import AsResearcher, AsReviewer, Shared

router = APIRouter(prefix="/api/research", tags=["researcher"], dependencies=DESCRIBED)


class StateBody(Body):
    state: Literal["open", "paused", "closed"]


class LinksBody(Body):
    count: int = Field(1, ge=1, le=MOST_LINKS)
    uses: int = Field(1, ge=1, le=10_000, description="people who may use each link")
    pseudonym: str | None = Field(None, max_length=80)


class DecisionBody(Body):
    kind: DecisionKind
    reason: str


class PaymentBody(Body):
    key: str = Field(min_length=1, max_length=200, description="the caller's own; the same key again changes nothing")
    worker_id: str
    kind: Literal["bonus", "paid"]
    minor_units: int = Field(description="in the currency's smallest unit")
    reason: str = Field("", max_length=400)


class WorkerLine(Noun):
    """A worker's figures with their intervals."""

    counts: WorkerFigures
    side_a: Interval
    seconds: Interval | None
    grades_in_use: float
    standing: WorkerStanding


class StudyLine(Noun):
    """A study and how far it has come."""

    study: Study
    progress: StudyProgress


@router.get("/studies")
async def studies(researcher: AsReviewer, shared: Shared) -> list[StudyLine]:
    """All studies, oldest first."""
    run, store = shared.threads.run, shared.store
    return [StudyLine(study=one, progress=await run(store.progress, one.id)) for one in await run(store.studies)]


@router.post("/studies", status_code=201)
async def begin_study(body: StudySettings, researcher: AsResearcher, shared: Shared) -> Study:
    """Begins a study; the body is what a TOML file for `prefloop study add` says."""
    return await shared.threads.run(add_study, shared.store, body)


@router.put("/studies/{study_id}/phases")
async def set_phases(study_id: str, body: StudyPhases, researcher: AsResearcher, shared: Shared) -> StudyPhases:
    """What a study shows around its tasks from now on; a changed text needs a new version."""
    kept = await shared.threads.run(shared.store.set_study_phases, study_id, body)
    shared.threads.forget()
    return kept


@router.put("/studies/{study_id}/snapshots")
async def set_snapshots(study_id: str, body: list[SnapshotShare], researcher: AsResearcher, shared: Shared) -> Study:
    """Which snapshots answer from now on, with their weights."""
    study = await shared.threads.run(shared.store.set_study_snapshots, study_id, body)
    shared.threads.forget()
    return study


@router.get("/studies/{study_id}")
async def study_counts(study_id: str, researcher: AsReviewer, shared: Shared) -> StudyCounts:
    """A study in numbers: workers, void pairs and why, answers by snapshot, judgments per minute."""
    return await shared.threads.run(shared.store.study_counts, study_id)


@router.post("/studies/{study_id}/state")
async def set_state(study_id: str, body: StateBody, researcher: AsResearcher, shared: Shared) -> Study:
    """Opens, pauses or closes a study; a closed one stays closed."""
    study = await shared.threads.run(shared.store.set_study_state, study_id, body.state)
    shared.threads.forget()
    return study


@router.post("/studies/{study_id}/invitations", status_code=201)
async def invite(
    study_id: str, body: LinksBody, request: Request, researcher: AsResearcher, shared: Shared
) -> dict[str, list[str]]:
    """Links into a study; told this once."""
    address = str(request.base_url)
    make = (shared.store, address, study_id, body.count, body.uses, body.pseudonym)
    return {"links": await shared.threads.run(invitation_links, *make)}


@router.get("/studies/{study_id}/workers")
async def workers(
    study_id: str, researcher: AsReviewer, shared: Shared, offset: Annotated[int, Query(ge=0)] = 0
) -> list[WorkerLine]:
    """Workers of a study by number of judgments, 50 a page, with intervals. None of the figures is a verdict."""
    run, store = shared.threads.run, shared.store
    lines = []
    for counts in await run(store.worker_figures, study_id, None, offset, PAGE_WORKERS):
        figures = figures_of(counts)
        lines.append(
            WorkerLine(
                counts=counts,
                side_a=figures.side_a,
                seconds=figures.seconds,
                grades_in_use=figures.grades_in_use,
                standing=await run(store.worker_standing, counts.worker_id),
            )
        )
    return lines


@router.get("/workers/{worker_id}/decisions")
async def decisions(worker_id: str, researcher: AsReviewer, shared: Shared) -> list[WorkerDecision]:
    """Notes and decisions about a worker, oldest first."""
    return await shared.threads.run(shared.store.decisions, worker_id)


@router.post("/workers/{worker_id}/decisions", status_code=201)
async def decide(worker_id: str, body: DecisionBody, researcher: AsReviewer, shared: Shared) -> WorkerDecision:
    """A note (any role) or a decision (researchers): qualify, pause, resume, exclude, withdraw; with a reason."""
    if researcher.role == "reviewer" and body.kind != "note":
        raise Problem(403, "forbidden", f"A reviewer takes notes; {body.kind!r} is for a researcher.")
    decision = WorkerDecision(worker_id=worker_id, kind=body.kind, reason=body.reason, by=researcher.name)
    kept = await shared.threads.run(shared.store.add_decision, decision)
    shared.threads.forget()
    return kept


@router.get("/studies/{study_id}/payments")
async def earnings(study_id: str, researcher: AsResearcher, shared: Shared) -> list[Earning]:
    """The payment list of a study: time, tasks, credited time, bonuses, sums paid."""
    return await shared.threads.run(shared.store.earnings, study_id)


@router.post("/studies/{study_id}/payments", status_code=201)
async def add_payment(study_id: str, body: PaymentBody, researcher: AsResearcher, shared: Shared) -> Payment:
    """Notes a bonus or a sum paid; the same key again gives the kept one."""
    wanted = Payment(**body.model_dump(), study_id=study_id, by=researcher.name)
    return await shared.threads.run(shared.store.add_payment, wanted)


@router.get("/studies/{study_id}/messages")
async def messages(
    study_id: str, researcher: AsReviewer, shared: Shared, q: str = "", before: str | None = None
) -> list[FoundMessage]:
    """The newest turns of a study, or those that hold some words, 50 a page."""
    return await shared.threads.run(shared.store.found_messages, study_id, q, None, None, before)
