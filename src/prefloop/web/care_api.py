"""The JSON routes of practice and care: practice turns, topic opt-outs, breaks, how people feel. Knows HTTP alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from prefloop.schema import GRADES
from prefloop.web.broker import finished_stream
from prefloop.web.markdown import render_markdown
from prefloop.web.services import Shared, SignedInWorker

router = APIRouter(prefix="/api/studies/{study_id}", tags=["worker"])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PracticeBody(_Body):
    """A grade on a practice turn; without one the practice is skipped."""

    item: str | None = Field(None, max_length=40)
    grade: int | None = Field(None, ge=1, le=GRADES)


class OptOutBody(_Body):
    topics: list[Annotated[str, Field(max_length=40)]] = Field(max_length=24)


class BreakBody(_Body):
    kind: Literal["taken", "declined"]


class FeelingsBody(_Body):
    """Points from 1 to 5 by the question's id; what is left out is 'rather not say'."""

    answers: dict[str, int] = Field(max_length=12)


@router.get("/practice/{item}/events")
async def practice_events(study_id: str, item: str, worker: SignedInWorker, shared: Shared) -> StreamingResponse:
    """Both answers of a practice turn, as a turn's events."""
    shown = await shared.phases.shown(await shared.turns.joined(worker, study_id))
    turn = shared.care.practice_item(shown, item)
    stream = finished_stream({"a": turn.answer_a, "b": turn.answer_b}, None)
    return StreamingResponse(stream.events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.post("/practice", status_code=201)
async def practise(study_id: str, body: PracticeBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Keeps a practice grade and says what the study thinks of the pair; nothing here counts as work."""
    shown = await shared.phases.shown(await shared.turns.joined(worker, study_id))
    if body.item is None or body.grade is None:
        await shared.care.skip_practice(worker, shown)
        return {"is_right": None, "feedback": None}
    is_right = await shared.care.practise(worker, shown, body.item, body.grade)
    feedback = render_markdown(shared.care.practice_item(shown, body.item).feedback, keeps_lines=False)
    return {"is_right": is_right, "feedback": feedback}


@router.get("/care")
async def care(study_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """What the worker chose for themselves."""
    shown = await shared.phases.shown(await shared.turns.joined(worker, study_id))
    return {"opt_outs": await shared.care.opt_outs(worker, shown), "topics": [tag.id for tag in shown.topics]}


@router.post("/opt-outs", status_code=201)
async def opt_out(study_id: str, body: OptOutBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Topics that the worker does not want to read about; they replace the earlier ones."""
    shown = await shared.phases.shown(await shared.turns.joined(worker, study_id))
    await shared.care.set_opt_outs(worker, shown, body.topics)
    return {"opt_outs": body.topics}


@router.post("/breaks", status_code=201)
async def take_break(study_id: str, body: BreakBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """What became of a break that was offered."""
    shown = await shared.phases.shown(await shared.turns.joined(worker, study_id))
    await shared.care.take_break(worker, shown, body.kind)
    return {"kind": body.kind}


@router.post("/feelings", status_code=201)
async def feelings(study_id: str, body: FeelingsBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Keeps how the worker feels, apart from who it is."""
    study = await shared.turns.joined(worker, study_id)
    shown = await shared.phases.shown(study)
    tasks = await shared.phases.tasks_done(worker, study)
    standing = await shared.turns.standing(worker, study)
    tasks += standing is not None and standing.phase == "complete"
    await shared.care.keep_feelings(worker, shown, tasks, body.answers)
    return {"study_id": study_id}
