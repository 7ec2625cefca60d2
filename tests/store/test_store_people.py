"""Invitations, workers and sessions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from prefloop.errors import DataError, NotFoundError, StateError
from prefloop.schema import Mode, Study, Tranche, Worker
from prefloop.store import Store


@pytest.fixture
def study(store: Store) -> Study:
    return store.add_study(Study(name="pilot", mode=Mode.HELPFUL, tranche=Tranche.BASE))


def test_one_persons_link_always_gives_the_same_worker(store: Store, study: Study) -> None:
    token = store.add_invitation(study.id, "worker", "ada", uses=1)
    worker, study_id = store.accept_invitation(token)
    assert (worker.pseudonym, worker.role, study_id) == ("ada", "worker", study.id)
    assert store.accept_invitation(token) == (worker, study.id)
    assert store.workers() == [worker]


def test_a_link_for_two_makes_two_workers_and_then_says_no(store: Store) -> None:
    token = store.add_invitation(None, "researcher", "team", uses=2)
    names = [store.accept_invitation(token)[0].pseudonym for _ in range(2)]
    assert names == ["team", "team-2"]
    with pytest.raises(StateError, match="All 2 places"):
        store.accept_invitation(token)


def test_a_link_without_limit_goes_on(store: Store) -> None:
    token = store.add_invitation(uses=None)
    assert len({store.accept_invitation(token)[0].id for _ in range(3)}) == 3


def test_the_last_place_goes_to_one_of_many_who_come_at_once(store: Store) -> None:
    token = store.add_invitation(uses=2)
    store.accept_invitation(token)

    def come(_: int) -> str | None:
        try:
            return store.accept_invitation(token)[0].id
        except StateError:
            return None

    with ThreadPoolExecutor(6) as pool:
        assert sum(outcome is not None for outcome in pool.map(come, range(6))) == 1
    assert len(store.workers()) == 2


def test_an_unknown_invitation_and_an_empty_one(store: Store) -> None:
    with pytest.raises(NotFoundError, match="ask the researcher"):
        store.accept_invitation("guess")
    with pytest.raises(StateError, match="lets nobody in"):
        store.add_invitation(uses=0)
    with pytest.raises(NotFoundError, match="no study 'none'"):
        store.add_invitation("none")


def test_a_session_lasts_until_it_ends_or_expires(store: Store) -> None:
    worker = store.add_worker(Worker(pseudonym="ada", is_simulated=True))
    token = store.add_session(worker.id, ttl_seconds=600)
    assert store.session_worker(token) == worker
    store.end_session(token)
    store.end_session(token)
    assert store.session_worker(token) is None
    assert store.session_worker(store.add_session(worker.id, ttl_seconds=0)) is None
    assert store.session_worker("guess") is None


def test_no_token_is_kept(store: Store) -> None:
    worker = store.add_worker(Worker(pseudonym="ada"))
    tokens = [store.add_invitation(), store.add_session(worker.id, 60)]
    with store._read() as connection:
        kept = str(
            [
                connection.execute(text(f"SELECT * FROM {table}")).all()
                for table in ("invitation", "session", "acceptance", "event")
            ]
        )
    assert not any(token in kept for token in tokens)


@pytest.mark.parametrize("pseudonym", ["nul \0", "half \ud800"])
def test_text_that_no_database_holds_is_refused(store: Store, pseudonym: str) -> None:
    with pytest.raises(DataError, match="The pseudonym holds"):
        store.add_worker(Worker.model_construct(**{**Worker(pseudonym="").model_dump(), "pseudonym": pseudonym}))
    assert store.workers() == []


def test_a_simulated_worker_is_known_before_they_come(store: Store, study: Study) -> None:
    token = store.add_invitation(study.id, pseudonym="robot", is_simulated=True)
    made = store.workers()
    assert [(worker.pseudonym, worker.is_simulated) for worker in made] == [("robot", True)]
    assert store.accept_invitation(token) == (made[0], study.id)
    assert len(store.workers()) == 1
    with pytest.raises(StateError, match="one use"):
        store.add_invitation(study.id, uses=None, is_simulated=True)
