"""Brings a database up to the newest revision. One chain of revisions serves SQLite and PostgreSQL alike."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, text

from prefloop.errors import UnavailableError

__all__ = ["HEAD", "upgrade"]

HEAD = "0008"
"""The newest revision; a test holds it to the files in versions/."""
_LOCK = 0x70726567  # advisory lock on PostgreSQL: two processes that start together migrate one after the other


def upgrade(connection: Connection) -> None:
    """Runs the missing revisions inside the caller's transaction.

    Errors:
        UnavailableError: the database was made by a newer prefloop, or has another program's tables.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    from alembic.migration import MigrationContext

    present = MigrationContext.configure(connection).get_current_revision()
    if present == HEAD:
        return
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError:
        raise UnavailableError(
            f"The database has revision {present!r} and this prefloop knows up to {HEAD!r}; install a newer prefloop."
        ) from None
