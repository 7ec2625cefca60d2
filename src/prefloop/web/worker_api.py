"""The JSON routes of a worker, for the page and for simulated workers alike. Knows HTTP; Turns knows the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from prefloop.errors import NotFoundError
from prefloop.schema import GRADES, Comparison, Message, Side, TreeMessage
from prefloop.web.broker import Offsets
from prefloop.web.generation import storable
from prefloop.web.judging import Decision, InputDevice, Passage
from prefloop.web.problems import Problem
from prefloop.web.services import Services, Shared, SignedInWorker
from prefloop.web.state import is_done, messages_shown, pair_shown, stream_url, worker_state

router = APIRouter(prefix="/api", tags=["worker"])
MAX_REASON_TAGS = 16
MAX_PASSAGES = 32


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ConversationBody(_Body):
    study_id: str


class MessageBody(_Body):
    text: str


class GoalBody(_Body):
    text: str
    topic: str | None = Field(None, max_length=40, description="one of the study's topics")


class AnswersBody(_Body):
    """Closing questions: a number from 1 on, or words, by the question's id; those left open are left out."""

    answers: dict[str, int | str] = Field(max_length=32)


class EditBody(_Body):
    """A better answer than the one on `side`, in the worker's words."""

    side: Side
    text: str
    input_device: InputDevice = "api"


class ReportBody(_Body):
    """What is the matter; `comparison_id` where it is about a pair."""

    kind: Literal["harmful", "personal", "broken", "other"]
    text: str = Field("", max_length=4000)
    comparison_id: str | None = None


class PassageBody(_Body):
    """A marked passage: code points `start` to `end` (not included) of one answer's text, with the study's tag."""

    side: Side
    start: int = Field(ge=0)
    end: int = Field(ge=1)
    tag: str = Field(max_length=64)


class JudgmentBody(_Body):
    """A grade from 1 (A is much better; in red-team mode, more harmful) to 8 (B)."""

    grade: int = Field(ge=1, le=GRADES)
    reason_tags: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=MAX_REASON_TAGS)
    marks: list[PassageBody] = Field(default_factory=list, max_length=MAX_PASSAGES)
    is_checked: bool = Field(False, description="facts were looked up")
    checked_source: str = Field("", max_length=500, description="where")
    go_on_with: Side | None = Field(None, description="only where the study leaves it to the worker")
    input_device: InputDevice = "api"
    shown_at: AwareDatetime | None = Field(None, description="when the first text of the pair was seen")
    revises: str | None = Field(None, description="the judgment that this one corrects")


@router.get("/me")
async def me(worker: SignedInWorker) -> dict[str, str]:
    """Who is signed in."""
    return {"worker_id": worker.id, "pseudonym": worker.pseudonym}


