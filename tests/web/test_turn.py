"""One turn: its pacing, a model server that misbehaves in the middle of either side, edits of answers, reports."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import FakeResponder, a_study
from rogue_server import FAULTS, RogueServer

from prefloop.client import OpenAIResponder
from prefloop.schema import ComparisonState, Mode, Snapshot, SnapshotShare
from prefloop.store import Store
from prefloop.study import StudyPhases


def error_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("side", [1, 2])
@pytest.mark.parametrize("fault", list(FAULTS))
async def test_a_model_server_that_misbehaves_leaves_a_usable_page(
    open_room: Callable[..., Any], fault: str, side: int
) -> None:
    async with (
        RogueServer() as server,
        OpenAIResponder(f"http://127.0.0.1:{server.port}") as responder,
        open_room(responder) as room,
    ):
        generation = room.app.state.services.generation
        patient = generation._page
        study = a_study(room.store)
        worker = await room.worker(study)
        conversation = await worker.begin()
        first = await worker.turn(conversation, "A good one")
        await worker.judge(first, 2)
        # Patience is short for the faulty turns alone: a good answer may be silent for long on a busy machine.
        generation._page = patient.model_copy(update={"stall_timeout_seconds": 0.3})
        started = await worker.send(conversation, f"[{fault} {side}]")
        name, facts = (await worker.read(started))[-1]
        assert name == "void"
        assert "counts as worked" in facts["message"]
        assert error_of(await worker.judge(started["comparison_id"])) == (409, "void_pair")
        state = await worker.state()
        assert (state["phase"], len(state["messages"])) == ("void", 3)  # nothing of the conversation is lost
        kept = room.store.comparison(started["comparison_id"])
        assert kept.state is ComparisonState.VOID
        assert kept.void_reason
        (credit,) = room.store.time_credits(study.id)
        assert (credit.comparison_id, credit.worker_id) == (kept.id, kept.worker_id)
        again = (await worker.post(f"/api/conversations/{conversation}/retry")).json()
        assert (await worker.read(again))[-1][0] == "void"  # the same order, the same fault
        generation._page = patient
        await worker.post(f"/api/conversations/{conversation}/end")
        third = await worker.turn(await worker.begin(), "Good again")
        assert (await worker.judge(third, 7)).status_code == 201
        assert room.app.state.services.broker.open_streams == 0


async def shown_lead(room: Any, worker: Any, order: str) -> list[tuple[int, int]]:
    """How many characters of A and B the page had, after every event of a turn."""
    started = await worker.send(await worker.begin(), order)
    lengths = {"a": 0, "b": 0}
    seen = []
    for name, facts in await worker.read(started):
        if name == "delta":
            lengths[facts["side"]] += len(facts["text"])
            seen.append((lengths["a"], lengths["b"]))
    kept = room.store.comparison(started["comparison_id"])
    assert seen[-1] == (len(kept.response_a.text), len(kept.response_b.text))
    return seen


@pytest.mark.parametrize("pacing", ["synchronised", "raw", "reveal_at_end"])
async def test_the_pacing_is_the_studys_and_kept_with_the_comparison(
    open_room: Callable[..., Any], pacing: str
) -> None:
    async with open_room(FakeResponder(pause_seconds=0.01, words=40)) as room:
        study = a_study(room.store)
        room.store.set_study_phases(study.id, StudyPhases(pacing=pacing))
        seen = await shown_lead(room, await room.worker(study), "[lag] Hello")
        (latest,) = room.store.latest_comparisons(study.id)
        assert latest.comparison.pacing == pacing
        length = len(seen)
        if pacing == "synchronised":
            # A delta of A comes first and B's right behind it: B, the slow side, is never more than one piece behind.
            while_b_is_written = seen[: length - 2]
            assert all(a <= max(b for _, b in seen[: i + 2]) for i, (a, b) in enumerate(while_b_is_written))
            assert length > 4
        elif pacing == "raw":
            assert max(a - b for a, b in seen) > 50  # the fast side runs ahead
        else:
            assert length == 2  # each side at once, whole


async def test_a_best_of_k_snapshot_on_either_side_reveals_both_at_the_end(open_room: Callable[..., Any]) -> None:
    async with open_room(FakeResponder(pause_seconds=0.002, words=20)) as room:
        plain = room.store.add_snapshot(Snapshot(name="plain", hash="1", path="plain", state="deployed"))
        best = room.store.add_snapshot(Snapshot(name="best", hash="2", path="best", best_of_k=4, state="deployed"))
        shares = tuple(SnapshotShare(snapshot_id=snapshot.id) for snapshot in (plain, best))
        study = a_study(room.store, snapshots=shares, compare="distinct")
        room.store.set_study_phases(study.id, StudyPhases(pacing="raw"))
        assert len(await shown_lead(room, await room.worker(study), "Hello")) == 2
        (latest,) = room.store.latest_comparisons(study.id)
        assert latest.comparison.pacing == "reveal_at_end"


async def test_an_edited_answer_goes_on_in_helpful_mode(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(room.store, turns_per_conversation=3)
        worker = await room.worker(study)
        conversation = await worker.begin()
        comparison = await worker.turn(conversation)
        assert (await worker.post(f"/api/comparisons/{comparison}/edit", {"side": "a", "text": "x"})).status_code == 409
        judgment = (await worker.judge(comparison, 7)).json()["judgment_id"]
        state = await worker.state()
        assert state["judged"]["editable"] == "b"
        edited = await worker.post(f"/api/comparisons/{comparison}/edit", {"side": "b", "text": " Much better. "})
        assert edited.status_code == 201
        state = await worker.state()
        assert (state["phase"], state["progress"]) == ("write", "Turn 2 of 3 · conversation 1")
        assert state["judged"]["editable"] is None
        assert (state["messages"][-1]["text"], state["messages"][-1]["is_edited"]) == ("Much better.", True)
        refused = await worker.judge(edited.json()["comparison_id"], 1)
        assert error_of(refused) == (409, "an_edit")
        # The judgment may still change, and with it what goes on; changed back, the edit goes on again.
        second = (await worker.judge(comparison, 1, revises=judgment)).json()["judgment_id"]
        assert (await worker.state())["messages"][-1]["is_edited"] is False
        await worker.judge(comparison, 8, revises=second)
        await worker.turn(conversation, "And then?")
        assert room.responder.requests[-1].messages[1].text == "Much better."
        late = await worker.post(f"/api/comparisons/{comparison}/edit", {"side": "a", "text": "Too late"})
        assert error_of(late) == (409, "too_late")
        chosen = {pair.chosen: pair.rejected for pair in room.store.pairs(study_id=study.id)}
        original = room.store.comparison(comparison).response_b.text
        assert chosen["Much better."] == original
        assert room.store.progress(study.id).comparisons[ComparisonState.JUDGED] == 1
        assert room.store.standing(conversation).messages[1].text == "Much better."


async def test_a_red_team_conversation_goes_on_with_what_was_clicked(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        worker = await room.worker(a_study(room.store, Mode.RED_TEAM))
        conversation = await worker.begin()
        comparison = await worker.turn(conversation)
        await worker.judge(comparison, 2)
        edited = await worker.post(f"/api/comparisons/{comparison}/edit", {"side": "a", "text": "I will not."})
        assert edited.status_code == 201
        await worker.turn(conversation, "Go on")
        assert room.responder.requests[-1].messages[1].text == room.store.comparison(comparison).response_a.text
        (pair,) = [pair for pair in room.store.pairs() if pair.comparison_id == edited.json()["comparison_id"]]
        assert pair.chosen == "I will not."


async def test_a_study_may_keep_the_answers_as_they_are(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        room.store.set_study_phases(study.id, StudyPhases(edits=False))
        worker = await room.worker(study)
        comparison = await worker.turn(await worker.begin())
        await worker.judge(comparison, 2)
        assert (await worker.state())["judged"]["editable"] is None
        refused = await worker.post(f"/api/comparisons/{comparison}/edit", {"side": "a", "text": "x"})
        assert error_of(refused) == (409, "no_edits")


async def test_reports_reach_the_store_and_change_nothing_else(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        worker, stranger = await room.worker(study), await room.worker(study)
        comparison = await worker.turn(await worker.begin())
        path = f"/api/studies/{study.id}/reports"
        body = {"kind": "personal", "text": " a name ", "comparison_id": comparison}
        assert (await worker.post(path, body)).status_code == 201
        assert (await stranger.post(path, body)).status_code == 404
        assert (await worker.post(path, {"kind": "gossip"})).status_code == 422
        assert (await worker.post(path, {"kind": "broken"})).status_code == 201
        assert [(r.kind, r.text, r.comparison_id) for r in room.store.reports(study.id)] == [
            ("broken", "", None),
            ("personal", "a name", comparison),
        ]
        assert (await worker.judge(comparison)).status_code == 201


async def test_workers_race_for_the_last_place(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(room.store, target_comparisons=3, turns_per_conversation=1)
        workers = [await room.worker(study) for _ in range(8)]
        conversations = [await worker.begin() for worker in workers]
        sent = await asyncio.gather(
            *(
                worker.post(f"/api/conversations/{conversation}/messages", {"text": "Me!"})
                for worker, conversation in zip(workers, conversations, strict=True)
            )
        )
        assert sorted(answer.status_code for answer in sent) == [201] * 3 + [409] * 5
        assert {error_of(answer) for answer in sent if answer.status_code == 409} == {(409, "study_full")}
        lost = next(i for i, answer in enumerate(sent) if answer.status_code == 409)
        state = await workers[lost].state()
        assert state["phase"] == "closed"
        assert "taken at the moment" in state["message"]
        won = [
            (worker, answer.json()) for worker, answer in zip(workers, sent, strict=True) if answer.status_code == 201
        ]
        await won[0][0].read(won[0][1])
        await won[0][0].post(f"/api/comparisons/{won[0][1]['comparison_id']}/skip")  # a place becomes free
        assert (await workers[lost].state())["phase"] == "write"
        await workers[lost].turn(conversations[lost], "Then me")
        for worker, started in won[1:]:
            await worker.read(started)
            await worker.judge(started["comparison_id"])
        progress = room.store.progress(study.id).comparisons
        assert (progress[ComparisonState.JUDGED], progress[ComparisonState.OPEN]) == (2, 1)
