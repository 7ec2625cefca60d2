"""Decisions about workers, withdrawal of consent, the payment list, and what a search finds."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from prefloop.errors import DataError, NotFoundError, StateError
from prefloop.schema import ComparisonState, Worker
from prefloop.store import DecisionKind, Payment, Store, WorkerDecision
from prefloop.store.formats import export_file


def decide(store: Store, worker: Worker, kind: DecisionKind, reason: str = "because") -> WorkerDecision:
    return store.add_decision(WorkerDecision(worker_id=worker.id, kind=kind, reason=reason, by="Cam"))


def test_standing_follows_the_newest_decision(scene: Any) -> None:
    store, ada = scene.store, scene.ada
    assert store.worker_standing(ada.id) == "active"
    for kind, standing in (
        ("note", "active"),
        ("pause", "paused"),
        ("note", "paused"),
        ("resume", "active"),
        ("qualify", "active"),
        ("exclude", "excluded"),
        ("resume", "active"),
    ):
        decide(store, ada, kind)
        assert store.worker_standing(ada.id) == standing, kind
    assert [one.kind for one in store.decisions(ada.id)][:3] == ["note", "pause", "note"]
    assert store.worker_standing(scene.ben.id) == "active"


def test_a_decision_needs_a_reason_and_a_worker(scene: Any) -> None:
    with pytest.raises(DataError, match="0 characters"):
        decide(scene.store, scene.ada, "pause", "  ")
    with pytest.raises(NotFoundError):
        scene.store.add_decision(WorkerDecision(worker_id="none", kind="note", reason="x", by="Cam"))
    person = scene.store.add_worker(Worker(pseudonym="Cam", role="researcher"))
    with pytest.raises(StateError, match="is a researcher"):
        decide(scene.store, person, "exclude")


def test_decisions_and_payments_are_never_changed(scene: Any) -> None:
    decide(scene.store, scene.ada, "pause")
    for statement in ("UPDATE worker_decision SET reason = 'x'", "DELETE FROM worker_decision"):
        with pytest.raises((StateError, DBAPIError), match="append-only"):
            scene.store._write(lambda unit, statement=statement: unit.connection.execute(text(statement)))


def test_a_withdrawal_is_final_and_reaches_every_reader(scene: Any, tmp_path: Path) -> None:
    store = scene.store
    by_ada = scene.judged()  # Ada's conversation, which Ben judged too
    store.add_judgment(scene.judgment(by_ada, 7, scene.ben))
    assert len(list(store.pairs())) == 2

    decide(store, scene.ben, "withdraw")
    assert [pair.worker_id for pair in store.pairs()] == [scene.ada.id]
    assert [len(record.judgments) for record in store.records()] == [1]
    assert [len(batch.judgments) for batch in store.batches()] == [1]

    decide(store, scene.ada, "withdraw")
    assert list(store.pairs()) == []
    assert list(store.records(state=ComparisonState.JUDGED)) == []
    assert list(store.batches()) == []
    for format in ("hh-rlhf", "jsonl", "trl"):
        file = tmp_path / f"{format}.out"
        export_file(store, format, file)
        assert "boil an egg" not in file.read_text(encoding="utf-8")
    assert {store.worker_standing(person.id) for person in (scene.ada, scene.ben)} == {"withdrawn"}
    with pytest.raises(StateError, match="final"):
        decide(store, scene.ada, "resume")
    decide(store, scene.ada, "note")
    assert store.worker_standing(scene.ada.id) == "withdrawn"
    assert store.comparison(by_ada.id).state is ComparisonState.JUDGED  # the row stays


def bonus(scene: Any, key: str, minor_units: int = 250) -> Payment:
    return scene.store.add_payment(
        Payment(
            key=key,
            worker_id=scene.ada.id,
            study_id=scene.study.id,
            kind="bonus",
            minor_units=minor_units,
            reason="fine work",
            by="Cam",
        )
    )


def test_a_payment_with_a_known_key_is_made_once(scene: Any) -> None:
    first = bonus(scene, "one")
    assert bonus(scene, "one") == first
    bonus(scene, "two", 50)
    with pytest.raises(StateError, match="another payment"):
        bonus(scene, "one", 251)
    for wrong in (0, -5, 10_000_001):
        with pytest.raises(DataError, match="minor units"):
            bonus(scene, f"key {wrong}", wrong)
    (line,) = scene.store.earnings(scene.study.id)
    assert (line.bonus_minor_units, line.paid_minor_units) == (300, 0)


def test_time_is_what_lies_between_a_workers_doings(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begun at 0 s, asked at 30 s, judged at 90 s, the next conversation after a night: 90 s and the longest pause."""
    from prefloop.schema import Comparison, Conversation, Response, TreeMessage, now

    store, begin = scene.store, now()
    for start in (0.0, 36_000.0):
        at = begin + timedelta(seconds=start)
        conversation = store.add_conversation(
            Conversation(mode=scene.study.mode, study_id=scene.study.id, worker_id=scene.ada.id, created_at=at)
        )
        message = store.add_message(TreeMessage(conversation_id=conversation.id, role="user", text="Hello"))
        if start == 0.0:
            pair = store.add_comparison(
                Comparison(
                    conversation_id=conversation.id,
                    context_message_id=message.id,
                    turn=1,
                    response_a=Response(snapshot_id=scene.snapshot.id),
                    response_b=Response(snapshot_id=scene.snapshot.id),
                    mode=scene.study.mode,
                    tranche=scene.study.tranche,
                    study_id=scene.study.id,
                    worker_id=scene.ada.id,
                    created_at=at + timedelta(seconds=30),
                )
            )
            for response in (pair.response_a, pair.response_b):
                store.finish_response(response.id, "Eight minutes.", 3, "stop", now(), now())
            judgment = scene.judgment(pair).model_copy(update={"decided_at": at + timedelta(seconds=90)})
            store.add_judgment(judgment)
            store.end_conversation(conversation.id, "complete")
    (line,) = store.earnings(scene.study.id)
    assert line.worked_seconds == pytest.approx(30 + 60 + 600)  # 35,910 s of night count as ten minutes
    assert (line.tasks, line.judgments, line.pseudonym) == (1, 1, "ada")
    assert store.earnings(scene.study.id) == [line]


