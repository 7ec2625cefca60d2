"""Judgments, corrections, how a conversation goes on, second judgments, and reading them back."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from sqlalchemy import update

from prefloop.errors import NotFoundError, StateError
from prefloop.schema import ComparisonState, Message, Response, TreeMessage, Worker, new_id, now
from prefloop.store import Continuation, tables


def test_a_judgment_comes_back_as_it_was(scene: Any) -> None:
    comparison = scene.done()
    judgment = scene.store.add_judgment(scene.judgment(comparison, grade=7))
    assert scene.store.judgments(comparison.id) == [judgment]
    assert scene.store.comparison(comparison.id).state == ComparisonState.JUDGED


def test_no_judgment_before_both_responses_are_done(scene: Any) -> None:
    comparison = scene.comparison()
    scene.store.finish_response(comparison.response_a.id, "first", 1, "stop", now(), now())
    with pytest.raises(StateError, match="takes a judgment when both are done"):
        scene.store.add_judgment(scene.judgment(comparison))
    assert scene.store.judgments(comparison.id) == []
    assert scene.store.comparison(comparison.id).state == ComparisonState.OPEN


def test_no_judgment_on_a_void_comparison(scene: Any) -> None:
    comparison = scene.done()
    scene.store.void_comparison(comparison.id, "stopped")
    with pytest.raises(StateError, match=r"is void \(stopped\)"):
        scene.store.add_judgment(scene.judgment(comparison))
    assert scene.store.judgments(comparison.id) == []


def test_voiding_and_judging_at_once_leave_one_of_the_two(scene: Any) -> None:
    for _ in range(5):
        comparison = scene.done()
        barrier = Barrier(2)

        def attempt(call: Any, *arguments: Any, barrier: Barrier = barrier) -> bool:
            barrier.wait()
            try:
                call(*arguments)
            except StateError:
                return False
            return True

        with ThreadPoolExecutor(2) as pool:
            judged = pool.submit(attempt, scene.store.add_judgment, scene.judgment(comparison))
            voided = pool.submit(attempt, scene.store.void_comparison, comparison.id, "stopped")
        state = scene.store.comparison(comparison.id).state
        assert (judged.result(), voided.result()) == (state == "judged", state == "void")
        assert len(scene.store.judgments(comparison.id)) == judged.result()


def test_a_second_judgment_revises_the_first(scene: Any) -> None:
    comparison = scene.judged(grade=2)
    first = scene.store.judgments(comparison.id)[0]
    with pytest.raises(StateError, match=f"revise judgment {first.id}"):
        scene.store.add_judgment(scene.judgment(comparison, grade=7))
    second = scene.store.add_judgment(scene.judgment(comparison, grade=7, revises=first.id))
    with pytest.raises(StateError, match=f"revise judgment {second.id}"):
        scene.store.add_judgment(scene.judgment(comparison, grade=1, revises=first.id))
    assert scene.store.judgments(comparison.id) == [first, second]
    assert [pair.grade for pair in scene.store.pairs()] == [7]


def test_nobody_revises_another_workers_judgment(scene: Any) -> None:
    comparison = scene.judged()
    adas = scene.store.judgments(comparison.id)[0]
    with pytest.raises(StateError, match="is not one of this worker"):
        scene.store.add_judgment(scene.judgment(comparison, worker=scene.ben, revises=adas.id))


def test_one_of_two_equal_clicks_counts(scene: Any) -> None:
    comparison = scene.done()

    def click(_: int) -> bool:
        try:
            scene.store.add_judgment(scene.judgment(comparison))
        except StateError:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(click, range(4))) == 1
    assert len(scene.store.judgments(comparison.id)) == 1


def test_an_unknown_comparison_or_worker(scene: Any) -> None:
    judgment = scene.judgment(scene.done())
    for change in ({"comparison_id": "none"}, {"worker_id": "none"}):
        with pytest.raises(NotFoundError, match="'none'"):
            scene.store.add_judgment(judgment.model_copy(update=change))


def test_the_conversation_goes_on_once(scene: Any) -> None:
    comparison = scene.done()
    with pytest.raises(StateError, match="judge it before going on"):
        scene.store.continue_with(comparison.id, "b")
    scene.store.add_judgment(scene.judgment(comparison, grade=2))
    turn = scene.store.continue_with(comparison.id, "b")  # neither the clicked nor the preferred side: a third fact
    assert (turn.role, turn.text, turn.response_id) == ("assistant", "No idea.", comparison.response_b.id)
    assert scene.store.continue_with(comparison.id, "b") == turn
    with pytest.raises(StateError, match="went on with side 'b'"):
        scene.store.continue_with(comparison.id, "a")
    assert [node.role for node in scene.store.path(turn.id)] == ["user", "assistant"]


def test_a_whole_turn_is_one_transaction(scene: Any) -> None:
    first = scene.judged()
    unasked = scene.done()
    kept = scene.store.events()
    continuation = Continuation(comparison_id=first.id, side="b")
    message = TreeMessage(conversation_id=first.conversation_id, role="user", text="And a soft one?")
    second = first.model_copy(
        update={
            "id": new_id(),
            "turn": 2,
            "context_message_id": message.id,
            "state": ComparisonState.OPEN,
            "response_a": Response(snapshot_id=scene.snapshot.id),
            "response_b": Response(snapshot_id=scene.snapshot.id),
        }
    )
    for change, says in (
        ({"turn": 1}, "has comparison"),  # refused at the end: the reply and the message are undone too
        ({"conversation_id": unasked.conversation_id}, "is not a user turn"),
    ):
        with pytest.raises(StateError, match=says):
            scene.store.add_turn(message, second.model_copy(update=change), continuation)
    assert scene.store.events() == kept
    reply = scene.store.add_turn(message, second, continuation)
    assert (reply.id, reply.role, reply.text) == (continuation.message_id, "assistant", "No idea.")
    assert [node.id for node in scene.store.path(message.id)] == [first.context_message_id, reply.id, message.id]
    standing = scene.store.standing(first.conversation_id)
    assert [node.id for node in standing.messages] == [first.context_message_id, reply.id, message.id]
    assert [pair.id for pair in standing.comparisons] == [first.id, second.id]


def test_a_conversation_ends_with_its_last_reply(scene: Any) -> None:
    comparison = scene.judged()
    waiting = scene.done()
    with pytest.raises(StateError, match="judge it before going on"):
        scene.store.close_conversation(
            waiting.conversation_id, "finished", Continuation(comparison_id=waiting.id, side="a")
        )
    assert not scene.store.standing(waiting.conversation_id).has_ended
    scene.store.close_conversation(
        comparison.conversation_id, "finished", Continuation(comparison_id=comparison.id, side="a")
    )
    standing = scene.store.standing(comparison.conversation_id)
    assert standing.has_ended
    assert [(node.role, node.text) for node in standing.messages][1:] == [("assistant", "Eight minutes.")]


def test_the_next_turn_has_the_whole_path_as_context(scene: Any) -> None:
    first = scene.judged()
    answer = scene.store.continue_with(first.id, "a")
    thanks = scene.store.add_message(
        TreeMessage(conversation_id=first.conversation_id, parent_id=answer.id, role="user", text="And a soft one?")
    )
    second = scene.done(thanks, turn=2)
    scene.store.add_judgment(scene.judgment(second, grade=8))
    pair = list(scene.store.pairs())[1]
    assert pair.context == (
        Message(role="user", text="How do I boil an egg?"),
        Message(role="assistant", text="Eight minutes."),
        Message(role="user", text="And a soft one?"),
    )
    assert (pair.chosen, pair.rejected, pair.chosen_side, pair.turn) == ("No idea.", "Eight minutes.", "b", 2)
    assert pair.chosen_response_id == second.response_b.id


def test_pairs_leave_out_the_weakest_and_the_void(scene: Any) -> None:
    kept = [scene.judged(grade).id for grade in (1, 4, 5, 8)]
    scene.done()
    scene.store.fail_response(scene.comparison().response_a.id, "x")
    assert [pair.comparison_id for pair in scene.store.pairs()] == [kept[0], kept[3]]
    assert [pair.comparison_id for pair in scene.store.pairs(drop_weakest=False)] == kept
    assert list(scene.store.pairs(mode="red_team")) == []
    assert list(scene.store.pairs(tranche="online")) == []
    assert len(list(scene.store.pairs(study_id=scene.study.id))) == 2


def test_reading_goes_over_many_chunks(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefloop.store.reading.READ_CHUNK", 2)
    kept = [scene.judged().id for _ in range(5)]
    assert [pair.comparison_id for pair in scene.store.pairs()] == kept


def test_progress_counts_unrevised_judgments(scene: Any) -> None:
    comparison = scene.judged()
    first = scene.store.judgments(comparison.id)[0]
    scene.store.add_judgment(scene.judgment(comparison, revises=first.id))
    scene.store.add_judgment(scene.judgment(comparison, worker=scene.ben))
    scene.done()
    scene.store.void_comparison(scene.comparison().id, "x")
    progress = scene.store.progress(scene.study.id)
    assert progress.comparisons == {"open": 1, "judged": 1, "void": 1}
    assert (progress.judgments, progress.workers, progress.conversations) == (2, 2, 3)


def test_a_second_worker_gets_what_somebody_else_judged(scene: Any) -> None:
    store, study = scene.store, scene.study.id
    comparison = scene.judged()
    assert store.lease_overlap(study, scene.ada.id, 60) is None  # her own conversation
    assert store.lease_overlap(study, scene.ben.id, 60) == comparison
    assert store.lease_overlap(study, scene.ben.id, 60) == comparison  # asked again: the same one
    third = store.add_worker(Worker(pseudonym="cleo"))
    assert store.lease_overlap(study, third.id, 60) is None
    store.release_lease(comparison.id, scene.ben.id)
    assert store.lease_overlap(study, third.id, 60) == comparison
    store.add_judgment(scene.judgment(comparison, worker=third))
    assert store.lease_overlap(study, scene.ben.id, 60) is None  # two have judged it


def test_an_expired_lease_goes_to_the_next(scene: Any) -> None:
    comparison = scene.judged()
    scene.store.lease_overlap(scene.study.id, scene.ben.id, 60)
    third = scene.store.add_worker(Worker(pseudonym="cleo"))
    past = now() - timedelta(seconds=1)
    scene.store._write(lambda unit: unit.connection.execute(update(tables.lease).values(expires_at=past)) and None)
    assert scene.store.lease_overlap(scene.study.id, third.id, 60) == comparison


def test_overlap_takes_the_share_that_the_study_asks_for(scene: Any) -> None:
    scene.store._write(lambda unit: unit.connection.execute(update(tables.study).values(overlap=0.5)) and None)
    drawn = {}
    for _ in range(12):
        comparison = scene.judged()
        with scene.store._read() as connection:
            row = connection.execute(
                tables.comparison.select().where(tables.comparison.c.id == comparison.id)
            ).mappings()
            drawn[comparison.id] = row.one()["overlap_draw"]
    offered = set()
    while (comparison := scene.store.lease_overlap(scene.study.id, scene.ben.id, 60)) is not None:
        scene.store.add_judgment(scene.judgment(comparison, worker=scene.ben))
        offered.add(comparison.id)
    assert offered == {id for id, draw in drawn.items() if draw < 0.5}


def test_many_race_for_the_last_leases(scene: Any) -> None:
    wanted = {scene.judged().id for _ in range(2)}
    racers = [scene.store.add_worker(Worker(pseudonym=f"racer {number}")) for number in range(8)]
    barrier = Barrier(len(racers))

    def race(worker: Worker) -> str | None:
        barrier.wait()
        comparison = scene.store.lease_overlap(scene.study.id, worker.id, 60)
        return None if comparison is None else comparison.id

    with ThreadPoolExecutor(len(racers)) as pool:
        got = [id for id in pool.map(race, racers) if id is not None]
    assert sorted(got) == sorted(wanted)
