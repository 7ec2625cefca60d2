"""What researchers tell every worker of a study. Knows nothing of where it is shown."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from sqlalchemy import select

from prefloop.errors import DataError
from prefloop.schema import Noun, new_id, now
from prefloop.store import tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import one_row, row_of
from prefloop.store.study_tables import announcement

MAX_CHARS = 1000


class Announcement(Noun):
    """A text for every worker of a study until the next one; an empty text ends the one before."""

    id: str = Field(default_factory=new_id)
    study_id: str
    text: str
    by: str
    announced_at: datetime = Field(default_factory=now)


class Announcements(Database):
    """The part of the store that keeps what workers are told."""

    def announce(self, wanted: Announcement) -> Announcement:
        """Keeps an announcement, which takes the place of the one before. DataError for one that is too long."""
        kept = wanted.model_copy(update={"text": wanted.text.strip()})
        if len(kept.text) > MAX_CHARS:
            raise DataError(f"The announcement has {len(kept.text)} characters and may have {MAX_CHARS}.")
        checked_text(kept.text, "The announcement")

        def work(unit: Unit) -> Announcement:
            one_row(unit.connection, tables.study, kept.study_id, "study")
            unit.insert(announcement, row_of(kept))
            unit.log(kept.by, "study.announced", kept.study_id)
            return kept

        return self._write(work)

    def announcement(self, study_id: str) -> Announcement | None:
        """What workers of a study are told now."""
        newest = select(announcement).where(announcement.c.study_id == study_id).order_by(announcement.c.id.desc())
        with self._read() as connection:
            row = connection.execute(newest.limit(1)).mappings().first()
        return None if row is None or not row["text"] else Announcement(**row)
