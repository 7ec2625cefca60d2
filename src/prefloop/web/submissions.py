"""What a platform says of the people it sent, beside what they did here: who is to be approved, paid or written to.

Reads the platform's export and changes nothing; knows the store's arrivals and the payment list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response
from pydantic import Field

from prefloop.errors import DataError
from prefloop.schema import Noun
from prefloop.store import Earning, PlatformArrival, Researcher
from prefloop.web.people import PLATFORM_NAMES, chosen_study
from prefloop.web.platforms import SubmissionStatus, platform_of
from prefloop.web.problems import Problem
from prefloop.web.research_api import DESCRIBED, Body
from prefloop.web.services import AsResearcher, Services, Shared

MAX_EXPORT_BYTES = 5_000_000
router = APIRouter()


class ExportBody(Body):
    export: str = Field(max_length=MAX_EXPORT_BYTES, description="the platform's own export of submissions, CSV")


class Submission(Noun):
    """One session of a person of a platform; a side that does not know of it is None."""

    session: str
    status: SubmissionStatus | None = Field(description="as the platform says; None where its export lacks it")
    worker_id: str | None = Field(description="None where nobody arrived here with this session")
    tasks: int = Field(description="finished by the person in this study, in all sessions")
    judgments: int


def submissions_of(
    statuses: Mapping[str, SubmissionStatus], arrivals: Iterable[PlatformArrival], earnings: Iterable[Earning]
) -> list[Submission]:
    """Every session that either side knows: arrivals in their order, then those that never arrived here."""
    done = {one.worker_id: one for one in earnings}
    arrived = {one.external_session_id: one.worker_id for one in arrivals}

    def line(session: str) -> Submission:
        worker_id = arrived.get(session)
        work = done.get(worker_id) if worker_id else None
        return Submission(
            session=session,
            status=statuses.get(session),
            worker_id=worker_id,
            tasks=work.tasks if work else 0,
            judgments=work.judgments if work else 0,
        )

    return [line(session) for session in dict.fromkeys([*arrived, *statuses])]


@router.post("/api/research/studies/{study_id}/submissions/{platform}", tags=["researcher"], dependencies=DESCRIBED)
async def compare_submissions(
    study_id: str, platform: str, body: ExportBody, researcher: AsResearcher, shared: Shared
) -> list[Submission]:
    """A platform's export of submissions beside what the same people did in a study; changes nothing."""
    return await _submissions(shared, study_id, platform, body.export)


@router.get("/researcher/submissions", include_in_schema=False)
async def submissions(request: Request, researcher: AsResearcher, shared: Shared, study: str | None = None) -> Response:
    """The page that takes a platform's export."""
    return await _page(request, researcher, shared, study)


@router.post("/researcher/submissions", include_in_schema=False)
async def show_submissions(
    request: Request,
    researcher: AsResearcher,
    shared: Shared,
    study: Annotated[str, Form()],
    platform: Annotated[str, Form()],
    export: Annotated[UploadFile, File()],
) -> Response:
    """The page with the lines of an export."""
    try:
        text = (await export.read(MAX_EXPORT_BYTES + 1)).decode("utf-8")
        if len(text) > MAX_EXPORT_BYTES:
            raise DataError(f"The export is over {MAX_EXPORT_BYTES:,} bytes; export one study.")
        lines = await _submissions(shared, study, platform, text)
    except UnicodeDecodeError:
        return await _page(request, researcher, shared, study, problem="The file is no text; choose the CSV export.")
    except DataError as error:
        return await _page(request, researcher, shared, study, problem=str(error))
    return await _page(request, researcher, shared, study, lines=lines)


async def _submissions(shared: Services, study_id: str, platform: str, exported: str) -> list[Submission]:
    known = platform_of(platform)
    if known is None:
        raise Problem(404, "not_found", f"There is no platform {platform!r}; known are {', '.join(PLATFORM_NAMES)}.")
    statuses = known.status(exported)
    run, store = shared.threads.run, shared.store
    earnings = await run(store.earnings, study_id)
    arrivals = [one for one in await run(store.arrivals, study_id) if one.platform == platform]
    return submissions_of(statuses, arrivals, earnings)


async def _page(
    request: Request,
    researcher: Researcher,
    shared: Services,
    study_id: str | None,
    *,
    lines: list[Submission] | None = None,
    problem: str = "",
) -> Response:
    studies = await shared.threads.run(shared.store.studies)
    chosen = await chosen_study(shared, studies, study_id)
    facts = {"me": researcher, "tab": "people", "study": chosen, "lines": lines, "problem": problem}
    facts["platforms"] = PLATFORM_NAMES
    return shared.templates.TemplateResponse(request, "submissions.html", facts, status_code=422 if problem else 200)
