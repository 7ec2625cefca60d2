"""What researchers decide about workers, and what follows: who may work, whose data may leave. Knows no pages.

A withdrawal of consent is final. From then on the store hands out nothing that the worker wrote or judged: no export,
no training set, no report sees it. The rows stay, because a row that is gone could not be told from one that was lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from pydantic import Field
from sqlalchemy import ColumnElement, Select, select

from prefloop.errors import DataError, StateError
from prefloop.schema import Noun, new_id, now
from prefloop.store import tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.decision_tables import worker_decision
from prefloop.store.rows import one_row, row_of

DecisionKind = Literal["note", "qualify", "pause", "resume", "exclude", "withdraw"]
WorkerStanding = Literal["active", "paused", "excluded", "withdrawn"]
MAX_REASON_CHARS = 2000
_STANDINGS: dict[str, WorkerStanding] = {
    "pause": "paused",
    "resume": "active",
    "exclude": "excluded",
    "withdraw": "withdrawn",
}


class WorkerDecision(Noun):
    """A note about a worker or a decision with its reason; `by` names the researcher."""

    id: str = Field(default_factory=new_id)
    worker_id: str
    kind: DecisionKind
    reason: str
    by: str
    decided_at: datetime = Field(default_factory=now)


class Decisions(Database):
    """The part of the store that knows who may work and who has withdrawn."""

    def add_decision(self, decision: WorkerDecision) -> WorkerDecision:
        """Keeps a note or a decision.

        Errors:
            DataError: no reason, or one that is too long.
            NotFoundError: no such worker.
            StateError: not a worker, or one who has withdrawn (only notes are taken then).
        """
        reason = decision.reason.strip()
        if not 1 <= len(reason) <= MAX_REASON_CHARS:
            raise DataError(f"The reason has {len(reason)} characters; give one of 1 to {MAX_REASON_CHARS}.")
        checked_text(reason + decision.by, "The reason")
        kept = decision.model_copy(update={"reason": reason})

        def work(unit: Unit) -> WorkerDecision:
            person = one_row(unit.connection, tables.worker, kept.worker_id, "worker", lock=True)
            if person["role"] != "worker":
                raise StateError(f"{person['pseudonym']!r} is a {person['role']}; decide about workers here.")
            standing = _standing(unit.connection.scalars(_kinds(kept.worker_id)).all())
            if standing == "withdrawn" and kept.kind != "note":
                raise StateError("This worker has withdrawn, which is final; only a note can be added.")
            unit.insert(worker_decision, row_of(kept))
            unit.log(kept.by, f"worker.{kept.kind}", kept.worker_id)
            return kept

        return self._write(work)

    def decisions(self, worker_id: str) -> list[WorkerDecision]:
        """All notes and decisions about a worker, oldest first."""
        table = worker_decision
        statement = select(table).where(table.c.worker_id == worker_id).order_by(table.c.id)
        with self._read() as connection:
            return [WorkerDecision(**row) for row in connection.execute(statement).mappings()]

    def worker_standing(self, worker_id: str) -> WorkerStanding:
        """Whether a worker may work now."""
        with self._read() as connection:
            return _standing(connection.scalars(_kinds(worker_id)).all())


def withdrawn() -> Select[str]:
    """The ids of the workers who have withdrawn, as a subquery."""
    return select(worker_decision.c.worker_id).where(worker_decision.c.kind == "withdraw")


def not_withdrawn(column: ColumnElement[str | None]) -> ColumnElement[bool]:
    """True where the worker in `column` (or nobody) has not withdrawn."""
    return column.is_(None) | column.not_in(withdrawn())


def _kinds(worker_id: str) -> Select[str]:
    table = worker_decision
    deciding = table.c.kind.in_(list(_STANDINGS))
    return select(table.c.kind).where(table.c.worker_id == worker_id, deciding).order_by(table.c.id)


def _standing(kinds: Sequence[str]) -> WorkerStanding:
    if "withdraw" in kinds:
        return "withdrawn"
    return _STANDINGS[kinds[-1]] if kinds else "active"
