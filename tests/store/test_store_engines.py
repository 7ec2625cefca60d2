"""Opening, migrating, group commit, and what the databases themselves refuse, on both engines."""

from __future__ import annotations

import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from prefloop.errors import StateError, UnavailableError
from prefloop.schema import Response, Worker, now
from prefloop.store import Store, migrations
from prefloop.store.database import Unit
from prefloop.store.people import insert_worker
from prefloop.store.rows import comparison_row, row_of
from prefloop.store.tables import metadata


def alembic_config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def test_what_was_written_is_there_after_opening_again(store_url: str) -> None:
    with Store.open(store_url) as first:
        worker = first.add_worker(Worker(pseudonym="ada"))
    with Store.open(store_url) as second:
        assert second.worker(worker.id) == worker
        assert [(e.verb, e.object_id) for e in second.events()] == [("worker.added", worker.id)]


def test_the_migrations_give_exactly_the_tables(store_url: str) -> None:
    engine = create_engine(store_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_the_named_head_is_the_newest_revision() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [migrations.HEAD]


def test_the_chain_goes_down_and_up_again(store_url: str) -> None:
    engine = create_engine(store_url)
    with engine.begin() as connection:
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(alembic_config(connection), "head")
    engine.dispose()
    with Store.open(store_url) as store:
        store.add_worker(Worker(pseudonym="ada"))


def test_a_newer_database_is_refused(store_url: str) -> None:
    engine = create_engine(store_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(UnavailableError, match=r"'9999'.*install a newer prefloop"):
        Store.open(store_url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "not a database URL"),
        ("mysql://root:secret@localhost/x", "not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///no/such/folder/prefloop.db", "does not exist"),
        ("sqlite:///{folder}/note.txt", "cannot be opened.*the file is a prefloop database"),
        ("postgresql://ada:secret@127.0.0.1:1/x", "cannot be opened.*that the server runs"),
    ],
)
def test_a_wrong_url_is_one_sentence_without_the_password(url: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("not a database, but long enough to look like one " * 50)
    with pytest.raises(UnavailableError, match=says) as caught:
        Store.open(url.format(folder=tmp_path))
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_two_processes_may_migrate_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    with ThreadPoolExecutor(4) as pool:
        for store in pool.map(lambda _: Store.open(url), range(4)):
            assert store.events() == []
            store.close()


def test_a_new_file_that_somebody_writes_to_is_waited_for(tmp_path: Path) -> None:
    """SQLite refuses the change to a write-ahead log at once while another process holds the file."""
    file = tmp_path / "new.db"
    other = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(file).execute("PRAGMA journal_mode=WAL")
    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(Store.open, f"sqlite:///{file}")
        with pytest.raises(TimeoutError):
            opened.result(0.3)
        other.execute("COMMIT")
        other.close()
        with opened.result(30) as store:
            assert store.events() == []


def test_sqlite_is_durable_and_its_readers_cannot_write(sqlite_url: str) -> None:
    with Store.open(sqlite_url) as store:
        with store._read() as connection:
            with pytest.raises(OperationalError, match="readonly"):
                connection.execute(text("DELETE FROM worker"))
            assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        settings = store._write(
            lambda unit: [
                unit.connection.execute(text(f"PRAGMA {name}")).scalar() for name in ("synchronous", "foreign_keys")
            ]
        )
        assert settings == [2, 1]  # 2 is FULL


class _Boom(Exception):
    pass


def test_units_that_wait_together_share_a_commit_and_fail_alone(sqlite_url: str) -> None:
    commits: list[Any] = []
    started, may_go = threading.Event(), threading.Event()

    def hold(_: Unit) -> bool:
        started.set()
        return may_go.wait(30)

    def add(store: Store, number: int) -> None:
        def work(unit: Unit) -> None:
            insert_worker(unit, Worker(pseudonym=f"w{number}"))
            if number % 2:
                raise _Boom(number)

        store._write(work)

    with Store.open(sqlite_url) as store, ThreadPoolExecutor(10) as pool:
        event.listen(store._engine, "commit", commits.append)
        waiting = store._writer._queue  # type: ignore[union-attr]
        first = pool.submit(store._write, hold)
        assert started.wait(30)  # the first unit runs, and holds the writer until may_go
        others = [pool.submit(add, store, number) for number in range(8)]
        while waiting.qsize() < 8:
            time.sleep(0.01)
        may_go.set()
        assert first.result() is True
        failures = [str(error) for future in others if (error := future.exception()) is not None]
        assert failures == ["1", "3", "5", "7"]
        assert sorted(worker.pseudonym for worker in store.workers()) == ["w0", "w2", "w4", "w6"]
        assert len(store.events()) == 4
    # One commit for the first unit and one for the eight that waited together.
    assert len(commits) == 2


def test_a_closed_store_says_so(sqlite_url: str) -> None:
    store = Store.open(sqlite_url)
    store.close()
    with pytest.raises(StateError, match="closed"):
        store.add_worker(Worker(pseudonym="ada"))


def test_many_threads_write_and_events_rise_without_gaps(store: Store) -> None:
    def write(thread: int) -> None:
        for number in range(20):
            store.log("test", "noted", f"{thread}.{number}")

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(write, range(6)))
    ids = [noted.id for noted in store.events()]
    assert len(ids) == 120
    assert ids == sorted(set(ids))
    assert [noted.id for noted in store.events(after=ids[9], limit=5)] == ids[10:15]


