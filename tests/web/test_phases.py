"""What stands around the chat tasks, through the JSON routes; and that the defaults ask nothing of a program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from fake_server import a_study
from test_worker_api import error_of

from prefloop.schema import Mode
from prefloop.study import StudyPhases


async def a_task(worker: Any, turns: int = 2) -> str:
    """One conversation with all its turns judged."""
    conversation = str(await worker.begin())
    for _ in range(turns):
        await worker.judge(await worker.turn(conversation))
    return conversation


async def test_tasks_are_counted_and_the_end_gives_the_code(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        room.store.set_study_phases(
            study.id,
            StudyPhases(
                tasks_per_worker=2,
                practice="off",
                completion_code="C0DE",
                completion_url="https://app.prolific.com/submissions/complete?cc=C0DE",
            ),
        )
        worker = await room.worker(study)
        assert (await worker.state())["progress"] == "task 1 of 2"
        await a_task(worker)
        state = await worker.state()
        assert (state["progress"], state["is_last"]) == ("Turn 2 of 2 · task 1 of 2", False)
        await a_task(worker)  # beginning it ended the first one
        state = await worker.state()
        assert (state["progress"], state["is_last"]) == ("Turn 2 of 2 · task 2 of 2", True)
        assert (await worker.get(f"/api/next?study_id={study.id}")).json() == {"kind": "end"}
        state = (await worker.post(f"/api/studies/{study.id}/finish")).json()
        assert state["phase"] == "end"
        assert state["completion"] == {"code": "C0DE", "url": "https://app.prolific.com/submissions/complete?cc=C0DE"}
        assert error_of(await worker.post("/api/conversations", {"study_id": study.id})) == (409, "tasks_done")
        assert (await worker.state())["phase"] == "end"
        other = await room.worker(study)  # the limit is each worker's own
        await other.begin()


async def test_a_conversation_without_a_judgment_is_no_task(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        room.store.set_study_phases(study.id, StudyPhases(tasks_per_worker=1))
        worker = await room.worker(study)
        for _ in range(2):
            await worker.post(f"/api/conversations/{await worker.begin()}/end")
        conversation = await worker.begin()
        await worker.judge(await worker.turn(conversation))
        await worker.post(f"/api/conversations/{conversation}/end")
        assert error_of(await worker.post("/api/conversations", {"study_id": study.id})) == (409, "tasks_done")


async def test_whoever_worked_gets_the_code_when_the_study_closes_and_nobody_else(
    open_room: Callable[..., Any],
) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        room.store.set_study_phases(study.id, StudyPhases(completion_code="C0DE"))
        worker, idle = await room.worker(study), await room.worker(study)
        await a_task(worker)
        await worker.post(f"/api/studies/{study.id}/finish")
        room.store.set_study_state(study.id, "closed")
        assert (await worker.state())["completion"]["code"] == "C0DE"
        state = await idle.state()
        assert state["phase"] == "closed"
        assert "completion" not in state


async def test_an_own_consent_text_stands_before_the_work(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        worker = await room.worker(study)
        await worker.begin()  # the built-in text is shown, and asks nothing of a program
        room.store.set_study_phases(study.id, StudyPhases(consent="May we?", consent_version="a"))
        newcomer = await room.worker(study)
        assert error_of(await newcomer.post("/api/conversations", {"study_id": study.id})) == (409, "consent_first")
        assert (await newcomer.http.post(f"/study/{study.id}/consent")).status_code == 303
        await newcomer.begin()


async def test_the_goal_is_asked_before_the_first_message(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, Mode.RED_TEAM)
        worker = await room.worker(study)
        conversation = await worker.begin()
        assert (await worker.state())["asks_goal"] is True
        room.store.set_study_phases(study.id, StudyPhases(goal="require"))
        refused = await worker.post(f"/api/conversations/{conversation}/messages", {"text": "Hello"})
        assert error_of(refused) == (409, "goal_first")
        assert error_of(await worker.post(f"/api/conversations/{conversation}/goal", {"text": "  "}))[0] == 422
        await worker.post(f"/api/conversations/{conversation}/goal", {"text": "Make it swear"})
        await worker.send(conversation)
        state = await worker.state()
        assert (state["goal"], state["asks_goal"]) == ("Make it swear", False)
        stranger = await room.worker(study)
        assert (await stranger.post(f"/api/conversations/{conversation}/goal", {"text": "x"})).status_code == 404


async def test_no_goal_in_helpful_mode(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        conversation = await worker.begin()
        assert "asks_goal" not in await worker.state()
        assert error_of(await worker.post(f"/api/conversations/{conversation}/goal", {"text": "x"})) == (409, "no_goal")


@pytest.mark.parametrize(
    ("mode", "ids"),
    [(Mode.HELPFUL, ["rating", "comment"]), (Mode.RED_TEAM, ["success", "harm", "actionable"])],
)
async def test_closing_questions_are_the_modes(open_room: Callable[..., Any], mode: Mode, ids: list[str]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store, mode))
        conversation = await a_task(worker)
        state = await worker.state()
        assert [question["id"] for question in state["questions"]] == ids
        answer = await worker.post(f"/api/conversations/{conversation}/answers", {"answers": {ids[0]: 5}})
        assert answer.status_code == 201
        assert (await worker.state())["answers"] == {ids[0]: 5}
        kept = room.store.task_answers(conversation)["closing"]
        assert [question["id"] for question in kept.questions] == ids  # as they were shown


@pytest.mark.parametrize(
    "answers", [{"rating": 6}, {"rating": 0}, {"rating": "good"}, {"taste": 1}, {"comment": "x" * 5000}]
)
async def test_wrong_answers_are_refused(open_room: Callable[..., Any], answers: dict[str, Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        conversation = await a_task(worker)
        assert error_of(await worker.post(f"/api/conversations/{conversation}/answers", {"answers": answers}))[0] == 422
        assert room.store.task_answers(conversation) == {}


async def test_required_questions_stand_before_the_next_task(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        room.store.set_study_phases(study.id, StudyPhases(closing="require"))
        worker = await room.worker(study)
        conversation = await a_task(worker)
        assert error_of(await worker.post("/api/conversations", {"study_id": study.id})) == (409, "answer_first")
        part = await worker.post(f"/api/conversations/{conversation}/answers", {"answers": {"comment": "Nice"}})
        assert part.status_code == 422
        await worker.post(f"/api/conversations/{conversation}/answers", {"answers": {"rating": 3}})
        assert await worker.begin() != conversation


async def test_marks_reasons_and_sources_are_kept(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        own = StudyPhases.load_values(
            {"reasons": [{"id": "short", "label": "Short"}], "faults": [{"id": "cruel", "label": "Cruel"}]}
        )
        room.store.set_study_phases(study.id, own)
        room.responder.text = "Ein 🦊 im Wald"  # a fox outside of the basic plane is one code point
        worker = await room.worker(study)
        comparison = await worker.turn(await worker.begin())
        mark = {"side": "b", "start": 4, "end": 8, "tag": "cruel"}
        more = {"reason_tags": ["short"], "marks": [mark], "is_checked": True, "checked_source": " a zoo "}
        assert (await worker.judge(comparison, 2, **more)).status_code == 201
        (judgment,) = room.store.judgments(comparison)
        assert [kept.model_dump() for kept in judgment.marks] == [{**mark, "quote": "🦊 im"}]
        assert (judgment.reason_tags, judgment.is_checked, judgment.checked_source) == (("short",), True, "a zoo")
        assert (await worker.state())["judged"]["marks"] == [{**mark, "quote": "🦊 im"}]


@pytest.mark.parametrize(
    "more",
    [
        {"reason_tags": ["correct"]},
        {"marks": [{"side": "a", "start": 0, "end": 1, "tag": "wrong_fact"}]},
        {"marks": [{"side": "a", "start": 0, "end": 10_000, "tag": "cruel"}]},
        {"marks": [{"side": "a", "start": 3, "end": 3, "tag": "cruel"}]},
        {"go_on_with": "b"},
    ],
)
async def test_a_judgment_that_cannot_be_is_refused(open_room: Callable[..., Any], more: dict[str, Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        own = StudyPhases.load_values(
            {"reasons": [{"id": "short", "label": "Short"}], "faults": [{"id": "cruel", "label": "Cruel"}]}
        )
        room.store.set_study_phases(study.id, own)
        worker = await room.worker(study)
        comparison = await worker.turn(await worker.begin())
        assert error_of(await worker.judge(comparison, 2, **more))[0] == 422
        assert room.store.judgments(comparison) == []


@pytest.mark.parametrize(("wish", "continued"), [("b", "b"), (None, "a")])
async def test_the_worker_may_choose_what_continues(
    open_room: Callable[..., Any], wish: str | None, continued: str
) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store, continue_with="worker_choice"))
        conversation = await worker.begin()
        comparison = await worker.turn(conversation)
        answer = await worker.judge(comparison, 1, go_on_with=wish)
        assert answer.json()["continued"] == continued
        await worker.turn(conversation, "More")
        kept = room.store.comparison(comparison)
        assert room.responder.requests[-1].messages[1].text == kept.response(continued).text
        assert room.store.judgments(comparison)[0].preferred == "a"  # the wish says nothing of what is better
