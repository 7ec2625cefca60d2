"""Where a worker stands, as the JSON that the page shows. Reads only; knows nothing of routes.

Phases of the state: start, write, answers, void, complete, closed (nothing to do at the moment), end (all tasks done).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prefloop.schema import Comparison, Message, Study, TreeMessage, Worker
from prefloop.web.care import PracticeStep
from prefloop.web.judging import continued_side
from prefloop.web.markdown import render_markdown
from prefloop.web.phases import Shown
from prefloop.web.platforms import is_allowed, platform_of
from prefloop.web.services import Services
from prefloop.web.standing import Standing, goes_on_with_edits, stopped_message, void_message
from prefloop.web.texts import TASKS_DONE


async def worker_state(shared: Services, worker: Worker, study: Study) -> dict[str, Any]:
    """Everything that the page shows of a worker's way through a study."""
    told = await shared.threads.recall_longer(shared.store.announcement, study.id)
    return {**await _phase(shared, worker, study), "announcement": None if told is None else told.text}


async def _phase(shared: Services, worker: Worker, study: Study) -> dict[str, Any]:
    shown = await shared.phases.shown(study)
    standing = await shared.turns.standing(worker, study)
    closed = await shared.turns.closed_because(study)
    stopped = stopped_message(study) or await shared.turns.pace_refusal(worker, study)
    if standing is not None and (standing.phase == "full" or (stopped and standing.phase in ("write", "void"))):
        messages, message = messages_shown(standing.messages), stopped or closed
        return {"phase": "closed", "message": message, "messages": messages, **await _end(shared, worker, shown)}
    if standing is None:
        return await _between(shared, worker, shown, closed)
    return await _under_way(shared, worker, shown, standing, closed)


async def is_over(shared: Services, worker: Worker, study: Study) -> bool:
    """True where no further conversation can begin for this worker, once the one under way is complete."""
    return await shared.turns.closed_because(study) is not None or await is_done(shared, worker, study)


async def is_done(shared: Services, worker: Worker, study: Study) -> bool:
    """True where the worker has all their tasks, or will have them with the one under way, or nobody may go on."""
    if stopped_message(study) is not None:
        return True
    limit = (await shared.phases.shown(study)).phases.tasks_per_worker
    if limit is None:
        return False
    standing = await shared.turns.standing(worker, study)
    under_way = standing is not None and standing.phase == "complete"
    return await shared.phases.tasks_done(worker, study) + under_way >= limit


def practice_shown(shown: Shown, step: PracticeStep) -> dict[str, Any]:
    """A practice turn as the page knows it: its answers stream like any other's."""
    item = step.item
    return {
        "phase": "practice",
        "progress": f"Practice {step.number} of {len(shown.practice)}",
        "messages": [{"role": "user", "text": item.message, "html": None}],
        "comparison": {"id": item.id, "stream_url": f"/api/studies/{shown.study.id}/practice/{item.id}/events"},
        "can_skip": shown.phases.practice != "require",
    }


def stream_url(comparison_id: str) -> str:
    """Where both answers of a comparison stream."""
    return f"/api/turns/{comparison_id}/events"


def pair_shown(comparison_id: str) -> dict[str, Any]:
    """A comparison as the page knows it."""
    return {"id": comparison_id, "stream_url": stream_url(comparison_id)}


def messages_shown(messages: Iterable[Message | TreeMessage]) -> list[dict[str, Any]]:
    """Turns as the page shows them; the assistant's rendered and cleaned."""
    return [
        {"role": m.role, "text": m.text, "html": render_markdown(m.text) if m.role == "assistant" else None}
        for m in messages
    ]


async def _between(shared: Services, worker: Worker, shown: Shown, closed: str | None) -> dict[str, Any]:
    """No conversation is open."""
    limit = shown.phases.tasks_per_worker
    done = 0 if limit is None else await shared.phases.tasks_done(worker, shown.study)
    if limit is not None and done >= limit:
        message = TASKS_DONE.format(count=limit)
        return {"phase": "end", "message": message, "messages": [], **await _end(shared, worker, shown)}
    if closed is not None:
        return {"phase": "closed", "message": closed, "messages": [], **await _end(shared, worker, shown)}
    resting = await shared.turns.pace_refusal(worker, shown.study)
    if resting is not None:
        return {"phase": "closed", "message": resting, "messages": [], **await _end(shared, worker, shown)}
    step = await shared.care.practice_step(worker, shown)
    if step is not None and (shown.phases.practice == "require" or await _is_new(shared, worker, shown.study)):
        return practice_shown(shown, step)
    return {"phase": "start", "messages": [], "progress": await _task(shared, worker, shown, begun=False)}


