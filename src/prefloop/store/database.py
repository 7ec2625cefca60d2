"""Opening a database and running units of work on it, on SQLite and PostgreSQL alike. Knows no table but the events.

`Database._write` runs one unit in a transaction together with its events; `Database._read` lends a connection that
cannot write (SQLite) or runs a plain transaction (PostgreSQL). Generation never happens inside either.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, Table, create_engine, event, insert, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import DataError as SqlDataError

from prefloop.errors import DataError, StateError, UnavailableError
from prefloop.schema import now
from prefloop.store import migrations, tables
from prefloop.store.writer import CheckpointThread, WriterThread

T = TypeVar("T")

BUSY_TIMEOUT_SECONDS = 60
"""How long a write waits for another process, a long import say, that writes to the same SQLite file."""
_BUSY_PAUSE_SECONDS = 0.02
_EVENTS_LOCK = 0x70726566  # advisory lock on PostgreSQL: events get their numbers in order of commit
_RETRIES = 5
_RETRY_STATES = ("40001", "40P01")  # serialization failure, deadlock
_dumps = partial(json.dumps, ensure_ascii=False, allow_nan=False)


class Unit:
    """One unit of work: a connection inside a transaction, and the events that are written at its end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._events: list[dict[str, Any]] = []

    def insert(self, table: Table, *rows: dict[str, Any]) -> None:
        """Inserts rows, many in one statement."""
        if rows:
            self.connection.execute(insert(table), list(rows))

    def log(self, actor: str, verb: str, object_id: str, **payload: Any) -> None:
        """Notes what happened; written with the unit or not at all."""
        self._events.append({"at": now(), "actor": actor, "verb": verb, "object_id": object_id, "payload": payload})

    def finish(self) -> None:
        """Writes the events, last, because on PostgreSQL their lock is held until the commit."""
        if self._events and self.connection.dialect.name == "postgresql":
            self.connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _EVENTS_LOCK})
        self.insert(tables.event, *self._events)


