"""Who came from a platform, under which of its ids. Knows nothing of any platform's conventions."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field
from sqlalchemy import select

from prefloop.schema import Noun, Worker, new_id, now
from prefloop.store import tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.people import digest_of
from prefloop.store.rows import one_row, row_of, worker_from
from prefloop.store.study_tables import arrival


class PlatformArrival(Noun):
    """One session of a person of a platform; `worker_id` is who they are here."""

    id: str = Field(default_factory=new_id)
    platform: str
    external_id: str
    external_study_id: str
    external_session_id: str
    worker_id: str
    study_id: str
    arrived_at: datetime = Field(default_factory=now)


class Arrivals(Database):
    """The part of the store that knows people by a platform's ids."""

    def arrived_worker(self, platform: str, external_id: str, study_id: str) -> Worker | None:
        """The worker that a person of a platform is in a study; None for somebody new."""
        wanted = select(arrival.c.worker_id).where(
            arrival.c.platform == platform, arrival.c.external_id == external_id, arrival.c.study_id == study_id
        )
        with self._read() as connection:
            worker_id = connection.scalar(wanted.order_by(arrival.c.id).limit(1))
            return None if worker_id is None else worker_from(one_row(connection, tables.worker, worker_id, "worker"))

    def add_arrival(self, wanted: PlatformArrival) -> PlatformArrival:
        """Keeps a session; the same session again changes nothing and gives the kept one."""
        checked_text(wanted.external_id + wanted.external_study_id + wanted.external_session_id, "The arrival")
        names = ("platform", "external_id", "external_study_id", "external_session_id", "study_id")

        def work(unit: Unit) -> PlatformArrival:
            one_row(unit.connection, tables.study, wanted.study_id, "study", lock=True)
            same = select(arrival).where(*(arrival.c[name] == getattr(wanted, name) for name in names))
            row = unit.connection.execute(same).mappings().first()
            if row is not None:
                return PlatformArrival(**row)
            unit.insert(arrival, row_of(wanted))
            unit.log(wanted.worker_id, "worker.arrived", wanted.study_id, platform=wanted.platform)
            return wanted

        return self._write(work)

    def arrivals(self, study_id: str) -> list[PlatformArrival]:
        """Everybody who came to a study from a platform, oldest first."""
        statement = select(arrival).where(arrival.c.study_id == study_id).order_by(arrival.c.id)
        with self._read() as connection:
            return [PlatformArrival(**row) for row in connection.execute(statement).mappings()]

    def arrival_platform(self, worker_id: str, study_id: str) -> str | None:
        """The platform that a worker came from to a study, if any."""
        mine = select(arrival.c.platform).where(arrival.c.worker_id == worker_id, arrival.c.study_id == study_id)
        with self._read() as connection:
            return connection.scalar(mine.limit(1))

    def invitation_study(self, token: str) -> str | None:
        """The study that an invitation leads to; None for an unknown one and for one to the workspace."""
        table = tables.invitation
        with self._read() as connection:
            return connection.scalar(select(table.c.study_id).where(table.c.digest == digest_of(token)))
