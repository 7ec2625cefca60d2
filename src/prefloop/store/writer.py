"""The threads behind an SQLite database: one writer with a queue and group commit, and one that checkpoints.

Know nothing of what is written.

Units of work that wait together run in one BEGIN IMMEDIATE transaction, each in a savepoint of its own: one flush
to the disk for all of them, and a unit that fails takes nothing of the others with it. A caller gets its result
only after the commit, so what was acknowledged survives a crash of the process.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from sqlite3 import Error as SqliteError
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from prefloop.errors import StateError, UnavailableError

T = TypeVar("T")
CHECKPOINT_SECONDS = 0.5
MAX_GROUP = 256
"""Units in one transaction; bounds how long the first caller of a group waits for the last unit."""


@dataclass(frozen=True)
class _Job:
    work: Callable[[Connection], Any]
    future: Future[Any]


class WriterThread:
    """Runs units of work on one connection, in the order in which they came."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="prefloop-store-writer", daemon=True)
        self._thread.start()

    def run(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, after its commit; an exception of `work` is raised here and undoes `work` alone."""
        future: Future[T] = Future()
        with self._lock:  # nothing is queued behind the end mark, where nobody would answer it
            if self._closed:
                raise StateError("The store is closed; open it again before writing.")
            self._queue.put(_Job(work, future))
        return future.result()

    def close(self) -> None:
        """Finishes what is queued and ends the thread."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _loop(self) -> None:
        while (first := self._queue.get()) is not None:
            group, at_end = [first], False
            while len(group) < MAX_GROUP and not self._queue.empty():
                job = self._queue.get()
                if job is None:
                    at_end = True
                    break
                group.append(job)
            self._commit_together(group)
            if at_end:
                return

    def _commit_together(self, group: list[_Job]) -> None:
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            with self._engine.begin() as connection:
                for job in group:
                    outcomes.append(_attempt(connection, job.work, is_alone=len(group) == 1))
        except (SQLAlchemyError, SqliteError, UnavailableError) as error:
            for job in group:
                job.future.set_exception(error)
            return
        for job, (result, failure) in zip(group, outcomes, strict=True):
            if failure is None:
                job.future.set_result(result)
            else:
                job.future.set_exception(failure)


def _attempt(
    connection: Connection, work: Callable[[Connection], Any], is_alone: bool
) -> tuple[Any, BaseException | None]:
    failure: BaseException | None = None
    result = None
    savepoint = None if is_alone else connection.begin_nested()
    try:
        result = work(connection)
        if savepoint is not None:
            savepoint.commit()
    except BaseException as error:  # carried over to the caller's thread and raised there, as an executor does
        if savepoint is None:  # nothing else is in this transaction
            connection.rollback()
            return None, error
        failure = error
        savepoint.rollback()
    if not connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
        # A full disk makes SQLite drop the whole transaction; what ran before in this group is gone with it.
        raise UnavailableError(f"The database dropped a transaction ({failure}); free space on its disk and retry.")
    return result, failure


class CheckpointThread:
    """Moves what the write-ahead log holds into the SQLite file, on a connection of its own.

    Else the writer would do it between two commits and everybody would wait for it. The writer still does it itself
    where the log has grown far beyond what this thread leaves behind (see `wal_autocheckpoint`).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="prefloop-store-checkpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._end.set()
        self._thread.join()

    def _loop(self) -> None:
        with self._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            while not self._end.wait(CHECKPOINT_SECONDS):
                with contextlib.suppress(SqliteError):  # another process has it in hand, or the disk is full
                    raw.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