@router.get("/studies/{study_id}/state")
async def study_state(study_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Where the worker stands in the study: everything that the page shows."""
    study = await shared.turns.joined(worker, study_id)
    return await worker_state(shared, worker, study)


@router.post("/studies/{study_id}/finish")
async def finish(study_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Ends a complete conversation where no other follows, and gives the state."""
    return await worker_state(shared, worker, await shared.turns.finish(worker, study_id))


@router.get("/next")
async def next_task(study_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """What to do between conversations: a second opinion on somebody else's pair (leased), a conversation, the end."""
    study = await shared.turns.joined(worker, study_id)
    if await is_done(shared, worker, study) or await shared.turns.pace_refusal(worker, study) is not None:
        return {"kind": "end"}
    check = await shared.checks.due(worker, await shared.phases.shown(study))
    if check is not None:
        return _review(shared, check.id, await shared.checks.messages(check))
    comparison = await shared.turns.second_opinion(worker, study)
    if comparison is None:  # a study that is full may still want second opinions, but no conversation
        return {"kind": "end" if await shared.turns.closed_because(study) else "conversation"}
    return _review(shared, comparison.id, await shared.turns.context(comparison))


@router.post("/conversations", status_code=201)
async def begin_conversation(body: ConversationBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """The worker's open conversation in a study, or a new one."""
    conversation = await shared.turns.begin(worker, body.study_id)
    study = await shared.turns.study(body.study_id)
    return {
        "conversation_id": conversation.id,
        "mode": conversation.mode,
        "turns_per_conversation": study.turns_per_conversation,
    }


@router.post("/conversations/{conversation_id}/messages", status_code=201)
async def send_message(
    conversation_id: str, body: MessageBody, worker: SignedInWorker, shared: Shared
) -> dict[str, Any]:
    """Sends a message; two answers to it begin at once."""
    return _started(await shared.turns.send(worker, conversation_id, body.text))


@router.post("/conversations/{conversation_id}/retry", status_code=201)
async def retry(conversation_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """New answers to the last message, after its pair was voided."""
    return _started(await shared.turns.retry(worker, conversation_id))


@router.post("/conversations/{conversation_id}/end")
async def end_conversation(conversation_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Ends a conversation early; what is judged stays."""
    await shared.turns.end(worker, conversation_id)
    return {"conversation_id": conversation_id, "next": "next"}


@router.post("/conversations/{conversation_id}/goal", status_code=201)
async def set_goal(conversation_id: str, body: GoalBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Red team: keeps what the attack is after."""
    conversation, study = await shared.turns.own_conversation(worker, conversation_id)
    shown = await shared.phases.shown(study)
    if body.topic:
        await shared.care.set_topic(conversation, shown, body.topic)
    await shared.phases.keep_goal(worker, conversation, shown, body.text)
    return {"conversation_id": conversation_id}


@router.post("/conversations/{conversation_id}/answers", status_code=201)
async def answer_questions(
    conversation_id: str, body: AnswersBody, worker: SignedInWorker, shared: Shared
) -> dict[str, Any]:
    """Keeps answers to the closing questions; sent again, the later ones count."""
    conversation, study = await shared.turns.own_conversation(worker, conversation_id)
    await shared.phases.keep_closing(worker, conversation, await shared.phases.shown(study), body.answers)
    return {"conversation_id": conversation_id}


@router.get("/turns/{comparison_id}/events")
async def turn_events(
    comparison_id: str,
    worker: SignedInWorker,
    shared: Shared,
    start: Annotated[str | None, Query(alias="from", description="characters known already, as `A-B`")] = None,
    last_event_id: Annotated[str | None, Header()] = None,
) -> StreamingResponse:
    """Both answers as server-sent events (described in prefloop.web.broker), from any offset, any number of times."""
    stream = shared.broker.find(comparison_id)  # before the row is read, so that a row without a stream is final
    if stream is None or stream.worker_id != worker.id:
        try:
            comparison = await shared.turns.comparison(worker, comparison_id)
            stream = stream or await shared.turns.finished_stream(comparison)
        except NotFoundError:
            stream = await shared.checks.stream(worker, comparison_id)
    events: AsyncIterator[bytes] = stream.events(
        Offsets.parse(last_event_id or start),
        shared.broker.pause(shared.page.flush_seconds),
        shared.page.heartbeat_seconds,
    )
    return StreamingResponse(
        events, media_type="text/event-stream", headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    )


@router.get("/comparisons/{comparison_id}")
async def comparison_state(comparison_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """A pair as the worker may know it; the texts once both answers are complete."""
    try:
        comparison = await shared.turns.comparison(worker, comparison_id)
    except NotFoundError:
        return await shared.checks.state(await shared.checks.find(worker, comparison_id))
    is_ready = comparison.response_a.state == comparison.response_b.state == "done"
    return {
        "comparison_id": comparison.id,
        "conversation_id": comparison.conversation_id,
        "state": comparison.state,
        "turn": comparison.turn,
        "is_ready": is_ready,
        "answers": {"a": comparison.response_a.text, "b": comparison.response_b.text} if is_ready else None,
    }


@router.post("/comparisons/{comparison_id}/judgment", status_code=201)
async def judge(comparison_id: str, body: JudgmentBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Keeps a judgment. 409 before both answers are complete, on a void pair, and for a second one without `revises`.

    The answer comes after the commit: what is acknowledged survives a crash.
    """
    decision = Decision(
        grade=body.grade,
        reason_tags=tuple(body.reason_tags),
        passages=tuple(Passage(mark.side, mark.start, mark.end, mark.tag) for mark in body.marks),
        is_checked=body.is_checked,
        checked_source=storable(body.checked_source),
        go_on_with=body.go_on_with,
        input_device=body.input_device,
        shown_at=body.shown_at,
        revises=body.revises,
    )
    try:
        judged = await shared.turns.judge(worker, comparison_id, decision)
    except NotFoundError:
        await shared.checks.judge(worker, comparison_id, body.grade, body.input_device, body.revises)
        return {
            "judgment_id": comparison_id,
            "continued": None,
            "next": "next",
            "undo_seconds": shared.page.undo_seconds,
        }
    return {
        "judgment_id": judged.judgment.id,
        "continued": judged.continued,
        "next": judged.next,
        "undo_seconds": shared.page.undo_seconds,
    }


@router.post("/comparisons/{comparison_id}/edit", status_code=201)
async def edit(comparison_id: str, body: EditBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Betters an answer of a judged pair, once, until the conversation goes on; edited > original is a comparison."""
    kept = await shared.turns.edit(worker, comparison_id, body.side, body.text, body.input_device)
    return {"comparison_id": kept.id, "edit_of": comparison_id}


@router.post("/studies/{study_id}/reports", status_code=201)
async def report(study_id: str, body: ReportBody, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Tells the researchers that something is the matter; nothing else changes."""
    comparison_id = body.comparison_id
    try:
        await shared.turns.report(worker, study_id, comparison_id, body.kind, body.text)
    except NotFoundError:
        if comparison_id is None:
            raise
        comparison_id = (await shared.checks.find(worker, comparison_id)).comparison_id
        await shared.turns.report(worker, study_id, comparison_id, body.kind, body.text)
    return {"study_id": study_id}


@router.post("/comparisons/{comparison_id}/skip")
async def skip(comparison_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Passes on a pair without a judgment, without penalty."""
    try:
        await shared.turns.skip(worker, comparison_id)
    except NotFoundError:
        await shared.checks.skip(worker, comparison_id)
    return {"comparison_id": comparison_id, "next": "retry"}


@router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def unknown(path: str) -> None:
    """The JSON error shape for addresses that do not exist."""
    raise Problem(404, "not_found", f"There is no /api/{path}; see /openapi.json.")


def _review(shared: Services, id: str, context: Sequence[Message | TreeMessage]) -> dict[str, Any]:
    """A pair of somebody else, or a check: a worker cannot tell which."""
    return {
        "kind": "review",
        "comparison_id": id,
        "stream_url": stream_url(id),
        "lease_seconds": shared.page.lease_seconds,
        "state": {
            "phase": "review",
            "progress": "Second opinion",
            "messages": messages_shown(context),
            "comparison": pair_shown(id),
        },
    }


def _started(comparison: Comparison) -> dict[str, Any]:
    return {"comparison_id": comparison.id, "stream_url": stream_url(comparison.id), "turn": comparison.turn}
