"""The API about reading along: checks, reports, announcements, win rates; with the same rights as the pages.

Knows nothing of HTML.
"""

from __future__ import annotations

from fastapi import APIRouter
from pydantic import Field

from prefloop.schema import Interval, Message, Noun
from prefloop.store import Announcement, CheckCounts, CheckItem, WorkerReport
from prefloop.store.checks import Pick
from prefloop.web.research_api import DESCRIBED, Body
from prefloop.web.researcher import win_rates
from prefloop.web.services import AsResearcher, AsReviewer, Shared

router = APIRouter(prefix="/api/research", tags=["researcher"], dependencies=DESCRIBED)


class CheckBody(Body):
    """A pair; with a pick it is a gold item, without one a calibration item."""

    messages: list[Message] = Field(min_length=1, max_length=200)
    answer_a: str = Field(min_length=1, max_length=40_000)
    answer_b: str = Field(min_length=1, max_length=40_000)
    pick: Pick | None = None


class AnnouncementBody(Body):
    text: str = Field(max_length=4000, description="empty ends the present one")


class WinRate(Noun):
    """How often the first snapshot's reply was preferred to the second's."""

    first: str
    second: str
    rate: Interval
    about_the_same: int


@router.get("/studies/{study_id}/checks")
async def checks(study_id: str, researcher: AsReviewer, shared: Shared) -> list[CheckItem]:
    """Gold and calibration items, ended ones too."""
    return await shared.threads.run(shared.store.check_items, study_id)


@router.post("/studies/{study_id}/checks", status_code=201)
async def add_check(study_id: str, body: CheckBody, researcher: AsResearcher, shared: Shared) -> CheckItem:
    """Adds an item."""
    facts = {**body.model_dump(exclude={"messages"}), "messages": tuple(body.messages)}
    item = CheckItem(study_id=study_id, by=researcher.name, **facts)
    kept = await shared.threads.run(shared.store.add_check_item, item)
    shared.threads.forget()
    return kept


@router.get("/studies/{study_id}/workers/{worker_id}/checks")
async def worker_checks(study_id: str, worker_id: str, researcher: AsReviewer, shared: Shared) -> CheckCounts:
    """How one worker did on the checks. None of the counts is a verdict."""
    found = await shared.threads.run(shared.store.check_counts, study_id, [worker_id])
    return found.get(worker_id, CheckCounts())


@router.get("/studies/{study_id}/reports")
async def reports(
    study_id: str, researcher: AsReviewer, shared: Shared, before: str | None = None
) -> list[WorkerReport]:
    """What workers reported, newest first, 100 a page; those older than the id `before` where given."""
    return await shared.threads.run(shared.store.reports, study_id, before)


@router.put("/studies/{study_id}/announcement")
async def announce(study_id: str, body: AnnouncementBody, researcher: AsResearcher, shared: Shared) -> Announcement:
    """Tells every worker of a study something until the next announcement."""
    wanted = Announcement(study_id=study_id, text=body.text, by=researcher.name)
    kept = await shared.threads.run(shared.store.announce, wanted)
    shared.threads.forget()
    return kept


@router.get("/studies/{study_id}/win-rates")
async def rates(study_id: str, researcher: AsReviewer, shared: Shared) -> list[WinRate]:
    """Which snapshot is preferred to which, with intervals over workers; the two middle grades are left out."""
    run, store = shared.threads.run, shared.store
    names = {snapshot.id: snapshot.name for snapshot in await run(store.snapshots)}
    found = win_rates(await shared.threads.count(store.snapshot_wins, study_id), names)
    return [WinRate(first=first, second=second, rate=rate, about_the_same=same) for first, second, rate, same in found]