async def _is_new(shared: Services, worker: Worker, study: Study) -> bool:
    return await shared.threads.run(shared.store.conversation_count, worker.id, study.id) == 0


async def _under_way(
    shared: Services, worker: Worker, shown: Shown, standing: Standing, closed: str | None
) -> dict[str, Any]:
    study, last = shown.study, standing.last
    turns = study.turns_per_conversation
    task = await _task(shared, worker, shown, begun=True)
    state: dict[str, Any] = {
        "phase": standing.phase,
        "conversation_id": standing.conversation.id,
        "messages": messages_shown(standing.messages),
        "progress": f"Turn {min(standing.judged + 1, turns)} of {turns} · {task}",
    }
    if shown.asks_goal:
        goal = (await shared.phases.answers(standing.conversation)).get("goal")
        state["goal"] = None if goal is None else goal.answers["goal"]
        state["asks_goal"] = goal is None and not standing.messages
        state["goal_required"] = shown.phases.goal == "require"
    if standing.phase == "write":
        state["break"] = await shared.care.break_due(worker, shown)
    if standing.phase == "answers" and last is not None:
        state["comparison"] = pair_shown(last.id)
    elif standing.phase == "void":
        state["message"] = void_message(last)
    elif last is not None:
        await _add_provisional(shared, shown, standing, last, state)
    if standing.phase == "complete":
        kept = (await shared.phases.answers(standing.conversation)).get("closing")
        state["questions"] = [question.model_dump(mode="json") for question in shown.questions]
        state["answers"] = None if kept is None else kept.answers
        state["is_last"] = await is_over(shared, worker, study)
        done = await shared.phases.tasks_done(worker, study) + 1  # with this one
        state["feelings"] = await shared.care.feelings_due(worker, shown, done)
        if closed is not None:
            state["closed"] = closed
    return state


async def _add_provisional(
    shared: Services, shown: Shown, standing: Standing, last: Comparison, state: dict[str, Any]
) -> None:
    """A pair that is judged and not yet gone on with: its reply may still change with the judgment."""
    study = shown.study
    judgment = await shared.turns.own_judgment(last)
    side = continued_side(study, last, judgment)
    edit = standing.edit(last.response(side))
    is_edited = edit is not None and goes_on_with_edits(study)
    reply = await shared.turns.edited_text(edit) if edit is not None and is_edited else last.response(side).text
    provisional = TreeMessage(conversation_id=last.conversation_id, role="assistant", text=reply)
    message = {**messages_shown([provisional])[0], "provisional": True, "is_edited": is_edited}
    state["messages"].append(message)
    state["judged"] = {
        "comparison_id": last.id,
        "stream_url": stream_url(last.id),
        "judgment_id": judgment.id,
        "grade": judgment.grade,
        "reason_tags": judgment.reason_tags,
        "marks": [mark.model_dump() for mark in judgment.marks],
        "is_checked": judgment.is_checked,
        "checked_source": judgment.checked_source,
        "go_on_with": judgment.go_on_with,
        "undo_seconds": shared.turns.undo_seconds(judgment),
        "editable": side if shown.phases.edits and edit is None else None,
    }


async def _task(shared: Services, worker: Worker, shown: Shown, begun: bool) -> str:
    """Which task this is: "task 2 of 5", or "conversation 2" where there is no end."""
    limit = shown.phases.tasks_per_worker
    if limit is not None:
        return f"task {min(await shared.phases.tasks_done(worker, shown.study) + 1, limit)} of {limit}"
    number = await shared.threads.run(shared.store.conversation_count, worker.id, shown.study.id)
    return f"conversation {number}" if begun else f"Conversation {number + 1}"


async def _end(shared: Services, worker: Worker, shown: Shown) -> dict[str, Any]:
    """The completion code, for whoever has done at least one task: nobody who worked leaves without it."""
    phases = shown.phases
    if not phases.completion_code or await shared.phases.tasks_done(worker, shown.study) == 0:
        return {}
    address = phases.completion_url
    if not address:  # a platform knows its own way back
        name = await shared.threads.run(shared.store.arrival_platform, worker.id, shown.study.id)
        platform = None if name is None else platform_of(name)
        address = "" if platform is None else platform.complete(phases.completion_code)
    is_good = is_allowed(address, shared.return_hosts)
    return {"completion": {"code": phases.completion_code, "url": address if is_good else ""}}
