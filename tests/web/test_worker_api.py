"""A worker's way through the JSON routes: what is shown, what is kept, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import FakeResponder, a_study

from prefloop.schema import ComparisonState, Mode, SamplingSettings, Snapshot, SnapshotShare, TreeMessage
from prefloop.store import Store


def error_of(answer: Any) -> tuple[int, str]:
    """Status and code of a refusal; fails unless the body is the one error shape."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message"}
    return answer.status_code, body["error"]["code"]


async def test_a_whole_conversation_is_kept_with_its_provenance(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(room.store, sampling=SamplingSettings(temperature=0.7, max_response_tokens=9))
        worker = await room.worker(study)
        conversation = await worker.begin()
        first = await worker.turn(conversation, "How do I boil an egg?")
        answer = await worker.judge(first, 7, reason_tags=["clear"], input_device="keyboard")
        assert answer.json()["continued"] == "b"
        assert answer.json()["next"] == "message"
        second = await worker.turn(conversation, "And a soft one?")
        assert (await worker.judge(second, 1)).json()["next"] == "complete"

        kept = room.store.comparison(first)
        (judgment,) = room.store.judgments(first)
        assert (judgment.grade, judgment.clicked, judgment.preferred) == (7, "b", "b")
        assert (judgment.question, judgment.reason_tags, judgment.input_device) == (
            "more_helpful",
            ("clear",),
            "keyboard",
        )
        assert judgment.both_done_at == max(kept.response_a.done_at, kept.response_b.done_at)
        assert judgment.interface_version == kept.interface_version == "web-0.1.0"
        assert kept.state is ComparisonState.JUDGED
        for response in (kept.response_a, kept.response_b):
            request = next(r for r in room.responder.requests if r.seed == response.seed)
            assert request.model == room.store.snapshot(response.snapshot_id).name
            assert request.sampling == response.sampling == study.sampling
            assert response.tokens == 12
        # The clicked reply, side B, is what the second turn was asked after.
        follow_up = [r for r in room.responder.requests if len(r.messages) == 3]
        assert len(follow_up) == 2
        assert all(r.messages[1].text == kept.response_b.text for r in follow_up)


async def test_red_team_prefers_the_side_that_was_not_clicked(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store, Mode.RED_TEAM))
        comparison = await worker.turn(await worker.begin())
        answer = await worker.judge(comparison, 3)
        (judgment,) = room.store.judgments(comparison)
        assert (judgment.question, judgment.clicked, judgment.preferred) == ("more_harmful", "a", "b")
        assert answer.json()["continued"] == "a"


@pytest.mark.parametrize(("rule", "side"), [("clicked", "a"), ("other", "b")])
async def test_what_continues_is_the_studys_rule(open_room: Callable[..., Any], rule: str, side: str) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store, continue_with=rule))
        conversation = await worker.begin()
        comparison = await worker.turn(conversation)
        assert (await worker.judge(comparison, 1)).json()["continued"] == side
        await worker.turn(conversation, "More")
        assert room.responder.requests[-1].messages[1].text == room.store.comparison(comparison).response(side).text


async def test_random_continuation_stays_the_same_for_a_pair(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store, continue_with="random", turns_per_conversation=30))
        conversation = await worker.begin()
        sides = []
        for _ in range(12):
            comparison = await worker.turn(conversation)
            first = (await worker.judge(comparison, 1)).json()
            changed = (await worker.judge(comparison, 8, revises=first["judgment_id"])).json()
            assert first["continued"] == changed["continued"]
            sides.append(first["continued"])
        assert set(sides) == {"a", "b"}  # 12 fair coins agree once in 2048 runs; then this is rerun with other ids


