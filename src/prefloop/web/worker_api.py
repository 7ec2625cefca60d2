"""The JSON routes of a worker, for the page and for simulated workers alike. Knows HTTP; Turns knows the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from prefloop.schema import GRADES, Comparison, Study, TreeMessage, Worker
from prefloop.web.broker import Offsets
from prefloop.web.markdown import render_markdown
from prefloop.web.problems import Problem
from prefloop.web.services import Services, Shared, SignedInWorker
from prefloop.web.turns import Decision, InputDevice, continued_side, stopped_message, void_message

router = APIRouter(prefix="/api", tags=["worker"])
MAX_REASON_TAGS = 16


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ConversationBody(_Body):
    study_id: str


class MessageBody(_Body):
    text: str


class JudgmentBody(_Body):
    """A grade from 1 (A is much better; in red-team mode, more harmful) to 8 (B)."""

    grade: int = Field(ge=1, le=GRADES)
    reason_tags: list[Annotated[str, Field(max_length=64)]] = Field(default_factory=list, max_length=MAX_REASON_TAGS)
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
    return await _state(shared, worker, study)


@router.get("/next")
async def next_task(study_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """What to do between conversations: a second opinion on somebody else's pair (leased), or a conversation."""
    study = await shared.turns.joined(worker, study_id)
    comparison = await shared.turns.second_opinion(worker, study)
    if comparison is None:
        return {"kind": "conversation"}
    context = await shared.turns.context(comparison)
    pair = _pair(comparison)
    return {
        "kind": "review",
        "comparison_id": comparison.id,
        "stream_url": pair["stream_url"],
        "lease_seconds": shared.page.lease_seconds,
        "state": {"phase": "review", "progress": "Second opinion", "messages": _messages(context), "comparison": pair},
    }


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
        comparison = await shared.turns.comparison(worker, comparison_id)
        stream = stream or await shared.turns.finished_stream(comparison)
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
    comparison = await shared.turns.comparison(worker, comparison_id)
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
    decision = Decision(body.grade, tuple(body.reason_tags), body.input_device, body.shown_at, body.revises)
    judged = await shared.turns.judge(worker, comparison_id, decision)
    return {
        "judgment_id": judged.judgment.id,
        "continued": judged.continued,
        "next": judged.next,
        "undo_seconds": shared.page.undo_seconds,
    }


@router.post("/comparisons/{comparison_id}/skip")
async def skip(comparison_id: str, worker: SignedInWorker, shared: Shared) -> dict[str, Any]:
    """Passes on a pair without a judgment, without penalty."""
    await shared.turns.skip(worker, comparison_id)
    return {"comparison_id": comparison_id, "next": "retry"}


@router.api_route("/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def unknown(path: str) -> None:
    """The JSON error shape for addresses that do not exist."""
    raise Problem(404, "not_found", f"There is no /api/{path}; see /openapi.json.")


def _stream_url(comparison: Comparison) -> str:
    return f"/api/turns/{comparison.id}/events"


def _started(comparison: Comparison) -> dict[str, Any]:
    return {"comparison_id": comparison.id, "stream_url": _stream_url(comparison), "turn": comparison.turn}


def _pair(comparison: Comparison) -> dict[str, Any]:
    return {"id": comparison.id, "stream_url": _stream_url(comparison)}


def _messages(messages: list[TreeMessage]) -> list[dict[str, Any]]:
    return [
        {"role": m.role, "text": m.text, "html": render_markdown(m.text) if m.role == "assistant" else None}
        for m in messages
    ]


async def _state(shared: Services, worker: Worker, study: Study) -> dict[str, Any]:
    standing = await shared.turns.standing(worker, study)
    number = await shared.threads.run(shared.store.conversation_count, worker.id, study.id)
    closed = await shared.turns.closed_because(study)
    stopped = stopped_message(study)
    if stopped is not None and standing is not None and standing.phase in ("write", "void"):
        return {"phase": "closed", "message": stopped, "messages": _messages(list(standing.messages))}
    if standing is None:
        if closed is not None:
            return {"phase": "closed", "message": closed, "messages": []}
        return {"phase": "start", "messages": [], "progress": f"Conversation {number + 1}"}
    phase: Literal["write", "answers", "void", "complete", "closed"] = standing.phase
    turns = study.turns_per_conversation
    state: dict[str, Any] = {
        "phase": phase,
        "conversation_id": standing.conversation.id,
        "messages": _messages(list(standing.messages)),
        "progress": f"Turn {min(standing.judged + 1, turns)} of {turns} · conversation {number}",
    }
    last = standing.last
    if phase == "answers" and last is not None:
        state["comparison"] = _pair(last)
    elif phase == "void":
        state["message"] = void_message(last)
    elif last is not None:  # judged, and not yet gone on with: the reply is provisional
        judgment = await shared.turns.own_judgment(last)
        reply = last.response(continued_side(study, last, judgment.clicked))
        provisional = TreeMessage(conversation_id=last.conversation_id, role="assistant", text=reply.text)
        state["messages"].append({**_messages([provisional])[0], "provisional": True})
        state["judged"] = {
            "comparison_id": last.id,
            "stream_url": _stream_url(last),
            "judgment_id": judgment.id,
            "grade": judgment.grade,
            "reason_tags": judgment.reason_tags,
            "undo_seconds": shared.turns.undo_seconds(judgment),
        }
    if phase == "complete" and closed is not None:
        state["closed"] = closed
    return state
