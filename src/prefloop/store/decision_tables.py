"""The tables of what researchers decide about people: notes, pauses, exclusions, withdrawals, payments.

Columns and constraints only, on the metadata of tables.py; knows nothing of who reads or writes them. Nothing here is
changed by an UPDATE (triggers of the migration refuse it): what holds now is read from the newest rows.
"""

from __future__ import annotations

from sqlalchemy import Column, ForeignKey, Index, Integer, Named, Table, Text, TypedColumns

from prefloop.store.tables import UtcTime, metadata, one_of

DECISIONS = ("note", "qualify", "pause", "resume", "exclude", "withdraw")


class WorkerDecisionColumns(TypedColumns):
    """Something decided or noted about a worker, with its reason."""

    id = Column(Text, primary_key=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    kind: Named[str] = Column(Text)
    reason: Named[str] = Column(Text)
    by: Named[str] = Column(Text)
    decided_at = Column(UtcTime, nullable=False)


worker_decision = Table(
    "worker_decision",
    metadata,
    WorkerDecisionColumns,
    one_of("kind", *DECISIONS),
    Index("ix_worker_decision_worker_id_kind", "worker_id", "kind"),
)


class PaymentColumns(TypedColumns):
    """Money beside the time: a bonus that is owed, or a sum that was paid. The key makes asking twice harmless."""

    id = Column(Text, primary_key=True)
    key: Named[str] = Column(Text, unique=True)
    worker_id: Named[str] = Column(Text, ForeignKey("worker.id"))
    study_id: Named[str] = Column(Text, ForeignKey("study.id"), index=True)
    kind: Named[str] = Column(Text)
    minor_units = Column(Integer, nullable=False)
    reason: Named[str] = Column(Text)
    by: Named[str] = Column(Text)
    recorded_at = Column(UtcTime, nullable=False)


payment = Table("payment", metadata, PaymentColumns, one_of("kind", "bonus", "paid"))
