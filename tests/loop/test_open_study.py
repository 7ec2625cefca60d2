"""A study over what is deployed, as `prefloop serve --study NAME` opens it."""

from pathlib import Path

import pytest

from prefloop.errors import NotFoundError
from prefloop.loop.serving import open_study
from prefloop.schema import Mode, Snapshot
from prefloop.store import Store


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Store:
    return Store.open(sqlite_url)


def deploy(store: Store, name: str) -> Snapshot:
    snapshot = Snapshot(name=name, hash=name, path=str(Path("snapshots") / name))
    store.add_snapshot(snapshot)
    store.set_snapshot_state(snapshot.id, "deployed")
    return snapshot


def test_a_study_has_what_is_deployed_and_is_opened_once(sqlite_store: Store) -> None:
    with sqlite_store as store:
        with pytest.raises(NotFoundError, match="No snapshot is deployed"):
            open_study(store, "first")
        one = deploy(store, "one")
        alone = open_study(store, "first", Mode.RED_TEAM)
        assert ([share.snapshot_id for share in alone.snapshots], alone.compare) == ([one.id], "any")
        assert alone.mode == Mode.RED_TEAM

        two = deploy(store, "two")
        assert open_study(store, "first").id == alone.id
        both = open_study(store, "second")
        assert {share.snapshot_id for share in both.snapshots} == {one.id, two.id}
        assert both.compare == "distinct"
        assert [study.name for study in store.studies()] == ["first", "second"]
