"""The researcher's pages for reading along: checks, spot checks of writing, reports, announcements. Knows templates."""

from __future__ import annotations

import statistics
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from prefloop.errors import DataError
from prefloop.schema import Message
from prefloop.store import Announcement, CheckItem, FoundMessage, WorkerDecision
from prefloop.web.checks import Checks
from prefloop.web.markdown import render_markdown
from prefloop.web.people import chosen_study
from prefloop.web.services import AsResearcher, AsReviewer, Shared

router = APIRouter(prefix="/researcher", include_in_schema=False)
PAGE_QUEUE = 5
PAGE_REPORTS = 50
SAMPLE_MESSAGES = 20
SHOWN_MESSAGES = 4
VARIETY_WORDS = 200


def writing_facts(messages: list[FoundMessage]) -> dict[str, Any]:
    """Median length and how many of the newest `VARIETY_WORDS` words differ (None with fewer: shares of different
    amounts of text cannot be compared)."""
    words = [turn.text.split() for turn in messages]
    newest = [word.lower() for turn in words for word in turn][:VARIETY_WORDS]
    return {
        "messages": len(messages),
        "median_words": statistics.median(len(turn) for turn in words) if words else None,
        "different_words": len(set(newest)) if len(newest) == VARIETY_WORDS else None,
    }


@router.get("/checks")
async def checks(request: Request, researcher: AsReviewer, shared: Shared, study: str | None = None) -> Response:
    """Gold and calibration items of a study, and a form for another one."""
    return await _checks_page(request, shared, researcher, study, {}, None)


@router.post("/checks")
async def add_check(request: Request, researcher: AsResearcher, shared: Shared) -> Response:
    """Keeps a new item, or says what cannot be; nothing typed is lost."""
    typed = {name: str(value).replace("\r\n", "\n") for name, value in (await request.form()).items()}
    pick = typed.get("pick", "")
    try:
        if pick not in ("", "a", "b", "same"):
            raise DataError(f"pick is {pick!r}; it must be a, b, same or empty.")
        item = CheckItem(
            study_id=typed.get("study", ""),
            messages=(Message(role="user", text=typed.get("message", "").strip()),),
            answer_a=typed.get("answer_a", "").strip(),
            answer_b=typed.get("answer_b", "").strip(),
            pick=pick or None,
            by=researcher.name,
        )
        await shared.threads.run(shared.store.add_check_item, item)
        shared.threads.forget()
    except DataError as error:
        return await _checks_page(request, shared, researcher, typed.get("study"), typed, str(error))
    return RedirectResponse(f"/researcher/checks?study={item.study_id}", 303)


@router.post("/checks/from-pair")
async def check_from_pair(researcher: AsResearcher, shared: Shared, comparison_id: Annotated[str, Form()]) -> Response:
    """Puts a collected pair into its study's calibration set; researchers judge it before new workers do."""
    run, store = shared.threads.run, shared.store
    comparison = await run(store.comparison, comparison_id)
    turns = await run(store.path, comparison.context_message_id)
    item = CheckItem(
        study_id=str(comparison.study_id),
        messages=tuple(Message(role=turn.role, text=turn.text) for turn in turns),
        answer_a=comparison.response_a.text,
        answer_b=comparison.response_b.text,
        by=researcher.name,
    )
    await run(store.add_check_item, item)
    shared.threads.forget()
    return RedirectResponse(f"/researcher/checks?study={item.study_id}", 303)


@router.post("/checks/{item_id}/end")
async def end_check(item_id: str, researcher: AsResearcher, shared: Shared) -> Response:
    """Shows an item to nobody else."""
    await shared.threads.run(shared.store.end_check_item, item_id, researcher.name)
    item = await shared.threads.run(shared.store.check_item, item_id)
    return RedirectResponse(f"/researcher/checks?study={item.study_id}", 303)


@router.get("/checks/{item_id}")
async def judge_page(item_id: str, request: Request, researcher: AsReviewer, shared: Shared) -> Response:
    """One item as a worker sees it, to be judged by the researcher; what others said is not shown before."""
    run, store = shared.threads.run, shared.store
    item = await run(store.check_item, item_id)
    study = await run(store.study, item.study_id)
    check = await run(store.show_to_researcher, item.id, researcher.id)
    a, b = await Checks(store, shared.threads).answers(check)
    facts = {"me": researcher, "tab": "checks", "study": study, "item": item, "check": check}
    facts |= {"answers": {"A": render_markdown(a), "B": render_markdown(b)}, "markdown": render_markdown}
    facts["texts"] = (await shared.phases.shown(study)).texts
    return shared.templates.TemplateResponse(request, "check.html", facts)


