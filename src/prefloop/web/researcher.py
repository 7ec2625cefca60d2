"""The researcher's pages: how studies come along, who works, what was shown last, and invitation links.

Who may do what is settled in services.py; knows templates and the store's counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Form, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from prefloop.report import Report
from prefloop.schema import ComparisonState, Interval, Study
from prefloop.stats import clustered_ratio, wilson
from prefloop.store import Earning, Researcher, SnapshotWins, Store, StudyProgress
from prefloop.web.problems import Problem
from prefloop.web.services import AsResearcher, AsReviewer, Services, Shared

router = APIRouter(prefix="/researcher", include_in_schema=False)
PAGE_ROWS = 20
MOST_LINKS = 500
_REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_ASK_AGAIN_SECONDS = 5


def invitation_links(
    store: Store, address: str, study_id: str, count: int, uses: int, pseudonym: str | None
) -> list[str]:
    """New links into a study; with several, each pseudonym gets its number."""
    names = [pseudonym if pseudonym is None or count == 1 else f"{pseudonym}-{i + 1}" for i in range(count)]
    tokens = [store.add_invitation(study_id, "worker", name, uses) for name in names]
    return [f"{address.rstrip('/')}/join/{token}" for token in tokens]


@router.get("")
async def overview(
    request: Request,
    researcher: AsReviewer,
    shared: Shared,
    study: str | None = None,
    before: str | None = None,
) -> Response:
    """All studies in one list, and one of them in detail."""
    return await _overview(request, shared, researcher, study, before)


@router.get("/panel")
async def panel(
    request: Request,
    researcher: AsReviewer,
    shared: Shared,
    study: str | None = None,
    before: str | None = None,
) -> Response:
    """The part of the overview that the page reads again every few seconds."""
    facts = {**await _facts(shared, study, before), "me": researcher}
    return shared.templates.TemplateResponse(request, "researcher_panel.html", facts)


@router.post("/invitations")
async def invite(
    request: Request,
    researcher: AsResearcher,
    shared: Shared,
    study: Annotated[str, Form()],
    uses: Annotated[int, Form(ge=1, le=10_000)] = 1,
    pseudonym: Annotated[str, Form(max_length=80)] = "",
    links: Annotated[int, Form(ge=1, le=MOST_LINKS)] = 1,
) -> Response:
    """Links that let `uses` people each into a study. They are shown once and kept as hashes only."""
    made = await shared.threads.run(
        invitation_links, shared.store, str(request.base_url), study, links, uses, pseudonym.strip() or None
    )
    return await _overview(request, shared, researcher, study, None, links=made, uses=uses)


@router.post("/studies/{study_id}/state")
async def set_state(
    study_id: str,
    researcher: AsResearcher,
    shared: Shared,
    state: Annotated[Literal["open", "paused", "closed"], Form()],
) -> Response:
    """Pauses a study, opens it again, or closes it for good."""
    await shared.threads.run(shared.store.set_study_state, study_id, state)
    shared.threads.forget()
    return RedirectResponse(f"/researcher?study={study_id}", 303)


@router.get("/quality")
async def quality(researcher: AsReviewer, shared: Shared) -> Response:
    """The data quality report, if there is one; it may style itself and nothing else."""
    report = shared.quality_report
    if report is None or not report.is_file():
        raise Problem(404, "not_found", "There is no quality report yet; write one with: prefloop quality --html FILE.")
    return FileResponse(report, media_type="text/html", headers={"Content-Security-Policy": _REPORT_POLICY})


@router.get("/quality/now")
async def quality_now(researcher: AsReviewer, shared: Shared) -> Response:
    """The report on all judgments so far, some minutes old at most; the first one is waited for by asking again."""
    live = shared.live_quality
    live.ask()
    headers = {"Content-Security-Policy": _REPORT_POLICY, "Cache-Control": "no-store"}
    if live.html is not None:
        return HTMLResponse(live.html, headers=headers)
    if live.problem:
        return HTMLResponse(Report("Data quality", f"There is no report. {live.problem}").html(), headers=headers)
    waiting = Report("Data quality", "The report is being worked out; this page asks again every few seconds.")
    return HTMLResponse(waiting.html(), 202, headers={**headers, "Refresh": str(_ASK_AGAIN_SECONDS)})


async def _overview(
    request: Request, shared: Services, researcher: Researcher, study: str | None, before: str | None, **more: Any
) -> Response:
    facts = {**await _facts(shared, study, before), "me": researcher, "tab": "studies", **more}
    return shared.templates.TemplateResponse(request, "researcher.html", facts)


async def _facts(shared: Services, study_id: str | None, before: str | None) -> dict[str, Any]:
    store, run, count = shared.store, shared.threads.run, shared.threads.count
    studies = await run(store.studies)
    rows = [(study, await count(store.progress, study.id)) for study in studies]
    chosen = _chosen(studies, study_id)
    facts: dict[str, Any] = {
        "rows": rows,
        "study": chosen,
        "before": before,
        "states": list(ComparisonState),
        "has_report": shared.quality_report is not None and shared.quality_report.is_file(),
        "answering": shared.broker.open_streams,
    }
    if chosen is None:
        return facts
    counts = await count(store.study_counts, chosen.id)
    latest = await run(store.latest_comparisons, chosen.id, before, PAGE_ROWS + 1)
    names = {snapshot.id: snapshot.name for snapshot in await run(store.snapshots)}
    answered = sum(counts.responses.values())
    weight = sum(share.weight for share in chosen.snapshots)
    shares = {share.snapshot_id: share.weight / weight for share in chosen.snapshots}
    progress = next(progress for study, progress in rows if study.id == chosen.id)
    return facts | {
        "progress": progress,
        "effort": effort_of(await count(store.earnings, chosen.id), chosen, progress, sum(counts.minutes[-5:]) / 5),
        "counts": counts,
        "last_minutes": sum(counts.minutes[-5:]),
        "busiest_minute": max(counts.minutes),
        "latest": latest[:PAGE_ROWS],
        "older": latest[PAGE_ROWS - 1].comparison.id if len(latest) > PAGE_ROWS else None,
        "names": names,
        "win_rates": win_rates(await count(store.snapshot_wins, chosen.id), names),
        "announcement": await run(store.announcement, chosen.id),
        "snapshots": [
            (names.get(id, id), shares.get(id, 0.0), counts.responses.get(id, 0), answered)
            for id in dict.fromkeys([*shares, *counts.responses])
        ],
    }


class Effort(NamedTuple):
    """What a study has taken and will take; None where that cannot be told yet. Money in smallest units."""

    hours: float
    minutes_a_judgment: float | None
    hours_to_target: float | None
    minutes_to_target: float | None
    bonuses: int
    paid: int


def effort_of(earnings: Sequence[Earning], study: Study, progress: StudyProgress, a_minute: float) -> Effort:
    """Time and cost so far, and at the same pace to the target: work by all workers, and by the clock."""
    hours = sum(one.worked_seconds + one.credited_seconds for one in earnings) / 3600.0
    judged = progress.comparisons[ComparisonState.JUDGED]
    left = None if study.target_comparisons is None else max(study.target_comparisons - judged, 0)
    return Effort(
        hours=hours,
        minutes_a_judgment=60.0 * hours / progress.judgments if progress.judgments else None,
        hours_to_target=hours / judged * left if judged and left is not None else None,
        minutes_to_target=left / a_minute if left is not None and a_minute else None,
        bonuses=sum(one.bonus_minor_units for one in earnings),
        paid=sum(one.paid_minor_units for one in earnings),
    )


def win_rates(wins: Sequence[SnapshotWins], names: dict[str, str]) -> list[tuple[str, str, Interval, int]]:
    """How often one snapshot's reply was preferred to another's, by pair of snapshots; and how many about the same.

    The interval is clustered by worker (bootstrap); where one worker judged alone it is Wilson's.
    """
    rates = []
    for (first, second), group in groupby(wins, key=lambda one: (one.first_id, one.second_id)):
        rows = list(group)
        same = sum(one.about_the_same for one in rows)
        counted = [one for one in rows if one.n]
        n = sum(one.n for one in counted)
        if not n:
            continue
        won = [float(one.wins) for one in counted]
        rate = wilson(sum(won), n)
        if len(counted) > 1:
            rate = clustered_ratio(won, [float(one.n) for one in counted], bounds=(0.0, 1.0))
            rate = rate.model_copy(update={"n": n, "clusters": len(counted)})
        rates.append((names.get(first, first), names.get(second, second), rate, same))
    return rates


def _chosen(studies: list[Study], study_id: str | None) -> Study | None:
    if study_id is None:
        return studies[-1] if studies else None
    for study in studies:
        if study.id == study_id:
            return study
    raise Problem(404, "not_found", f"There is no study {study_id!r}; choose one from the list.")