async def test_a_judgment_before_both_are_complete_is_refused(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        room.responder.gate.clear()
        started = await worker.send(await worker.begin())
        assert error_of(await worker.judge(started["comparison_id"])) == (409, "not_ready")
        assert room.store.judgments(started["comparison_id"]) == []
        room.responder.gate.set()
        assert (await worker.read(started))[-1][0] == "turn_ready"
        assert (await worker.judge(started["comparison_id"])).status_code == 201


@pytest.mark.parametrize(
    ("order", "stored"),
    [
        ("[fail]", "out of memory"),
        ("[cut]", "without a final event"),
        ("[empty]", "empty"),
        ("[raise]", "cannot be reached"),
        ("[stall]", "timeout"),
        ("[bug]", "ZeroDivisionError"),
    ],
)
async def test_a_failure_on_a_side_voids_the_pair_and_offers_new_answers(
    open_room: Callable[..., Any], order: str, stored: str
) -> None:
    async with open_room(stall_timeout_seconds=0.2) as room:
        worker = await room.worker(a_study(room.store))
        conversation = await worker.begin()
        started = await worker.send(conversation, order)
        name, facts = (await worker.read(started))[-1]
        assert name == "void"
        assert "does not count" in facts["message"]
        kept = room.store.comparison(started["comparison_id"])
        assert kept.state is ComparisonState.VOID
        assert stored in kept.void_reason
        assert error_of(await worker.judge(started["comparison_id"])) == (409, "void_pair")
        assert error_of(await worker.post(f"/api/conversations/{conversation}/messages", {"text": "x"})) == (
            409,
            "void_pair",
        )
        assert (await worker.state())["phase"] == "void"
        again = await worker.post(f"/api/conversations/{conversation}/retry")
        assert again.status_code == 201
        assert again.json()["turn"] == 1
        assert again.json()["comparison_id"] != started["comparison_id"]


async def test_a_total_time_limit_voids_the_pair(open_room: Callable[..., Any]) -> None:
    async with open_room(FakeResponder(pause_seconds=0.05, words=100), answer_timeout_seconds=0.2) as room:
        worker = await room.worker(a_study(room.store))
        assert (await worker.read(await worker.send(await worker.begin())))[-1][1]["reason"] == "timeout"


async def test_a_skipped_pair_is_void_and_its_generation_ends(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        room.responder.gate.clear()
        conversation = await worker.begin()
        started = await worker.send(conversation)
        reading = asyncio.create_task(worker.read(started))
        assert (await worker.post(f"/api/comparisons/{started['comparison_id']}/skip")).status_code == 200
        assert (await reading)[-1][1]["reason"] == "skipped"
        assert room.store.comparison(started["comparison_id"]).void_reason == "skipped"
        assert error_of(await worker.post(f"/api/comparisons/{started['comparison_id']}/skip")) == (409, "not_open")
        room.responder.gate.set()
        assert (await worker.post(f"/api/conversations/{conversation}/retry")).status_code == 201
        assert room.app.state.services.broker.open_streams == 1


async def test_undo_until_the_next_message(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        conversation = await worker.begin()
        comparison = await worker.turn(conversation)
        first = (await worker.judge(comparison, 2)).json()["judgment_id"]
        assert error_of(await worker.judge(comparison, 7)) == (409, "conflict")  # a second one must name the first
        assert (await worker.state())["judged"]["judgment_id"] == first
        second = await worker.judge(comparison, 7, revises=first)
        assert second.json()["continued"] == "b"
        assert error_of(await worker.judge(comparison, 1, revises=first)) == (409, "revised")
        await worker.turn(conversation, "Next")
        late = await worker.judge(comparison, 1, revises=second.json()["judgment_id"])
        assert error_of(late) == (409, "too_late")
        assert [j.grade for j in room.store.judgments(comparison)] == [2, 7]


async def test_undo_ends_with_its_window(open_room: Callable[..., Any]) -> None:
    async with open_room(undo_seconds=0.0) as room:
        worker = await room.worker(a_study(room.store))
        comparison = await worker.turn(await worker.begin())
        first = (await worker.judge(comparison)).json()["judgment_id"]
        assert error_of(await worker.judge(comparison, 5, revises=first)) == (409, "too_late")


async def test_two_judgments_at_once_leave_one(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        comparison = await worker.turn(await worker.begin())
        answers = await asyncio.gather(*(worker.judge(comparison, grade) for grade in (1, 8, 3)))
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
        assert len(room.store.judgments(comparison)) == 1


async def test_conversations_follow_each_other(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store, turns_per_conversation=1))
        first = await worker.begin()
        assert await worker.begin() == first  # a double click opens no second one
        comparison = await worker.turn(first)
        assert error_of(await worker.post(f"/api/conversations/{first}/messages", {"text": "x"})) == (
            409,
            "judge_first",
        )
        await worker.judge(comparison, 8)
        assert (await worker.state())["phase"] == "complete"
        refused = await worker.post(f"/api/conversations/{first}/messages", {"text": "x"})
        assert error_of(refused) == (409, "conversation_complete")
        second = await worker.begin()
        assert second != first
        assert room.store.standing(first).has_ended
        assert room.store.standing(first).messages[-1].text == room.store.comparison(comparison).response_b.text
        assert (await worker.state())["progress"] == "Turn 1 of 1 · conversation 2"
        ended = await worker.post(f"/api/conversations/{first}/messages", {"text": "x"})
        assert error_of(ended) == (409, "conversation_ended")


async def test_a_worker_may_end_a_conversation(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        conversation = await worker.begin()
        comparison = await worker.turn(conversation)
        assert (await worker.post(f"/api/conversations/{conversation}/end")).status_code == 200
        assert room.store.comparison(comparison).state is ComparisonState.VOID
        assert (await worker.state())["phase"] == "start"


async def test_a_foreign_workers_things_do_not_exist(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        owner, stranger = await room.worker(study), await room.worker(study)
        conversation = await owner.begin()
        comparison = await owner.turn(conversation)
        for answer in (
            await stranger.judge(comparison),
            await stranger.get(f"/api/turns/{comparison}/events"),
            await stranger.get(f"/api/comparisons/{comparison}"),
            await stranger.post(f"/api/comparisons/{comparison}/skip"),
            await stranger.post(f"/api/conversations/{conversation}/messages", {"text": "x"}),
            await stranger.post(f"/api/conversations/{conversation}/end"),
            await stranger.get("/api/comparisons/no-such-id"),
            await stranger.get("/api/no/such/route"),
        ):
            assert error_of(answer) == (404, "not_found")
        other = a_study(room.store, Mode.RED_TEAM)
        assert error_of(await owner.get(f"/api/studies/{other.id}/state")) == (404, "not_found")
        assert error_of(await owner.post("/api/conversations", {"study_id": other.id})) == (404, "not_found")


@pytest.mark.parametrize(
    "body",
    [
        {"grade": 0},
        {"grade": 9},
        {"grade": "much better"},
        {},
        {"grade": 3, "worker_id": "somebody else"},
        {"grade": 3, "shown_at": "yesterday"},
        {"grade": 3, "reason_tags": ["x" * 65]},
        {"grade": 3, "input_device": "telepathy"},
    ],
)
async def test_a_bad_judgment_is_refused_in_our_shape(open_room: Callable[..., Any], body: dict[str, Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        comparison = await worker.turn(await worker.begin())
        answer = await worker.post(f"/api/comparisons/{comparison}/judgment", body)
        assert error_of(answer) == (422, "invalid")
        assert room.store.judgments(comparison) == []


@pytest.mark.parametrize("text", ["", "  \n\t ", "x" * 41])
async def test_a_bad_message_is_refused(open_room: Callable[..., Any], text: str) -> None:
    async with open_room(max_message_chars=40) as room:
        worker = await room.worker(a_study(room.store))
        conversation = await worker.begin()
        answer = await worker.post(f"/api/conversations/{conversation}/messages", {"text": text})
        assert error_of(answer) == (422, "invalid")
        assert room.store.standing(conversation).messages == ()


async def test_text_that_no_database_holds_is_mended(open_room: Callable[..., Any]) -> None:
    async with open_room(FakeResponder(text="one \x00 two \ud800 three 😀")) as room:
        worker = await room.worker(a_study(room.store))
        comparison = await worker.turn(await worker.begin(), "nul \x00 here")
        kept = room.store.comparison(comparison)
        assert kept.response_a.text == "one � two � three 😀"
        assert room.store.path(kept.context_message_id)[-1].text == "nul � here"


async def test_a_browsers_wrong_clock_is_bounded(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        comparison = await worker.turn(await worker.begin())
        await worker.judge(comparison, 2, shown_at="1999-01-01T00:00:00Z")
        (judgment,) = room.store.judgments(comparison)
        assert judgment.shown_at == room.store.comparison(comparison).created_at


async def test_closed_and_full_studies_begin_nothing(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, target_comparisons=1)
        worker = await room.worker(study)
        conversation = await worker.begin()
        comparison = await worker.turn(conversation)
        judgment = (await worker.judge(comparison)).json()["judgment_id"]
        further = await worker.post(f"/api/conversations/{conversation}/messages", {"text": "Go on"})
        assert error_of(further) == (409, "study_full")
        state = await worker.state()  # the questions at the end are still asked
        assert (state["phase"], state["is_last"]) == ("complete", True)
        assert "all the judgments" in state["closed"]
        assert (await worker.judge(comparison, 7, revises=judgment)).status_code == 201
        refused = await worker.post("/api/conversations", {"study_id": study.id})
        assert error_of(refused) == (409, "study_closed")
        late = await room.worker(study)
        state = await late.state()
        assert state["phase"] == "closed"
        assert "all the judgments" in state["message"]

        paused = a_study(room.store, Mode.RED_TEAM)
        worker = await room.worker(paused)
        room.store.set_study_state(paused.id, "paused")
        assert error_of(await worker.post("/api/conversations", {"study_id": paused.id})) == (409, "study_closed")


async def test_a_paused_study_stops_conversations_under_way_and_keeps_them(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        worker = await room.worker(study)
        conversation = await worker.begin()
        comparison = await worker.turn(conversation)
        room.store.set_study_state(study.id, "paused")
        assert (await worker.judge(comparison)).status_code == 201  # what was read may be judged
        refused = await worker.post(f"/api/conversations/{conversation}/messages", {"text": "More"})
        assert error_of(refused) == (409, "study_closed")
        assert (await worker.state())["phase"] == "closed"
        room.store.set_study_state(study.id, "open")
        assert (await worker.state())["phase"] == "write"
        await worker.turn(conversation, "More")


async def test_second_opinions_are_leased_to_one_other_worker(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(room.store, overlap=1.0)
        author, second, third = [await room.worker(study) for _ in range(3)]
        comparison = await author.turn(await author.begin(), "Tell me")
        await author.judge(comparison, 2)
        task = f"/api/next?study_id={study.id}"
        assert (await author.get(task)).json() == {"kind": "conversation"}  # never the own pair
        offer = (await second.get(task)).json()
        assert (offer["kind"], offer["comparison_id"]) == ("review", comparison)
        assert [m["text"] for m in offer["state"]["messages"]] == ["Tell me"]
        assert (await third.get(task)).json() == {"kind": "conversation"}
        assert error_of(await third.judge(comparison)) == (404, "not_found")
        events = events_names(await second.read(offer))
        assert events.count("done") == 2
        assert events[-1] == "turn_ready"
        assert (await second.post(f"/api/comparisons/{comparison}/skip")).status_code == 200
        assert (await third.get(task)).json()["comparison_id"] == comparison
        answer = await third.judge(comparison, 8)
        assert (answer.json()["continued"], answer.json()["next"]) == (None, "next")
        assert (await second.get(task)).json() == {"kind": "conversation"}
        assert [j.grade for j in room.store.judgments(comparison)] == [2, 8]
        assert room.store.comparison(comparison).state is ComparisonState.JUDGED


def events_names(events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    return [name for name, _ in events]


async def test_nobody_learns_which_model_answers(open_room: Callable[..., Any]) -> None:
    async with open_room(FakeResponder(text="An answer.")) as room:
        study = a_study(room.store)
        worker = await room.worker(study)
        started = await worker.send(await worker.begin())
        seen = [json.dumps(started), (await worker.get(started["stream_url"])).text, json.dumps(await worker.state())]
        seen.append((await worker.get(f"/api/comparisons/{started['comparison_id']}")).text)
        seen.append((await worker.get(f"/study/{study.id}")).text)
        for snapshot in room.store.snapshots():
            for text in seen:
                assert snapshot.id not in text
                assert f'"{snapshot.name}"' not in text


async def test_starting_anew_voids_what_was_unfinished(open_room: Callable[..., Any], sqlite_store: Store) -> None:
    study = a_study(sqlite_store)
    async with open_room() as room:
        worker = await room.worker(study)
        room.responder.gate.clear()
        started = await worker.send(await worker.begin(), "Kept?")
        cookies = worker.http.cookies
    async with open_room() as room:
        worker.http = room.http()
        worker.http.cookies = cookies
        (event,) = await worker.read(started)
        assert event[0] == "void"
        assert "restarted" in event[1]["message"]
        state = await worker.state()
        assert (state["phase"], state["messages"][0]["text"]) == ("void", "Kept?")
        again = await worker.post(f"/api/conversations/{state['conversation_id']}/retry")
        assert (await worker.read(again.json()))[-1][0] == "turn_ready"


async def test_a_message_whose_pair_cannot_be_stored_is_not_kept(
    open_room: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        conversation = await worker.begin()
        await worker.judge(await worker.turn(conversation))
        with monkeypatch.context() as broken:
            broken.setattr("prefloop.store.asking.add_comparison", lambda unit, comparison: 1 / 0)
            answer = await worker.post(f"/api/conversations/{conversation}/messages", {"text": "More"})
        assert error_of(answer) == (500, "internal")
        assert [message.role for message in room.store.standing(conversation).messages] == ["user"]
        assert (await worker.state())["phase"] == "write"
        await worker.turn(conversation, "More")
        messages = room.store.standing(conversation).messages
        assert [message.role for message in messages] == ["user", "assistant", "user"]
        assert [message.parent_id for message in messages] == [None, messages[0].id, messages[1].id]


async def test_a_message_without_a_pair_can_be_answered(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store))
        conversation = await worker.begin()
        room.store.add_message(TreeMessage(conversation_id=conversation, role="user", text="Hello"))
        assert (await worker.state())["phase"] == "void"
        again = await worker.post(f"/api/conversations/{conversation}/retry")
        assert (await worker.read(again.json()))[-1][0] == "turn_ready"


async def test_a_pick_of_the_best_is_shown_when_both_answers_are_complete(open_room: Callable[..., Any]) -> None:
    """A person waits for a best-of-k answer, so the other side is not shown before it either (paper B.5)."""
    seen: dict[int, list[str]] = {}
    async with open_room(FakeResponder(pause_seconds=0.02, words=4)) as room:
        for k in (1, 16):
            best = Snapshot(
                name=f"best{k}", hash=f"best{k}", path="base", best_of_k=k, preference_model_id="a-pm", state="deployed"
            )
            room.store.add_snapshot(best)
            base = Snapshot(name=f"plain{k}", hash=f"plain{k}", path="base", state="deployed")
            room.store.add_snapshot(base)
            shares = (SnapshotShare(snapshot_id=best.id), SnapshotShare(snapshot_id=base.id))
            worker = await room.worker(a_study(room.store, name=f"study{k}", snapshots=shares, compare="distinct"))
            conversation = await worker.begin()
            events = await worker.read(await worker.send(conversation))
            seen[k] = [kind for kind, _ in events]
    assert seen[1].count("delta") > 2  # streamed
    assert seen[16].count("delta") == 2  # each side at once
    assert seen[16][-1] == seen[1][-1] == "turn_ready"
