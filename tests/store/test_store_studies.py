"""Studies and snapshots."""

from __future__ import annotations

import pytest

from prefloop.errors import NotFoundError, StateError
from prefloop.schema import Message, Mode, SamplingSettings, Snapshot, SnapshotShare, Study, Tranche
from prefloop.store import Store


def snapshot(name: str, **fields: object) -> Snapshot:
    return Snapshot(name=name, hash=f"hash of {name}", path=f"snapshots/{name}", **fields)  # type: ignore[arg-type]


def test_a_snapshot_comes_back_as_it_was_by_id_and_by_name(store: Store) -> None:
    full = snapshot(
        "policy-1",
        prompt=(Message(role="system", text="Be kind."), Message(role="user", text="é\n\t")),
        sampling=SamplingSettings(temperature=0.5, stop=("a", "b")),
        best_of_k=16,
        preference_model_id="pm",
        base="hub/model",
        run_id="run",
    )
    store.add_snapshot(full)
    assert store.snapshot(full.id) == full
    assert store.snapshot("policy-1") == full


def test_an_unknown_snapshot_names_the_nearest(store: Store) -> None:
    with pytest.raises(NotFoundError, match="there is none yet"):
        store.snapshot("polcy-1")
    for name in ("policy-1", "pm-a"):
        store.add_snapshot(snapshot(name))
    with pytest.raises(NotFoundError, match="did you mean 'policy-1'"):
        store.snapshot("polcy-1")


def test_a_name_is_taken_once(store: Store) -> None:
    store.add_snapshot(snapshot("policy-1"))
    with pytest.raises(StateError, match="choose another name"):
        store.add_snapshot(snapshot("policy-1"))


def test_snapshots_are_listed_by_kind_and_state(store: Store) -> None:
    policy = store.add_snapshot(snapshot("policy-1"))
    pm = store.add_snapshot(snapshot("pm-a", kind="preference_model"))
    deployed = store.set_snapshot_state(policy.id, "deployed")
    assert deployed == policy.model_copy(update={"state": "deployed"})
    assert store.snapshots() == [deployed, pm]
    assert store.snapshots(kind="preference_model") == [pm]
    assert store.snapshots(kind="policy", state="deployed") == [deployed]
    assert store.snapshots(state="retired") == []


def test_a_study_keeps_its_shares_in_order_and_each_change_is_a_revision(store: Store) -> None:
    one, two = (store.add_snapshot(snapshot(name)) for name in ("one", "two"))
    shares = (SnapshotShare(snapshot_id=two.id, weight=0.25), SnapshotShare(snapshot_id=one.id, weight=3))
    study = store.add_study(
        Study(name="pilot", mode=Mode.RED_TEAM, tranche=Tranche.ONLINE, compare="distinct", snapshots=shares)
    )
    assert store.study(study.id) == study
    assert store.set_study_snapshots(study.id, []).snapshots == ()
    assert store.set_study_snapshots(study.id, shares[:1]).snapshots == shares[:1]
    assert [e.payload for e in store.events() if e.verb == "study.snapshots"] == [
        {"shares": []},
        {"shares": [{"snapshot_id": two.id, "weight": 0.25}]},
    ]
    assert store.studies() == [store.study(study.id)]


def test_a_study_needs_registered_snapshots_and_nothing_is_half_done(store: Store) -> None:
    wrong = Study(name="pilot", mode=Mode.HELPFUL, tranche=Tranche.BASE, snapshots=(SnapshotShare(snapshot_id="no"),))
    with pytest.raises(NotFoundError, match="no snapshot 'no'"):
        store.add_study(wrong)
    assert store.studies() == []
    assert store.events() == []


def test_a_closed_study_stays_closed(store: Store) -> None:
    study = store.add_study(Study(name="pilot", mode=Mode.HELPFUL, tranche=Tranche.BASE))
    assert store.set_study_state(study.id, "paused").state == "paused"
    assert store.set_study_state(study.id, "closed").state == "closed"
    with pytest.raises(StateError, match="add a new study"):
        store.set_study_state(study.id, "open")
