"""The researcher's pages about people: figures with intervals, writing, notes and decisions, payments, transcripts.

No figure is a verdict: the paper chose its workers by reading what they wrote, so the writing stands beside. Knows
templates, statistics and the store's counts.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response
from scipy import special

from prefloop.schema import Interval, Study
from prefloop.stats import effective_kinds, wilson
from prefloop.store import DecisionKind, Earning, Payment, Researcher, WorkerDecision, WorkerFigures
from prefloop.web.markdown import render_markdown
from prefloop.web.platforms import PLATFORMS, platform_of
from prefloop.web.problems import Problem
from prefloop.web.services import AsResearcher, AsReviewer, Services, Shared

router = APIRouter(prefix="/researcher", include_in_schema=False)
PAGE_WORKERS = 50
PLATFORM_NAMES = tuple(platform.name for platform in PLATFORMS)
_CSV_COLUMNS = (
    *("worker_id", "pseudonym", "tasks", "judgments", "worked_minutes", "credited_minutes"),
    *("bonus_minor_units", "paid_minor_units"),
)
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Figures:
    """A worker's counts with their intervals; None where there is too little to say."""

    counts: WorkerFigures
    side_a: Interval
    seconds: Interval | None
    grades_in_use: float


def figures_of(counts: WorkerFigures) -> Figures:
    """Share of side A (Wilson), mean seconds of a decision (Student's t), and how many grades are in use.

    The last is the exponential of the entropy of the grades: 8 where all are used alike, 1 where always the same one.
    """
    n, total, squares = counts.seconds
    seconds = None
    if n >= 2:
        mean = total / n
        error = math.sqrt(max(0.0, squares - n * mean * mean) / (n - 1) / n)
        half = float(special.stdtrit(n - 1, 0.975)) * error
        seconds = Interval(value=mean, low=max(0.0, mean - half), high=mean + half, n=n, clusters=n)
    grades = np.array(counts.grades, dtype=float)
    return Figures(
        counts=counts,
        side_a=wilson(counts.clicked_a, counts.judgments),
        seconds=seconds,
        grades_in_use=effective_kinds(grades) if grades.sum() else 0.0,
    )


def payment_csv(earnings: Iterable[Earning]) -> str:
    """The payment list as CSV. A name that a spreadsheet would take for a formula gets an apostrophe in front."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_CSV_COLUMNS)
    for one in earnings:
        name = f"'{one.pseudonym}" if one.pseudonym.startswith(_FORMULA_STARTS) else one.pseudonym
        minutes = [f"{seconds / 60:.1f}" for seconds in (one.worked_seconds, one.credited_seconds)]
        sums = (one.bonus_minor_units, one.paid_minor_units)
        writer.writerow([one.worker_id, name, one.tasks, one.judgments, *minutes, *sums])
    return text.getvalue()


@router.get("/people")
async def people(
    request: Request, researcher: AsReviewer, shared: Shared, study: str | None = None, page: int = 1
) -> Response:
    """Everybody who judged in a study, by number of judgments."""
    run, store = shared.threads.run, shared.store
    studies = await run(store.studies)
    chosen = await chosen_study(shared, studies, study)
    page = max(1, page)
    counts = []
    if chosen is not None:
        offset = PAGE_WORKERS * (page - 1)
        counts = await shared.threads.count(store.worker_figures, chosen.id, None, offset, PAGE_WORKERS + 1)
    shown = [figures_of(one) for one in counts[:PAGE_WORKERS]]
    standings = {one.counts.worker_id: await run(store.worker_standing, one.counts.worker_id) for one in shown}
    facts = {"me": researcher, "tab": "people", "studies": studies, "study": chosen, "people": shown, "page": page}
    facts |= {"standings": standings, "has_more": len(counts) > PAGE_WORKERS}
    return shared.templates.TemplateResponse(request, "people.html", facts)


@router.get("/people/{worker_id}")
async def person(worker_id: str, request: Request, researcher: AsReviewer, shared: Shared, study: str) -> Response:
    """One worker: figures, writing, notes and decisions."""
    return await _person(request, shared, researcher, worker_id, study)


@router.post("/people/{worker_id}/notes")
async def add_note(
    worker_id: str,
    researcher: AsReviewer,
    shared: Shared,
    study: Annotated[str, Form()],
    reason: Annotated[str, Form()],
) -> Response:
    """Keeps a note about a worker."""
    return await _decide(shared, researcher, worker_id, study, "note", reason)


@router.post("/people/{worker_id}/decisions")
async def decide(
    worker_id: str,
    researcher: AsResearcher,
    shared: Shared,
    study: Annotated[str, Form()],
    kind: Annotated[DecisionKind, Form()],
    reason: Annotated[str, Form()],
) -> Response:
    """Qualifies, pauses, lets go on, excludes, or keeps a withdrawal of consent; with a reason."""
    return await _decide(shared, researcher, worker_id, study, kind, reason)


@router.post("/people/{worker_id}/bonus")
async def bonus(
    worker_id: str,
    researcher: AsResearcher,
    shared: Shared,
    study: Annotated[str, Form()],
    minor_units: Annotated[int, Form()],
    reason: Annotated[str, Form(max_length=400)],
    key: Annotated[str, Form(min_length=1, max_length=80)],
) -> Response:
    """Notes a bonus; the form's key makes sending it twice harmless."""
    wanted = Payment(
        key=key,
        worker_id=worker_id,
        study_id=study,
        kind="bonus",
        minor_units=minor_units,
        reason=reason,
        by=researcher.name,
    )
    await shared.threads.run(shared.store.add_payment, wanted)
    return RedirectResponse(f"/researcher/people/{worker_id}?study={study}", 303)