@router.post("/checks/{item_id}/judgment")
async def judge_item(
    item_id: str,
    researcher: AsReviewer,
    shared: Shared,
    grade: Annotated[int, Form(ge=1, le=8)],
) -> Response:
    """Keeps a researcher's grade of an item."""
    run, store = shared.threads.run, shared.store
    check = await run(store.show_to_researcher, item_id, researcher.id)
    await run(store.add_check_answer, check.id, grade, "api")
    return RedirectResponse(f"/researcher/checks?study={check.study_id}", 303)


@router.get("/spot-checks")
async def spot_checks(
    request: Request, researcher: AsReviewer, shared: Shared, study: str | None = None, page: int = 1
) -> Response:
    """What the most prolific workers write, a few people a page, with length and variety beside."""
    run, store = shared.threads.run, shared.store
    studies = await run(store.studies)
    chosen = await chosen_study(shared, studies, study)
    page = max(1, page)
    queue: list[dict[str, Any]] = []
    has_more = False
    if chosen is not None:
        offset = PAGE_QUEUE * (page - 1)
        counts = await shared.threads.count(store.worker_figures, chosen.id, None, offset, PAGE_QUEUE + 1)
        has_more = len(counts) > PAGE_QUEUE
        for one in counts[:PAGE_QUEUE]:
            writing = await run(store.found_messages, chosen.id, "", one.worker_id, "user", None, SAMPLE_MESSAGES)
            step = max(1, len(writing) // SHOWN_MESSAGES)
            decisions = await run(store.decisions, one.worker_id)
            facts = {
                "counts": one,
                "samples": writing[::step][:SHOWN_MESSAGES],
                "last": decisions[-1] if decisions else None,
            }
            queue.append({**facts, **writing_facts(writing)})
    facts = {"me": researcher, "tab": "spot-checks", "studies": studies, "study": chosen, "queue": queue}
    facts |= {"page": page, "has_more": has_more, "variety_words": VARIETY_WORDS}
    return shared.templates.TemplateResponse(request, "spot_checks.html", facts)


@router.post("/spot-checks")
async def note(
    researcher: AsReviewer,
    shared: Shared,
    study: Annotated[str, Form()],
    worker_id: Annotated[str, Form()],
    reason: Annotated[str, Form()],
    page: Annotated[int, Form(ge=1)] = 1,
) -> Response:
    """Keeps what a researcher thought of a worker's writing."""
    decision = WorkerDecision(worker_id=worker_id, kind="note", reason=reason, by=researcher.name)
    await shared.threads.run(shared.store.add_decision, decision)
    return RedirectResponse(f"/researcher/spot-checks?study={study}&page={page}", 303)


@router.get("/reports")
async def reports(
    request: Request, researcher: AsReviewer, shared: Shared, study: str | None = None, before: str | None = None
) -> Response:
    """What workers reported, newest first."""
    run, store = shared.threads.run, shared.store
    studies = await run(store.studies)
    chosen = await chosen_study(shared, studies, study)
    found = [] if chosen is None else await run(store.reports, chosen.id, before, PAGE_REPORTS + 1)
    lines = []
    for one in found[:PAGE_REPORTS]:
        pair = await run(store.comparison, one.comparison_id) if one.comparison_id else None
        lines.append((one, await run(store.worker, one.worker_id), pair))
    facts = {"me": researcher, "tab": "reports", "studies": studies, "study": chosen, "lines": lines}
    facts |= {"before": before, "has_more": len(found) > PAGE_REPORTS}
    return shared.templates.TemplateResponse(request, "reports.html", facts)


@router.post("/studies/{study_id}/announcement")
async def announce(
    study_id: str, researcher: AsResearcher, shared: Shared, text: Annotated[str, Form(max_length=4000)] = ""
) -> Response:
    """Tells every worker of a study something, until the next announcement; an empty one ends it."""
    wanted = Announcement(study_id=study_id, text=text, by=researcher.name)
    await shared.threads.run(shared.store.announce, wanted)
    shared.threads.forget()
    return RedirectResponse(f"/researcher?study={study_id}", 303)


async def _checks_page(
    request: Request, shared: Shared, researcher: Any, study: str | None, typed: dict[str, str], problem: str | None
) -> Response:
    run, store = shared.threads.run, shared.store
    studies = await run(store.studies)
    chosen = await chosen_study(shared, studies, study or None)
    items = [] if chosen is None else await run(store.check_items, chosen.id)
    picks = {} if chosen is None else await run(store.check_picks, chosen.id)
    settings = None if chosen is None else (await run(store.study_phases, chosen.id)).checks
    facts = {"me": researcher, "tab": "checks", "studies": studies, "study": chosen, "items": items, "picks": picks}
    facts |= {"settings": settings, "typed": typed, "problem": problem}
    return shared.templates.TemplateResponse(request, "checks.html", facts, status_code=422 if problem else 200)
