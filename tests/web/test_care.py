"""Practice with feedback; care in red-team studies: opt-outs, breaks, feelings, all of it without penalty."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fake_server import a_study
from sqlalchemy import text

from prefloop.schema import Mode, now
from prefloop.store import Store
from prefloop.study import CareSettings, PracticeItem, StudyPhases


def error_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def a_task(worker: Any, topic: str | None = None) -> str:
    """One task of one turn, judged and ended."""
    conversation: str = await worker.begin()
    if topic:
        await worker.post(f"/api/conversations/{conversation}/goal", {"text": "Try it", "topic": topic})
    await worker.judge(await worker.turn(conversation))
    return conversation


@pytest.mark.parametrize(("pick", "right"), [("a", {1, 2, 3}), ("b", {6, 7, 8}), ("same", {4, 5})])
def test_a_practice_grade_is_right_where_it_says_the_same(pick: str, right: set[int]) -> None:
    item = PracticeItem(id="x", message="m", answer_a="a", answer_b="b", pick=pick, feedback="f")
    assert {grade for grade in range(1, 9) if item.is_right(grade)} == right


async def test_practice_gives_feedback_and_counts_for_nothing(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(room.store)
        worker = await room.worker(study)
        seen = []
        for grade in (7, 8):
            state = await worker.state()
            assert state["phase"] == "practice"
            seen.append(state["progress"])
            assert [name for name, _ in await worker.read(state["comparison"])][-1] == "turn_ready"
            body = {"item": state["comparison"]["id"], "grade": grade}
            answer = (await worker.post(f"/api/studies/{study.id}/practice", body)).json()
            assert answer["is_right"] is (grade == 7)  # B is right in the first one, A in the second
            assert "<strong>" in answer["feedback"]
        assert seen == ["Practice 1 of 2", "Practice 2 of 2"]
        assert (await worker.state())["phase"] == "start"
        assert room.store.progress(study.id).judgments == 0
        assert list(room.store.records()) == []
        worker_id = (await worker.get("/api/me")).json()["worker_id"]
        kept = room.store.practice_answers(worker_id, study.id)
        assert [(one.item, one.grade, one.is_right) for one in kept] == [("flight", 7, True), ("pets", 8, False)]
        assert kept[0].shown["pick"] == "b"  # as it was shown


async def test_practice_may_be_skipped_or_be_required(open_room: Callable[..., Any]) -> None:
    own = PracticeItem(id="own", message="Hm?", answer_a="Yes", answer_b="No", pick="same", feedback="Either.")
    async with open_room() as room:
        study = a_study(room.store)
        practice = f"/api/studies/{study.id}/practice"
        worker = await room.worker(study)
        await worker.post(practice)
        assert (await worker.state())["phase"] == "start"
        room.store.set_study_phases(study.id, StudyPhases(practice="require", practice_items=(own,)))
        assert (await worker.state())["comparison"]["id"] == "own"  # a new one is asked of everybody
        assert error_of(await worker.post(practice)) == (409, "practice_first")
        assert error_of(await worker.post("/api/conversations", {"study_id": study.id})) == (409, "practice_first")
        assert (await worker.post(practice, {"item": "pets", "grade": 1})).status_code == 422
        assert (await worker.post(practice, {"item": "own", "grade": 9})).status_code == 422
        assert (await worker.post(practice, {"item": "own", "grade": 1})).json()["is_right"] is False
        await worker.begin()  # wrong is no reason to be sent away


async def test_an_opted_out_topic_is_never_shown_for_a_second_opinion(
    open_room: Callable[..., Any], store: Store
) -> None:
    async with open_room(store=store) as room:
        study = a_study(room.store, Mode.RED_TEAM, overlap=1.0, turns_per_conversation=1)
        author, careful, other = [await room.worker(study) for _ in range(3)]
        await a_task(author)  # nobody said what it is about
        violent = await a_task(author, "violence")
        harmless = await a_task(author, "lies")
        await author.post(f"/api/conversations/{harmless}/end")
        path = f"/api/studies/{study.id}/opt-outs"
        assert (await careful.post(path, {"topics": ["weather"]})).status_code == 422
        assert (await careful.post(path, {"topics": ["violence"]})).status_code == 201
        assert (await careful.get(f"/api/studies/{study.id}/care")).json()["opt_outs"] == ["violence"]
        task = f"/api/next?study_id={study.id}"
        offered = (await careful.get(task)).json()["comparison_id"]
        assert room.store.comparison(offered).conversation_id == harmless
        await careful.judge(offered)
        assert (await careful.get(task)).json() == {"kind": "conversation"}
        await careful.post(path, {"topics": []})  # minds may change
        found = room.store.comparison((await careful.get(task)).json()["comparison_id"])
        assert found.conversation_id != harmless
        assert (await other.get(task)).json()["kind"] == "review"
        assert violent != harmless


async def test_a_break_is_offered_after_so_much_reading(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(room.store, Mode.RED_TEAM, turns_per_conversation=9)
        room.store.set_study_phases(study.id, StudyPhases(care=CareSettings(break_minutes=6)))
        worker = await room.worker(study)
        worker_id = (await worker.get("/api/me")).json()["worker_id"]
        conversation = await worker.begin()
        for turn in range(2):
            comparison = await worker.turn(conversation, f"Turn {turn}")
            for side in "ab":  # the answers came in 200 seconds ago
                response = getattr(room.store.comparison(comparison), f"response_{side}")
                past = now() - timedelta(seconds=200)
                room.store._write(
                    lambda unit, id=response.id, at=past: (
                        unit.connection.execute(
                            text("UPDATE response SET first_token_at = :at WHERE id = :id"),
                            {"id": id, "at": at if room.store.url.get_backend_name() == "postgresql" else str(at)[:26]},
                        )
                        and None
                    )
                )
            assert (await worker.state()).get("break") is None
            await worker.judge(comparison)
        assert room.store.exposure_minutes(worker_id, study.id) == pytest.approx(400 / 60, abs=0.5)
        assert (await worker.state())["break"] == 7
        assert (await worker.post(f"/api/studies/{study.id}/breaks", {"kind": "taken"})).status_code == 201
        assert (await worker.state())["break"] is None  # reading is counted anew
        await worker.turn(conversation, "On")
        counts = room.store.care_counts(study.id)
        assert (counts.breaks_taken, counts.breaks_declined) == (1, 0)
        assert counts.exposure_minutes == pytest.approx(400 / 60, abs=0.5)


async def test_feelings_are_kept_without_the_worker_and_told_as_counts(
    open_room: Callable[..., Any], store: Store
) -> None:
    async with open_room(store=store) as room:
        study = a_study(room.store, Mode.RED_TEAM, turns_per_conversation=1)
        room.store.set_study_phases(study.id, StudyPhases(care=CareSettings(feelings_every_tasks=2)))
        path = f"/api/studies/{study.id}/feelings"
        ids = []
        for number in range(5):
            worker = await room.worker(study)
            ids.append((await worker.get("/api/me")).json()["worker_id"])
            await a_task(worker)
            assert (await worker.state())["feelings"] is None
            assert error_of(await worker.post(path, {"answers": {"calm": 5}})) == (409, "not_asked")
            await a_task(worker)
            assert [question["id"] for question in (await worker.state())["feelings"]] == ["calm", "mood", "stays"]
            assert (await worker.post(path, {"answers": {"calm": 6}})).status_code == 422
            assert room.store.care_counts(study.id).feelings is None  # too few people to tell anything
            assert (room.store.care_counts(study.id).opted_out is None) == (number < 4)
            answers = {"calm": number % 2 + 4} if number < 4 else {}
            assert (await worker.post(path, {"answers": answers})).status_code == 201
            assert error_of(await worker.post(path, {"answers": {"calm": 1}})) == (409, "not_asked")  # once
            await worker.begin()
        counts = room.store.care_counts(study.id)
        assert counts.asked == 5
        assert counts.feelings == {"calm": {4: 2, 5: 2, 0: 1}, "mood": {0: 5}, "stays": {0: 5}}
        assert counts.opted_out == 0
        with room.store._read() as connection:
            said = [dict(row) for row in connection.execute(text("SELECT * FROM feelings")).mappings()]
        events = json.dumps([event.model_dump(mode="json") for event in room.store.events()])
        assert len(said) == 5
        assert all(set(row) == {"id", "study_id", "day", "answers"} for row in said)
        assert not any(id in json.dumps(said, default=str) for id in ids)
        assert "calm" not in events


async def test_helpful_studies_ask_for_none_of_it(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, turns_per_conversation=1)
        phases = StudyPhases(care=CareSettings(feelings_every_tasks=1, break_minutes=0.0001))
        room.store.set_study_phases(study.id, phases)
        worker = await room.worker(study)
        await a_task(worker)
        state = await worker.state()
        assert state["feelings"] is None
        assert (await worker.post(f"/api/studies/{study.id}/opt-outs", {"topics": ["violence"]})).status_code == 422


async def test_skipping_has_no_penalty(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, Mode.RED_TEAM)
        worker = await room.worker(study)
        conversation = await worker.begin()
        for turn in range(4):
            started = await worker.send(conversation, "Go") if turn == 0 else again
            await worker.read(started)
            assert (await worker.post(f"/api/comparisons/{started['comparison_id']}/skip")).status_code == 200
            again = (await worker.post(f"/api/conversations/{conversation}/retry")).json()
        await worker.read(again)
        assert (await worker.judge(again["comparison_id"])).status_code == 201
        counts = room.store.care_counts(study.id)
        assert counts.skipped == 4