@router.get("/payments.csv")
async def payments(researcher: AsResearcher, shared: Shared, study: str) -> Response:
    """The payment list of a study."""
    text = payment_csv(await shared.threads.run(shared.store.earnings, study))
    headers = {"Content-Disposition": 'attachment; filename="payments.csv"'}
    return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/bonuses/{platform}.csv")
async def platform_bonuses(platform: str, researcher: AsResearcher, shared: Shared, study: str) -> Response:
    """What is owed in bonuses to people who came from a platform, as the list that the platform takes."""
    known = platform_of(platform)
    if known is None:
        raise Problem(404, "not_found", f"There is no platform {platform!r}; known are {', '.join(PLATFORM_NAMES)}.")
    run, store = shared.threads.run, shared.store
    people = {one.worker_id: one.external_id for one in await run(store.arrivals, study) if one.platform == platform}
    owed = await run(store.earnings, study)
    text = known.bonus((people[one.worker_id], one.bonus_minor_units) for one in owed if one.worker_id in people)
    headers = {"Content-Disposition": f'attachment; filename="bonuses-{platform}.csv"'}
    return Response(text, media_type="text/csv; charset=utf-8", headers=headers)


@router.get("/transcripts")
async def transcripts(
    request: Request,
    researcher: AsReviewer,
    shared: Shared,
    study: str | None = None,
    q: str = "",
    before: str | None = None,
) -> Response:
    """The newest turns of a study, or those that hold some words."""
    run, store = shared.threads.run, shared.store
    studies = await run(store.studies)
    chosen = await chosen_study(shared, studies, study)
    found = [] if chosen is None else await run(store.found_messages, chosen.id, q, None, None, before)
    facts = {"me": researcher, "tab": "transcripts", "studies": studies, "study": chosen, "q": q, "found": found}
    return shared.templates.TemplateResponse(request, "transcripts.html", facts)


@router.get("/transcripts/{conversation_id}")
async def transcript(conversation_id: str, request: Request, researcher: AsReviewer, shared: Shared) -> Response:
    """One conversation: every message, both answers of every pair, and how they were judged."""
    run, store = shared.threads.run, shared.store
    standing = await run(store.standing, conversation_id)
    judgments = {pair.id: await run(store.judgments, pair.id) for pair in standing.comparisons}
    names = {snapshot.id: snapshot.name for snapshot in await run(store.snapshots)}
    worker_id = standing.conversation.worker_id
    facts = {
        "me": researcher,
        "tab": "transcripts",
        "standing": standing,
        "judgments": judgments,
        "names": names,
        "worker": await run(store.worker, worker_id) if worker_id else None,
        "markdown": render_markdown,
    }
    return shared.templates.TemplateResponse(request, "transcript.html", facts)


async def chosen_study(shared: Services, studies: list[Study], study_id: str | None) -> Study | None:
    """The study with an id, or the newest one."""
    if study_id is not None:
        return await shared.threads.run(shared.store.study, study_id)
    return studies[-1] if studies else None


async def _decide(
    shared: Services, researcher: Researcher, worker_id: str, study: str, kind: DecisionKind, reason: str
) -> Response:
    decision = WorkerDecision(worker_id=worker_id, kind=kind, reason=reason, by=researcher.name)
    await shared.threads.run(shared.store.add_decision, decision)
    shared.threads.forget()
    return RedirectResponse(f"/researcher/people/{worker_id}?study={study}", 303)


async def _person(
    request: Request, shared: Services, researcher: Researcher, worker_id: str, study_id: str
) -> Response:
    run, store = shared.threads.run, shared.store
    study = await run(store.study, study_id)
    counts = await run(store.worker_figures, study_id, worker_id)
    writing = await run(store.found_messages, study_id, "", worker_id, "user", None, 20)
    words = [len(turn.text.split()) for turn in writing]
    facts = {
        "me": researcher,
        "tab": "people",
        "study": study,
        "worker": await run(store.worker, worker_id),
        "figures": figures_of(counts[0]) if counts else None,
        "checks": (await run(store.check_counts, study_id, [worker_id])).get(worker_id),
        "share_of": lambda counts: wilson(*counts),
        "standing": await run(store.worker_standing, worker_id),
        "decisions": await run(store.decisions, worker_id),
        "writing": writing,
        "median_words": sorted(words)[len(words) // 2] if words else None,
        "different_words": len({word.lower() for turn in writing for word in turn.text.split()}),
        "key": request.state.nonce,
    }
    return shared.templates.TemplateResponse(request, "person.html", facts)
