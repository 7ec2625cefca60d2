"""Phases of a study, agreements, answers, tasks done: kept on both engines, never overwritten, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DatabaseError

from prefloop.errors import ConfigError, StateError
from prefloop.schema import Judgment, Mark, now
from prefloop.store import Agreement, Store, TaskAnswers
from prefloop.store.formats import export_file, import_file
from prefloop.study import StudyPhases, StudySettings


def test_phases_are_revisions_and_the_last_one_counts(scene: Any) -> None:
    store, study = scene.store, scene.study.id
    assert store.study_phases(study) == StudyPhases()
    store.set_study_phases(study, StudyPhases(tasks_per_worker=5, completion_code="C1"))
    last = store.set_study_phases(study, StudyPhases(tasks_per_worker=2, consent="Yes?", consent_version="2"))
    assert store.study_phases(study) == last
    noted = [event.payload["revision"] for event in store.events() if event.verb == "study.phases"]
    assert noted == [1, 2]


def test_another_text_under_an_old_version_is_refused(scene: Any) -> None:
    store, study = scene.store, scene.study.id
    store.set_study_phases(study, StudyPhases(consent="One", consent_version="1"))
    store.set_study_phases(study, StudyPhases(consent="Two", consent_version="2"))
    for text_, version in (("Three", "2"), ("Three", "1")):  # also not under a version from before the last
        with pytest.raises(StateError, match="new consent_version"):
            store.set_study_phases(study, StudyPhases(consent=text_, consent_version=version))
    store.set_study_phases(study, StudyPhases(consent="One", consent_version="1"))  # back to what it was
    assert store.study_phases(study).consent == "One"


def test_agreeing_twice_is_one_row_and_rows_stay_as_they_are(scene: Any, store_url: str) -> None:
    store = scene.store
    first = Agreement(worker_id=scene.ada.id, study_id=scene.study.id, kind="consent", version="1", text="Yes?")
    kept = store.add_agreement(first)
    again = Agreement(worker_id=scene.ada.id, study_id=scene.study.id, kind="consent", version="1", text="Yes?")
    assert store.add_agreement(again) == kept
    assert store.agreements(scene.ada.id, scene.study.id) == [first]
    assert store.agreements(scene.ben.id, scene.study.id) == []
    conversation = scene.conversation().conversation_id
    store.add_task_answers(TaskAnswers(conversation_id=conversation, worker_id=scene.ada.id, kind="goal"))
    engine = create_engine(store_url)
    for table in ("agreement", "task_answers"):
        for statement in (f"DELETE FROM {table}", f"UPDATE {table} SET id = 'x'"):
            with pytest.raises(DatabaseError, match="append-only"), engine.begin() as connection:
                connection.execute(text(statement))
    engine.dispose()


def test_the_latest_answers_count_and_only_on_own_conversations(scene: Any) -> None:
    store, conversation = scene.store, scene.conversation().conversation_id
    for rating in (2, 4):
        store.add_task_answers(
            TaskAnswers(
                conversation_id=conversation, worker_id=scene.ada.id, kind="closing", answers={"rating": rating}
            )
        )
    assert store.task_answers(conversation)["closing"].answers == {"rating": 4}
    with pytest.raises(StateError, match="another worker's"):
        store.add_task_answers(TaskAnswers(conversation_id=conversation, worker_id=scene.ben.id, kind="goal"))


def test_a_task_is_done_when_it_ended_with_a_judgment(scene: Any) -> None:
    store = scene.store
    judged, empty = scene.judged(), scene.done()
    assert store.tasks_done(scene.ada.id, scene.study.id) == 0  # nothing has ended
    store.end_conversation(judged.conversation_id, "complete")
    store.end_conversation(empty.conversation_id, "ended by the worker")
    assert store.tasks_done(scene.ada.id, scene.study.id) == 1
    assert store.tasks_done(scene.ben.id, scene.study.id) == 0


def test_marks_sources_wishes_and_answers_come_back_from_an_export(
    scene: Any, sqlite_store: Store, tmp_path: Path
) -> None:
    comparison = scene.done()
    judgment = Judgment(
        **{
            **scene.judgment(comparison).model_dump(),
            "marks": (Mark(side="a", start=0, end=5, tag="wrong_fact", quote="Eight"),),
            "is_checked": True,
            "checked_source": "the cookery book, p. 3",
            "go_on_with": "b",
        }
    )
    scene.store.add_judgment(judgment)
    answers = TaskAnswers(
        conversation_id=comparison.conversation_id,
        worker_id=scene.ada.id,
        kind="closing",
        questions=({"id": "rating", "text": "How good?"},),
        answers={"rating": 4, "comment": "kind"},
        answered_at=now(),
    )
    scene.store.add_task_answers(answers)
    assert scene.store.judgments(comparison.id) == [judgment]
    file = tmp_path / "all.jsonl"
    export_file(scene.store, "jsonl", file)
    with Store.open(f"sqlite:///{tmp_path}/other.db") as other:
        import_file(other, "jsonl", file)
        (record,) = other.records()
        assert record.judgments == (judgment,)
        assert record.conversation.answers == (answers,)
        assert list(other.records()) == list(scene.store.records())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"completion_url": "javascript:alert(1)"}, "https address"),
        ({"completion_url": "http://example.org"}, "https address"),
        ({"completion_url": "https://you@example.org"}, "https address"),
        ({"questions": [{"id": "q", "text": "?"}, {"id": "q", "text": "!"}]}, "'q' twice"),
        ({"tasks_per_worker": 0}, "greater than or equal to 1"),
        ({"completion_cod": "X"}, "did you mean 'completion_code'"),
    ],
)
def test_wrong_phases_are_refused_in_a_sentence(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        StudyPhases.load_values(settings)


def test_weights_stand_beside_snapshots() -> None:
    with pytest.raises(ConfigError, match="2 weights stand beside 1 snapshots"):
        StudySettings.load_values({"name": "s", "snapshots": ["base"], "weights": [1.0, 2.0]})
