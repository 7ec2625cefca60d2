"""What the pages ask of the store, on both engines: where a conversation stands, who may see what, counts and lists."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from prefloop.errors import NotFoundError
from prefloop.schema import (
    Comparison,
    Conversation,
    Judgment,
    Mode,
    Response,
    Snapshot,
    SnapshotShare,
    Study,
    Tranche,
    TreeMessage,
    Worker,
)
from prefloop.store import Store


@pytest.fixture
def study(store: Store) -> Study:
    snapshot = store.add_snapshot(Snapshot(name="base", hash="h", path="p"))
    shares = (SnapshotShare(snapshot_id=snapshot.id),)
    return store.add_study(
        Study(
            name="s", mode=Mode.HELPFUL, tranche=Tranche.BASE, snapshots=shares, overlap=1.0, turns_per_conversation=9
        )
    )


@pytest.fixture
def worker(store: Store) -> Worker:
    return store.add_worker(Worker(pseudonym="kite"))


def a_pair(store: Store, study: Study, conversation: Conversation, message: TreeMessage, turn: int = 1) -> Comparison:
    sides = [Response(snapshot_id=study.snapshots[0].snapshot_id) for _ in "ab"]
    return store.add_comparison(
        Comparison(
            conversation_id=conversation.id,
            context_message_id=message.id,
            turn=turn,
            response_a=sides[0],
            response_b=sides[1],
            mode=study.mode,
            tranche=study.tranche,
            study_id=study.id,
            worker_id=conversation.worker_id,
        )
    )


def a_conversation(store: Store, study: Study, worker: Worker) -> tuple[Conversation, TreeMessage]:
    conversation = store.add_conversation(Conversation(mode=study.mode, study_id=study.id, worker_id=worker.id))
    return conversation, store.add_message(TreeMessage(conversation_id=conversation.id, role="user", text="Hello"))


def finish(store: Store, pair: Comparison) -> None:
    for response in (pair.response_a, pair.response_b):
        store.finish_response(response.id, "text", 1, "stop", None)


def judge(store: Store, pair: Comparison, worker: Worker, grade: int, revises: str | None = None) -> Judgment:
    clicked = "a" if grade <= 4 else "b"
    return store.add_judgment(
        Judgment.model_validate(
            {
                "comparison_id": pair.id,
                "worker_id": worker.id,
                "question": "more_helpful",
                "grade": grade,
                "clicked": clicked,
                "preferred": clicked,
                "revises": revises,
            }
        )
    )


def test_where_a_conversation_stands(store: Store, study: Study, worker: Worker) -> None:
    conversation, message = a_conversation(store, study, worker)
    first = a_pair(store, study, conversation, message)
    store.void_comparison(first.id, "skipped")
    pair = a_pair(store, study, conversation, message)
    finish(store, pair)
    judge(store, pair, worker, 7)
    reply = store.continue_with(pair.id, "b")
    standing = store.standing(conversation.id)
    assert not standing.has_ended
    assert [item.id for item in standing.messages] == [message.id, reply.id]
    assert [(item.id, item.state.value) for item in standing.comparisons] == [(first.id, "void"), (pair.id, "judged")]
    store.end_conversation(conversation.id, "complete")
    assert store.standing(conversation.id).has_ended
    assert store.conversation_count(worker.id, study.id) == 1
    with pytest.raises(NotFoundError):
        store.standing("none")


def test_who_may_join(store: Store, study: Study, worker: Worker) -> None:
    other = store.add_study(Study(name="t", mode=Mode.RED_TEAM, tranche=Tranche.BASE))
    invited, _ = store.accept_invitation(store.add_invitation(study.id))
    general, _ = store.accept_invitation(store.add_invitation(None))

    def joins(person: Worker) -> Iterable[bool]:
        return [store.may_join(person.id, item.id) for item in (study, other)]

    assert joins(invited) == [True, False]
    assert joins(general) == [True, True]
    assert joins(worker) == [True, True]  # added without an invitation


def test_a_lease_is_held_until_it_ends_or_is_used(store: Store, study: Study, worker: Worker) -> None:
    conversation, message = a_conversation(store, study, worker)
    pair = a_pair(store, study, conversation, message)
    finish(store, pair)
    judge(store, pair, worker, 1)
    second, third = (store.add_worker(Worker(pseudonym=name)) for name in ("two", "three"))
    assert not store.holds_lease(pair.id, second.id)
    assert store.lease_overlap(study.id, second.id, 60.0) is not None
    assert store.holds_lease(pair.id, second.id)
    assert not store.holds_lease(pair.id, third.id)
    judge(store, pair, second, 8)
    assert store.holds_lease(pair.id, second.id)  # the lease is gone; who judged may look and correct
    assert store.lease_overlap(study.id, third.id, 60.0) is None


def test_a_lease_that_has_run_out_is_not_held(store: Store, study: Study, worker: Worker) -> None:
    conversation, message = a_conversation(store, study, worker)
    pair = a_pair(store, study, conversation, message)
    finish(store, pair)
    judge(store, pair, worker, 1)
    late = store.add_worker(Worker(pseudonym="late"))
    assert store.lease_overlap(study.id, late.id, -1.0) is not None
    assert not store.holds_lease(pair.id, late.id)


def test_counts_and_latest(store: Store, study: Study, worker: Worker) -> None:
    other = store.add_worker(Worker(pseudonym="sim", is_simulated=True))
    pairs = []
    for person, grade in ((worker, 3), (worker, 8), (other, 5), (other, None)):
        conversation, message = a_conversation(store, study, person)
        pair = a_pair(store, study, conversation, message)
        pairs.append(pair)
        if grade is None:
            store.void_comparison(pair.id, "skipped")
        else:
            finish(store, pair)
            judge(store, pair, person, grade)
    again = judge(store, pairs[0], worker, 2, revises=store.judgments(pairs[0].id)[-1].id)
    counts = store.study_counts(study.id)
    assert [(item.pseudonym, item.is_simulated, item.judgments) for item in counts.workers] == [
        ("kite", False, 2),  # a correction is not one more judgment
        ("sim", True, 1),
    ]
    assert counts.workers[0].last_at == again.decided_at
    assert counts.void_reasons == {"skipped": 1}
    assert counts.responses == {study.snapshots[0].snapshot_id: 6}  # two for each of the three finished pairs
    assert sum(counts.minutes) == 4
    assert len(counts.minutes) == 60
    latest = store.latest_comparisons(study.id, limit=3)
    assert [(item.comparison.id, item.grade, item.pseudonym) for item in latest] == [
        (pairs[3].id, None, None),
        (pairs[2].id, 5, "sim"),
        (pairs[1].id, 8, "kite"),
    ]
    older = store.latest_comparisons(study.id, before=latest[-1].comparison.id)
    assert [(item.comparison.id, item.grade) for item in older] == [(pairs[0].id, 2)]
    with pytest.raises(NotFoundError):
        store.study_counts("none")
