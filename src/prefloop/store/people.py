"""Workers, invitations and sessions. Keeps no name, no address and no password: a token is known by its SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from datetime import timedelta
from typing import Literal

from sqlalchemy import select, update

from prefloop.errors import NotFoundError, StateError
from prefloop.schema import Worker, now
from prefloop.store import tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import one_row, row_of, worker_from

TOKEN_BYTES = 32


class People(Database):
    """The part of the store that knows who is who."""

    def add_worker(self, worker: Worker) -> Worker:
        """Keeps a new worker."""

        def work(unit: Unit) -> Worker:
            insert_worker(unit, worker)
            return worker

        return self._write(work)

    def worker(self, id: str) -> Worker:
        """The worker with an id, or NotFoundError."""
        with self._read() as connection:
            return worker_from(one_row(connection, tables.worker, id, "worker"))

    def workers(self) -> list[Worker]:
        """All workers, oldest first."""
        with self._read() as connection:
            rows = connection.execute(select(tables.worker).order_by(tables.worker.c.id)).mappings()
            return [worker_from(row) for row in rows]

    def add_invitation(
        self,
        study_id: str | None = None,
        role: Literal["worker", "researcher"] = "worker",
        pseudonym: str | None = None,
        uses: int | None = 1,
        is_simulated: bool = False,
    ) -> str:
        """A new invitation's token, told this once.

        Args:
            study_id: where the worker begins; None invites to the workspace (a researcher, say).
            pseudonym: name of the worker it makes; later ones of the same link get a number behind it.
            uses: how many people may come by this link; with 1 it stays one worker's own way in; None is no limit.
            is_simulated: the link is of one worker who is a program; that worker is made at once.
        """
        if is_simulated and (uses != 1 or role != "worker"):
            raise StateError(f"A simulated {role} with {uses} uses of a link is not known; a worker with one use is.")
        if uses is not None and uses < 1:
            raise StateError(f"An invitation for {uses} uses lets nobody in; give 1 or more.")
        token = secrets.token_urlsafe(TOKEN_BYTES)
        digest = digest_of(token)

        def work(unit: Unit) -> str:
            if study_id is not None:
                one_row(unit.connection, tables.study, study_id, "study")
            unit.insert(
                tables.invitation,
                {
                    "digest": digest,
                    "study_id": study_id,
                    "role": role,
                    "pseudonym": None if pseudonym is None else checked_text(pseudonym, "The pseudonym"),
                    "uses": uses,
                    "created_at": now(),
                },
            )
            unit.log("researcher", "invitation.added", digest, study_id=study_id, role=role, uses=uses)
            if is_simulated:
                name = pseudonym or f"simulated-{secrets.token_hex(3)}"
                _accept(unit, digest, 1, Worker(pseudonym=name, is_simulated=True), study_id)
            return token

        return self._write(work)

    def accept_invitation(self, token: str) -> tuple[Worker, str | None]:
        """The worker who comes by this link, and the study it leads to.

        The first use makes the worker. A link for one worker gives the same worker again; one for several makes a new
        worker each time. A researcher's link for one is good once: it opens everybody's texts.

        Errors:
            NotFoundError: no such invitation.
            StateError: used up.
        """
        digest = digest_of(token)
        invitation, acceptance = tables.invitation, tables.acceptance

        def work(unit: Unit) -> tuple[Worker, str | None]:
            row = (
                unit.connection.execute(select(invitation).where(invitation.c.digest == digest).with_for_update())
                .mappings()
                .one_or_none()
            )
            if row is None:
                raise NotFoundError("This invitation is not known; ask the researcher for a new link.")
            accepted = unit.connection.scalars(
                select(acceptance.c.worker_id).where(acceptance.c.digest == digest).order_by(acceptance.c.place)
            ).all()
            if accepted and row["uses"] == 1 and row["role"] == "worker":
                return worker_from(one_row(unit.connection, tables.worker, accepted[0], "worker")), row["study_id"]
            if row["uses"] is not None and len(accepted) >= row["uses"]:
                raise StateError(
                    f"All {row['uses']} places of this invitation are taken; ask the researcher for a new link."
                )
            name = row["pseudonym"] or f"{row['role']}-{secrets.token_hex(3)}"
            if accepted and row["pseudonym"]:
                name = f"{name}-{len(accepted) + 1}"
            worker = Worker(pseudonym=name, role=row["role"])
            _accept(unit, digest, len(accepted) + 1, worker, row["study_id"])
            return worker, row["study_id"]

        return self._write(work)

    def add_session(self, worker_id: str, ttl_seconds: float) -> str:
        """Signs a worker in: a token that is good for `ttl_seconds`."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        created = now()

        def work(unit: Unit) -> str:
            one_row(unit.connection, tables.worker, worker_id, "worker")
            unit.insert(
                tables.session,
                {
                    "digest": digest_of(token),
                    "worker_id": worker_id,
                    "created_at": created,
                    "expires_at": created + timedelta(seconds=ttl_seconds),
                },
            )
            unit.log(worker_id, "session.added", worker_id, ttl_seconds=ttl_seconds)
            return token

        return self._write(work)

    def session_worker(self, token: str) -> Worker | None:
        """Who is signed in with a token; None for an unknown, expired or ended one."""
        session = tables.session
        statement = (
            select(tables.worker)
            .join(session, session.c.worker_id == tables.worker.c.id)
            .where(session.c.digest == digest_of(token), session.c.ended_at.is_(None), session.c.expires_at > now())
        )
        with self._read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else worker_from(row)

    def end_session(self, token: str) -> None:
        """Signs out; an unknown or ended token changes nothing."""
        session = tables.session

        def work(unit: Unit) -> None:
            worker_id = unit.connection.scalar(
                update(session)
                .where(session.c.digest == digest_of(token), session.c.ended_at.is_(None))
                .values(ended_at=now())
                .returning(session.c.worker_id)
            )
            if worker_id is not None:
                unit.log(worker_id, "session.ended", worker_id)

        self._write(work)


def _accept(unit: Unit, digest: str, place: int, worker: Worker, study_id: str | None) -> None:
    """A new worker by an invitation."""
    insert_worker(unit, worker)
    unit.insert(tables.acceptance, {"digest": digest, "place": place, "worker_id": worker.id, "accepted_at": now()})
    unit.log(worker.id, "invitation.accepted", digest, study_id=study_id)


def insert_worker(unit: Unit, worker: Worker) -> None:
    """The row of a worker."""
    checked_text(worker.pseudonym, "The pseudonym")
    unit.insert(tables.worker, row_of(worker))
    unit.log(worker.id, "worker.added", worker.id, role=worker.role, is_simulated=worker.is_simulated)


def digest_of(token: str) -> str:
    """Under what a token is kept."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