def test_figures_of_workers(scene: Any) -> None:
    for grade in (1, 2, 2, 8):
        scene.judged(grade)
    pair = scene.judged(5)
    own = next(one for one in scene.store.judgments(pair.id))
    scene.store.add_judgment(scene.judgment(pair, 1, revises=own.id))  # a correction counts once
    (ada,) = scene.store.worker_figures(scene.study.id)
    assert (ada.judgments, ada.clicked_a, ada.grades) == (5, 3, (1, 2, 0, 0, 1, 0, 0, 1))
    assert scene.store.worker_figures(scene.study.id, offset=1) == []
    assert scene.store.worker_figures(scene.study.id, scene.ben.id) == []
    with pytest.raises(NotFoundError):
        scene.store.worker_figures("none")


def test_a_search_takes_its_words_literally(scene: Any) -> None:
    for words in ("Boil 100% of it", "boil a_b", "nothing"):
        scene.conversation(words)
    found = scene.store.found_messages
    assert [one.text for one in found(scene.study.id, "BOIL")] == ["boil a_b", "Boil 100% of it"]
    assert [one.text for one in found(scene.study.id, "0%")] == ["Boil 100% of it"]
    assert [one.text for one in found(scene.study.id, "a_b")] == ["boil a_b"]
    newest, older = found(scene.study.id, limit=2)
    assert [one.text for one in found(scene.study.id, before=older.id)] == ["Boil 100% of it"]
    assert (newest.pseudonym, newest.role) == ("ada", "user")
    assert found(scene.study.id, worker_id=scene.ben.id) == []
