"""Accounts of researchers: links that are good once, roles, sessions, tokens."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from prefloop.errors import DataError, NotFoundError, StateError
from prefloop.schema import Worker
from prefloop.store import AccountRole, Researcher, Store


def made(store: Store, name: str = "Ada", role: AccountRole = "owner") -> Researcher:
    return store.use_account_link(store.add_account_link(role, 60), name, "hash")


def test_a_link_makes_one_account_and_is_used_up(store: Store) -> None:
    assert not store.has_owner()
    token = store.add_account_link("owner", 60)
    assert store.account_link(token).role == "owner"
    ada = store.use_account_link(token, "  Ada   L. ", "hash")
    assert (ada.name, ada.role, ada.has_account) == ("Ada L.", "owner", True)
    assert store.has_owner()
    for again in (store.account_link, lambda one: store.use_account_link(one, "Eve", "hash")):
        with pytest.raises(NotFoundError, match="not good any more"):
            again(token)
    assert [account.name for account in store.accounts()] == ["Ada L."]


def test_one_link_lets_one_of_many_in(store: Store) -> None:
    token = store.add_account_link("researcher", 60)

    def come(place: int) -> bool:
        try:
            store.use_account_link(token, f"person {place}", "hash")
        except NotFoundError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(come, range(8))) == 1
    assert len(store.accounts()) == 1


def test_a_new_owners_link_replaces_the_unused_one(store: Store) -> None:
    first, second = store.add_account_link("owner", 60), store.add_account_link("owner", 60)
    with pytest.raises(NotFoundError):
        store.account_link(first)
    others = [store.add_account_link("reviewer", 60) for _ in range(2)]  # two people may be invited at once
    assert all(store.account_link(token).role == "reviewer" for token in others)
    assert store.account_link(second).role == "owner"


def test_links_end(store: Store) -> None:
    with pytest.raises(NotFoundError, match="not good"):
        store.account_link(store.add_account_link("owner", -1))
    with pytest.raises(NotFoundError):
        store.account_link("never made")


def test_names_are_one_in_upper_and_lower_case(store: Store) -> None:
    made(store, "Änne")
    with pytest.raises(StateError, match="'äNNE' is taken"):
        made(store, "äNNE", "reviewer")
    known = store.password_hash(" ÄNNE ")
    assert known is not None
    assert (known[0].name, known[1]) == ("Änne", "hash")
    assert store.password_hash("nobody") is None
    for name in ("", "   ", "x" * 61):
        with pytest.raises(DataError, match="1 to 60"):
            made(store, name, "reviewer")


def test_a_link_for_a_new_password_ends_the_sessions(store: Store) -> None:
    ada = made(store)
    session = store.add_session(ada.id, 60)
    assert store.session_researcher(session) == ada
    token = store.add_account_link("reviewer", 60, ada.id)  # the role stays the account's own
    assert (store.account_link(token).account_name, store.account_link(token).role) == ("Ada", "owner")
    assert store.use_account_link(token, "not read", "another hash") == ada
    assert store.session_researcher(session) is None
    assert store.password_hash("ada") == (ada, "another hash")


def test_a_better_hash_of_the_same_password_ends_nothing(store: Store) -> None:
    ada = made(store)
    session = store.add_session(ada.id, 60)
    store.set_password_hash(ada.id, "stronger", ends_sessions=False)
    assert store.session_researcher(session) == ada
    store.set_password_hash(ada.id, "other password")
    assert store.session_researcher(session) is None


def test_the_last_owner_stays(store: Store) -> None:
    ada = made(store)
    for change in (lambda: store.set_account_role(ada.id, "reviewer"), lambda: store.end_account(ada.id)):
        with pytest.raises(StateError, match="last owner"):
            change()
    ben = made(store, "Ben")
    store.set_account_role(ada.id, "reviewer")
    assert [account.role for account in store.accounts()] == ["reviewer", "owner"]
    with pytest.raises(StateError, match="last owner"):
        store.end_account(ben.id)


def test_an_ended_account_opens_nothing(store: Store) -> None:
    made(store)
    ben = made(store, "Ben", "researcher")
    session, token = store.add_session(ben.id, 60), store.add_api_token(ben.id, "script", 60)
    assert store.token_researcher(token) == ben
    store.end_account(ben.id)
    assert store.session_researcher(session) is None
    assert store.token_researcher(token) is None
    assert store.password_hash("ben") is None
    with pytest.raises(NotFoundError, match="no account"):
        store.end_account(ben.id)
    with pytest.raises(NotFoundError):
        store.add_account_link("researcher", 60, ben.id)


def test_sessions_of_the_researchers_side(store: Store) -> None:
    ada = made(store)
    guest = store.add_worker(Worker(pseudonym="guest", role="researcher"))
    worker = store.add_worker(Worker(pseudonym="worker"))
    known = store.session_researcher(store.add_session(guest.id, 60))
    assert known == Researcher(id=guest.id, name="guest", role="researcher", has_account=False)
    assert store.session_researcher(store.add_session(worker.id, 60)) is None
    assert store.session_researcher(store.add_session(ada.id, -1)) is None
    sessions = [store.add_session(ada.id, 60) for _ in range(2)]
    store.end_sessions(ada.id)
    assert [store.session_researcher(session) for session in sessions] == [None, None]


def test_tokens_are_kept_as_hashes_and_end(store: Store) -> None:
    ada, ben = made(store), made(store, "Ben", "reviewer")
    token = store.add_api_token(ada.id, "nightly", 60)
    store.add_api_token(ada.id, "old", -1)
    (kept,) = store.api_tokens(ada.id)
    assert kept.label == "nightly"
    assert store.token_researcher(token) == ada
    with pytest.raises(NotFoundError):
        store.end_api_token(ben.id, kept.id)  # another one's
    store.end_api_token(ada.id, kept.id)
    assert store.token_researcher(token) is None
    with store._read() as connection:
        for table in ("api_token", "account_link", "event"):
            assert token not in str(connection.execute(text(f"SELECT * FROM {table}")).all())
