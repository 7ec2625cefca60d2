"""A study's places: as many comparisons as its target and not one more, also when workers race; credited time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from prefloop.errors import DataError, FullError, NotFoundError, StateError
from prefloop.schema import Comparison, ComparisonState, Judgment, now
from prefloop.store import PlacesLeft, Store, WorkerReport, tables


def limit(scene: Any, target: int) -> None:
    scene.store._write(
        lambda unit: unit.connection.execute(update(tables.study).values(target_comparisons=target)) and None
    )


def held_since(scene: Any, comparison: Comparison, seconds: float) -> None:
    from prefloop.store.turn_tables import study_place

    past = now() - timedelta(seconds=seconds)
    scene.store._write(
        lambda unit: (
            unit.connection.execute(
                update(study_place).where(study_place.c.comparison_id == comparison.id).values(taken_at=past)
            )
            and None
        )
    )


def test_a_study_takes_as_many_comparisons_as_its_target(scene: Any) -> None:
    assert scene.store.places_left(scene.study.id, 60) is None  # no target, no end
    scene.comparison()
    limit(scene, 3)
    kept = [scene.judged(), scene.done(), scene.comparison()]
    assert scene.store.places_left(scene.study.id, 60) == PlacesLeft(free=0, held=2)
    with pytest.raises(FullError, match="all the comparisons of its target"):
        scene.comparison()
    assert len(scene.store.latest_comparisons(scene.study.id)) == 4  # nothing of the refused one is kept
    scene.store.fail_response(kept[2].response_a.id, "broken")  # a void pair leaves its place
    assert scene.store.places_left(scene.study.id, 60) == PlacesLeft(free=1, held=1)
    scene.judged()
    with pytest.raises(FullError):
        scene.comparison()


def test_a_pair_that_nobody_judges_makes_room_where_it_is_needed(scene: Any) -> None:
    limit(scene, 2)
    judged, waiting = scene.judged(), scene.done()
    held_since(scene, judged, 100)
    held_since(scene, waiting, 100)
    assert scene.store.places_left(scene.study.id, 101) == PlacesLeft(free=0, held=1)
    assert scene.store.places_left(scene.study.id, 99) == PlacesLeft(free=1, held=0)
    context = scene.conversation()
    fresh = scene.store.add_comparison(
        Comparison(
            **{
                **waiting.model_dump(exclude={"id", "response_a", "response_b"}),
                "conversation_id": context.conversation_id,
                "context_message_id": context.id,
                "response_a": {},
                "response_b": {},
            }
        ),
        99,
    )
    assert scene.store.comparison(waiting.id).void_reason.startswith("abandoned")
    assert scene.store.comparison(judged.id).state is ComparisonState.JUDGED
    assert scene.store.comparison(fresh.id).state is ComparisonState.OPEN
    assert scene.store.time_credits(scene.study.id) == []  # not our fault


def test_the_database_itself_refuses_a_place_above_the_target(scene: Any) -> None:
    limit(scene, 1)
    scene.judged()
    place = f"('{scene.study.id}', 2, NULL, NULL)"
    with pytest.raises(StateError, match="the study is full"):
        scene.store._write(lambda unit: unit.connection.execute(text(f"INSERT INTO study_place VALUES {place}")))


def test_many_threads_race_for_the_last_places(scene: Any) -> None:
    limit(scene, 5)
    contexts = [scene.conversation() for _ in range(16)]
    together = threading.Barrier(16)

    def ask(context: Any) -> bool:
        together.wait()
        try:
            scene.comparison(context)
        except FullError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(ask, contexts)) == 5
    assert scene.store.progress(scene.study.id).comparisons[ComparisonState.OPEN] == 5


def test_two_processes_race_for_the_last_place(scene: Any, store_url: str) -> None:
    """A second `Store` on the same database is what a second process has: its own connections and its own writer."""
    for target in range(1, 9):
        limit(scene, target)
        contexts = [scene.conversation(), scene.conversation()]
        together = threading.Barrier(2)
        with Store.open(store_url) as other:

            def ask(store: Store, context: Any, together: threading.Barrier = together) -> bool:
                comparison = scene_comparison(scene, context)
                together.wait()
                try:
                    store.add_comparison(comparison)
                except FullError:
                    return False
                return True

            with ThreadPoolExecutor(2) as pool:
                won = list(pool.map(ask, (scene.store, other), contexts))
        assert sorted(won) == [False, True]


def scene_comparison(scene: Any, context: Any) -> Comparison:
    """A comparison that is not in the store yet."""
    return Comparison.model_validate(
        {
            "conversation_id": context.conversation_id,
            "context_message_id": context.id,
            "turn": 1,
            "response_a": {},
            "response_b": {},
            "mode": "helpful",
            "tranche": "base",
            "study_id": scene.study.id,
            "worker_id": scene.ada.id,
        }
    )


def test_a_late_second_opinion_is_refused_once_somebody_else_has_the_comparison(scene: Any) -> None:
    store, study = scene.store, scene.study.id
    comparison = scene.judged()
    third = store.add_worker(scene.ben.model_copy(update={"id": "cleo", "pseudonym": "cleo"}))
    store.lease_overlap(study, scene.ben.id, 60)
    past = now() - timedelta(seconds=1)
    store._write(lambda unit: unit.connection.execute(update(tables.lease).values(expires_at=past)) and None)
    store.lease_overlap(study, third.id, 60)
    with pytest.raises(StateError, match="not kept for this worker"):
        store.add_judgment(scene.judgment(comparison, worker=scene.ben), needs_lease=True)
    first = store.add_judgment(scene.judgment(comparison, worker=third), needs_lease=True)
    store.add_judgment(scene.judgment(comparison, 7, worker=third, revises=first.id), needs_lease=True)
    assert len({judgment.worker_id for judgment in store.judgments(comparison.id)}) == 2


def test_the_time_of_a_broken_pair_is_credited_and_that_of_a_skipped_one_is_not(scene: Any) -> None:
    broken, skipped, lost = scene.comparison(), scene.comparison(), scene.comparison()
    scene.store.fail_response(broken.response_b.id, "out of memory")
    scene.store.fail_response(broken.response_a.id, "out of memory")  # once
    scene.store.void_comparison(skipped.id, "skipped")
    scene.store.void_unfinished("restarted")
    credits = {credit.comparison_id: credit for credit in scene.store.time_credits(scene.study.id)}
    assert set(credits) == {broken.id, lost.id}
    for comparison in (broken, lost):
        credit = credits[comparison.id]
        assert credit.worker_id == scene.ada.id
        assert credit.seconds == pytest.approx((credit.credited_at - comparison.created_at).total_seconds())
    assert "out of memory" in credits[broken.id].reason
    with pytest.raises((StateError, DBAPIError), match="append-only"):
        scene.store._write(lambda unit: unit.connection.execute(text("UPDATE time_credit SET seconds = 9999")) and None)


def test_an_edit_is_a_comparison_that_training_learns_from(scene: Any) -> None:
    judged = scene.judged(grade=7)
    edit = scene.store.add_edit(judged.id, "b", "I do not know, ask a cook.", scene.ada.id, input_device="keyboard")
    assert {edit.response_a.text, edit.response_b.text} == {judged.response_b.text, "I do not know, ask a cook."}
    assert edit.edit_of == judged.response_b.id
    judgments: list[Judgment] = scene.store.judgments(edit.id)
    assert [(j.question, j.grade, j.input_device) for j in judgments] == [("edited", None, "keyboard")]
    first, second = scene.store.pairs()
    assert (first.chosen, first.rejected) == ("No idea.", "Eight minutes.")
    assert (second.chosen, second.rejected) == ("I do not know, ask a cook.", "No idea.")
    assert second.context == first.context
    assert (second.chosen_snapshot_id, second.rejected_snapshot_id) == (None, scene.snapshot.id)
    assert scene.store.progress(scene.study.id).comparisons[ComparisonState.JUDGED] == 1
    assert scene.store.lease_overlap(scene.study.id, scene.ben.id, 60).id == judged.id
    scene.store.release_lease(judged.id, scene.ben.id)
    for worker, side, words, error in (
        (scene.ada, "b", "Again", StateError),
        (scene.ben, "a", "Not mine", StateError),
        (scene.ada, "a", " Eight minutes. ", DataError),
        (scene.ada, "a", "  ", DataError),
    ):
        with pytest.raises(error):
            scene.store.add_edit(judged.id, side, words, worker.id)
    with pytest.raises(StateError):
        scene.store.add_edit(edit.id, "a", "An edit of an edit", scene.ada.id)
    with pytest.raises(StateError):
        scene.store.add_edit(scene.done().id, "a", "Before it is judged", scene.ada.id)


def test_the_side_of_an_edit_is_a_fair_coin(scene: Any) -> None:
    edits = [scene.store.add_edit(scene.judged().id, "a", "Better", scene.ada.id) for _ in range(14)]
    sides = [judgment.clicked for edit in edits for judgment in scene.store.judgments(edit.id)]
    assert set(sides) == {"a", "b"}  # 14 fair coins agree once in 8192 runs


def test_reports_are_kept_newest_first(scene: Any) -> None:
    comparison = scene.judged()
    first = WorkerReport(worker_id=scene.ada.id, study_id=scene.study.id, kind="broken", text="It froze")
    second = first.model_copy(update={"id": "z", "kind": "harmful", "comparison_id": comparison.id})
    for report in (first, second):
        scene.store.add_report(report)
    assert scene.store.reports(scene.study.id) == [second, first]
    assert scene.store.reports(scene.study.id, before="z") == [first]
    with pytest.raises(NotFoundError):
        scene.store.add_report(first.model_copy(update={"comparison_id": "none"}))