def test_judgments_and_events_cannot_be_changed(scene: Any, store_url: str) -> None:
    scene.judged()
    engine = create_engine(store_url)
    for statement in (
        "UPDATE judgment SET grade = 8",
        "DELETE FROM judgment",
        "UPDATE event SET actor = 'nobody'",
        "DELETE FROM event",
    ):
        with pytest.raises(DBAPIError, match="append-only"), engine.begin() as connection:
            connection.execute(text(statement))
    engine.dispose()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("grade", 9),
        ("grade", 0),
        ("clicked", "c"),
        ("preferred", "left"),
        ("comparison_id", "none"),
        ("worker_id", "x"),
    ],
)
def test_the_database_itself_refuses_bad_judgments(scene: Any, column: str, value: object) -> None:
    row = {**scene.judgment(scene.done()).model_dump(), column: value}
    _refuses(scene.store, "judgment", row)


def test_the_database_itself_refuses_a_second_unrevised_judgment(scene: Any) -> None:
    comparison = scene.judged()
    _refuses(scene.store, "judgment", scene.judgment(comparison).model_dump())


def test_the_database_itself_refuses_two_revisions_of_one_judgment(scene: Any) -> None:
    comparison = scene.judged()
    first = scene.store.judgments(comparison.id)[0]
    scene.store.add_judgment(scene.judgment(comparison, revises=first.id))
    _refuses(scene.store, "judgment", scene.judgment(comparison, revises=first.id).model_dump())


def _refuses(store: Store, table: str, row: dict[str, Any]) -> None:
    with pytest.raises(StateError, match="refused the change") as caught:
        store._write(lambda unit: unit.insert(metadata.tables[table], row))
    assert isinstance(caught.value.__cause__, IntegrityError)


def test_the_database_itself_refuses_a_second_live_comparison_and_lease(scene: Any) -> None:
    first, elsewhere = scene.judged(), scene.judged()
    row = comparison_row(elsewhere, overlap_draw=0.0)
    same_turn = {**row, "id": "new", "conversation_id": first.conversation_id, "turn": first.turn}
    unused = [Response(state="done"), Response(state="done")]
    scene.store._write(lambda unit: unit.insert(metadata.tables["response"], *(row_of(one) for one in unused)))
    same_turn |= {"response_a_id": unused[0].id, "response_b_id": unused[1].id}
    _refuses(scene.store, "comparison", same_turn)
    scene.store._write(lambda unit: unit.insert(metadata.tables["comparison"], {**same_turn, "state": "void"}))

    scene.store.lease_overlap(scene.study.id, scene.ben.id, 60)
    lease = {"study_id": scene.study.id, "expires_at": now()}
    _refuses(scene.store, "lease", {**lease, "comparison_id": first.id, "worker_id": scene.ada.id})
    _refuses(scene.store, "lease", {**lease, "comparison_id": elsewhere.id, "worker_id": scene.ben.id})