class Database:
    """An open, migrated database. Thread-safe; `close` it, or use it as a context manager.

    Errors:
        UnavailableError: a URL that is not one, a driver that is missing, a server or file that cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self.url = checked_url(url)
        self._writer: WriterThread | None = None
        self._checkpoints: CheckpointThread | None = None
        try:
            if self.url.get_backend_name() == "sqlite":
                self._engine, self._reader = _sqlite_engines(self.url)
            else:
                # Connections beyond the pool are closed when they come back, and each new one is a server process more.
                self._engine = self._reader = create_engine(
                    self.url, json_serializer=_dumps, pool_size=30, max_overflow=0, pool_pre_ping=True
                )
        except ImportError as error:
            raise UnavailableError(
                f"A {self.url.drivername} database needs the package {error.name!r}: pip install 'prefloop[postgres]'."
            ) from None
        try:
            with self._engine.begin() as connection:
                migrations.upgrade(connection)
        except (DBAPIError, sqlite3.DatabaseError, UnavailableError) as error:
            self.close()
            if isinstance(error, UnavailableError):
                raise
            raise _cannot_open(self.url, error) from None
        if self._reader is not self._engine:
            self._writer = WriterThread(self._engine)
            self._checkpoints = CheckpointThread(self._reader)

    @classmethod
    def open(cls, url: str) -> Self:
        """Opens the database at a SQLAlchemy URL and brings its tables up to date."""
        return cls(url)

    def close(self) -> None:
        """Finishes what is queued and lets every connection go."""
        if self._checkpoints is not None:
            self._checkpoints.close()
        if self._writer is not None:
            self._writer.close()
        self._engine.dispose()
        self._reader.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _write(self, work: Callable[[Unit], T]) -> T:
        """The result of `work`, committed; an exception undoes all of it.

        Errors:
            StateError: a constraint of the database refused it (somebody else was faster, say).
            DataError: a value that the database's types cannot hold.
            UnavailableError: the database went away.
        """

        def whole(connection: Connection) -> T:
            unit = Unit(connection)
            result = work(unit)
            unit.finish()
            return result

        try:
            return self._writer.run(whole) if self._writer is not None else self._with_retries(whole)
        except IntegrityError as error:
            raise StateError(
                f"The database refused the change ({_first_line(error)}); reload what it is about and try again."
            ) from error
        except SqlDataError as error:
            raise DataError(f"The database cannot hold a value ({_first_line(error)}); mend it.") from error
        except OperationalError as error:
            raise UnavailableError(
                f"The database failed ({_first_line(error)}); see that it runs and retry."
            ) from error

    def _with_retries(self, whole: Callable[[Connection], T]) -> T:
        """PostgreSQL undoes one of two transactions that wait for each other; that one is run again."""
        for attempt in range(_RETRIES):
            try:
                with self._engine.begin() as connection:
                    return whole(connection)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) not in _RETRY_STATES or attempt == _RETRIES - 1:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """A connection inside one short read transaction."""
        with self._reader.begin() as connection:
            yield connection


def checked_text(text: str, what: str) -> str:
    """`text`, if both engines can keep it.

    Errors:
        DataError: a NUL character (PostgreSQL has none) or half of a surrogate pair (not UTF-8).
    """
    if "\0" in text:
        raise DataError(f"{what} holds the character U+0000, which no database text may hold; remove it.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{what} holds half of a surrogate pair at position {error.start}; send valid Unicode."
        ) from None
    return text


def checked_url(url: str) -> URL:
    """The URL with its driver. UnavailableError where it is none, or names no supported database."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: a port that is no number
        raise UnavailableError(
            f"{url!r} is not a database URL; write for example sqlite:///prefloop.db or postgresql+psycopg://host/name."
        ) from None
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise UnavailableError(
            f"The database {parsed.drivername!r} is not supported; use sqlite:///FILE or postgresql+psycopg://HOST/NAME."
        )
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise UnavailableError(f"{url!r} names no file and would be lost at the end; write sqlite:///FILE.")
    return parsed


def _sqlite_engines(url: URL) -> tuple[Engine, Engine]:
    """The writer's engine (one connection at a time, BEGIN IMMEDIATE) and the readers' (they refuse to write)."""
    folder = Path(str(url.database)).absolute().parent
    if not folder.is_dir():
        raise UnavailableError(f"The folder {folder} of the database does not exist; create it or name another file.")
    arguments = {"timeout": BUSY_TIMEOUT_SECONDS, "check_same_thread": False}
    writer = create_engine(url, json_serializer=_dumps, connect_args=arguments, pool_size=1, max_overflow=0)
    reader = create_engine(url, json_serializer=_dumps, connect_args=arguments, pool_size=10, max_overflow=20)
    durable = ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=8000")
    _prepare(writer, ("foreign_keys=ON", *durable), "IMMEDIATE")
    _prepare(reader, ("foreign_keys=ON", "query_only=ON"), "DEFERRED")
    return writer, reader


def _prepare(engine: Engine, pragmas: tuple[str, ...], begin: str) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver's own BEGIN is off; ours below says which kind it is
        for pragma in pragmas:
            _patiently(connection, f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(f"BEGIN {begin}")


def _patiently(connection: sqlite3.Connection, statement: str) -> None:
    """Runs it again while somebody writes: SQLite's own busy timeout does not cover the change to a write-ahead log."""
    deadline = monotonic() + BUSY_TIMEOUT_SECONDS
    while True:
        try:
            connection.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
        sleep(_BUSY_PAUSE_SECONDS)


def _cannot_open(url: URL, error: Exception) -> UnavailableError:
    remedy = "that the file is a prefloop database that you may read and write"
    if url.get_backend_name() != "sqlite":
        remedy = "that the server runs"
    return UnavailableError(
        f"The database {url.render_as_string(hide_password=True)} cannot be opened ({_first_line(error)}); "
        f"check the URL and {remedy}."
    )


def _first_line(error: Exception) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
