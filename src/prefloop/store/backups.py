"""Backup and restore of a whole database while it is in use. Knows the engines' own tools, and no table.

SQLite: its online backup, checked afterwards. PostgreSQL: pg_dump and pg_restore, which must be installed. A backup is
written under a temporary name, flushed and renamed; a restore never touches a database that has something in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
from pathlib import Path

from sqlalchemy import URL, inspect

from prefloop.errors import ConfigError, DataError, UnavailableError
from prefloop.store.database import Database, checked_url

_SQLITE_HEADER = b"SQLite format 3\x00"
_POSTGRES_HEADER = b"PGDMP"


def backup(url: str, file: Path) -> int:
    """Writes a consistent copy of the database to `file` while it may be in use; its size in bytes.

    Errors:
        ConfigError: the file exists, or its folder does not.
        UnavailableError: the database cannot be read, or PostgreSQL's programs are missing.
    """
    parsed = checked_url(url)
    if file.exists():
        raise ConfigError(f"{file} exists already; name another file.")
    if not file.absolute().parent.is_dir():
        raise ConfigError(f"The folder {file.absolute().parent} does not exist; create it or name another file.")
    unfinished = file.with_name(f".{file.name}.unfinished")
    try:
        if parsed.get_backend_name() == "sqlite":
            _copy_sqlite(Path(str(parsed.database)), unfinished)
        else:
            _run("pg_dump", "--format=custom", "--no-owner", f"--file={unfinished}", f"--dbname={_libpq(parsed)}")
        with unfinished.open("rb") as written:
            os.fsync(written.fileno())
        unfinished.rename(file)
    finally:
        unfinished.unlink(missing_ok=True)
    return file.stat().st_size


def restore(file: Path, url: str) -> None:
    """Makes the database at `url` out of a backup, and brings its tables up to date.

    Errors:
        ConfigError: no such file, or the database has something in it already.
        DataError: the file is no whole backup of this kind of database.
        UnavailableError: the database cannot be written, or PostgreSQL's programs are missing.
    """
    parsed = checked_url(url)
    if not file.is_file():
        raise ConfigError(f"{file} does not exist; give the path of a backup.")
    with file.open("rb") as opened:
        start = opened.read(len(_SQLITE_HEADER))
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if not start.startswith(_SQLITE_HEADER if is_sqlite else _POSTGRES_HEADER):
        raise DataError(f"{file} is no backup of a {parsed.get_backend_name()} database; name one that is.")
    if is_sqlite:
        target = Path(str(parsed.database))
        if target.exists():
            raise ConfigError(f"{target} exists already; move it away before a backup takes its place.")
        unfinished = target.with_name(f".{target.name}.unfinished")
        try:
            _copy_sqlite(file, unfinished)
            unfinished.rename(target)
        finally:
            unfinished.unlink(missing_ok=True)
    else:
        _refuse_full(parsed)
        options = ("--no-owner", "--exit-on-error", "--single-transaction")
        _run("pg_restore", *options, f"--dbname={_libpq(parsed)}", str(file))
    Database.open(url).close()


def _copy_sqlite(source: Path, target: Path) -> None:
    if not source.is_file():
        raise UnavailableError(f"The database {source} does not exist; check the setting database.url.")
    target.unlink(missing_ok=True)
    try:
        with (
            contextlib.closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True)) as old,
            contextlib.closing(sqlite3.connect(target)) as new,
        ):
            old.backup(new, pages=4096)
            answer = new.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise DataError(f"{source} is no whole SQLite database ({error}); use another backup.") from None
    if answer != "ok":
        raise DataError(f"The copy of {source} is damaged ({answer}); the original is: use another backup.")


def _refuse_full(url: URL) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError

    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            found = inspect(connection).get_table_names()
    except DBAPIError as error:
        raise UnavailableError(f"The database cannot be opened ({error.orig}); see that its server runs.") from None
    finally:
        engine.dispose()
    if found:
        raise ConfigError(f"The database has tables already ({found[0]} ...); restore into a new, empty one.")


def _libpq(url: URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


def _run(program: str, *arguments: str) -> None:
    found = shutil.which(program) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{program}")), default=None)
    if found is None:
        raise UnavailableError(f"{program} is not on the PATH; install PostgreSQL's client programs.")
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[0]
        raise UnavailableError(f"{program} failed ({reason}); nothing was changed.")
