"""Studies and snapshots: what is collected, and which assistants answer. Knows nothing of serving them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from sqlalchemy import Connection, func, select, update

from prefloop.errors import DataError, NotFoundError, StateError
from prefloop.schema import Snapshot, SnapshotShare, Study
from prefloop.store import tables
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import matching, nearest, one_row, row_of, snapshot_from, study_from

StudyState = Literal["open", "paused", "closed"]
SnapshotState = Literal["registered", "deployed", "retired"]
SnapshotKind = Literal["policy", "preference_model"]


class Studies(Database):
    """The part of the store that knows studies and snapshots."""

    def add_study(self, study: Study) -> Study:
        """Keeps a new study; its snapshots must be registered."""

        def work(unit: Unit) -> Study:
            insert_study(unit, study)
            unit.log("researcher", "study.added", study.id, name=study.name, mode=study.mode)
            return study

        return self._write(work)

    def study(self, id: str) -> Study:
        """The study with an id, or NotFoundError."""
        with self._read() as connection:
            return study_from(one_row(connection, tables.study, id, "study"), _shares(connection, id))

    def studies(self) -> list[Study]:
        """All studies, oldest first."""
        with self._read() as connection:
            rows = connection.execute(select(tables.study).order_by(tables.study.c.id)).mappings().all()
            return [study_from(row, _shares(connection, row["id"])) for row in rows]

    def set_study_state(self, id: str, state: StudyState) -> Study:
        """Opens, pauses or closes a study. A closed one stays closed."""

        def work(unit: Unit) -> None:
            old = one_row(unit.connection, tables.study, id, "study", lock=True)["state"]
            if old == "closed" and state != "closed":
                raise StateError(f"Study {id} is closed and cannot become {state!r}; add a new study.")
            unit.connection.execute(update(tables.study).where(tables.study.c.id == id).values(state=state))
            unit.log("researcher", "study.state", id, old=old, new=state)

        self._write(work)
        return self.study(id)

    def set_study_snapshots(self, id: str, shares: Iterable[SnapshotShare]) -> Study:
        """Which snapshots answer from now on, with their weights; the earlier choice stays in the table."""
        wanted = tuple(shares)

        def work(unit: Unit) -> None:
            one_row(unit.connection, tables.study, id, "study", lock=True)
            revision = unit.connection.scalar(
                select(func.max(tables.study_share.c.revision)).where(tables.study_share.c.study_id == id)
            )
            _insert_shares(unit, id, (revision or 0) + 1, wanted)
            unit.log("researcher", "study.snapshots", id, shares=[share.model_dump() for share in wanted])

        self._write(work)
        return self.study(id)

    def add_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Registers a snapshot. StateError where the name is taken."""

        def work(unit: Unit) -> Snapshot:
            taken = unit.connection.scalar(select(tables.snapshot.c.id).where(tables.snapshot.c.name == snapshot.name))
            if taken is not None:
                raise StateError(f"A snapshot named {snapshot.name!r} exists already ({taken}); choose another name.")
            insert_snapshot(unit, snapshot)
            unit.log("researcher", "snapshot.added", snapshot.id, name=snapshot.name, hash=snapshot.hash)
            return snapshot

        return self._write(work)

    def snapshot(self, id_or_name: str) -> Snapshot:
        """The snapshot with an id or a name; NotFoundError names the nearest."""
        table = tables.snapshot
        with self._read() as connection:
            row = (
                connection.execute(
                    select(table)
                    .where((table.c.id == id_or_name) | (table.c.name == id_or_name))
                    .order_by(table.c.id != id_or_name)  # an id goes before another one's name
                )
                .mappings()
                .first()
            )
            if row is None:
                names = connection.scalars(select(table.c.name)).all()
                raise NotFoundError(f"There is no snapshot {id_or_name!r}; {nearest(id_or_name, names)}")
        return snapshot_from(row)

    def snapshots(self, kind: SnapshotKind | None = None, state: SnapshotState | None = None) -> list[Snapshot]:
        """Snapshots, oldest first, of one kind or in one state where given."""
        table = tables.snapshot
        statement = select(table).where(*matching(kind=(table.c.kind, kind), state=(table.c.state, state)))
        with self._read() as connection:
            return [snapshot_from(row) for row in connection.execute(statement.order_by(table.c.id)).mappings()]

    def set_snapshot_state(self, id: str, state: SnapshotState) -> Snapshot:
        """Deploys or retires a snapshot."""

        def work(unit: Unit) -> Snapshot:
            row = one_row(unit.connection, tables.snapshot, id, "snapshot", lock=True)
            unit.connection.execute(update(tables.snapshot).where(tables.snapshot.c.id == id).values(state=state))
            unit.log("researcher", "snapshot.state", id, old=row["state"], new=state)
            return snapshot_from(row).model_copy(update={"state": state})

        return self._write(work)


def insert_study(unit: Unit, study: Study) -> None:
    """The rows of a study."""
    checked_text(study.name + study.instructions, "The study")
    unit.insert(tables.study, study.model_dump(exclude={"snapshots"}))
    _insert_shares(unit, study.id, 1, study.snapshots)


def insert_snapshot(unit: Unit, snapshot: Snapshot) -> None:
    """The row of a snapshot."""
    if not snapshot.name.strip():
        raise DataError("A snapshot needs a name that is not empty; give it one.")
    unit.insert(tables.snapshot, row_of(snapshot))


def _insert_shares(unit: Unit, study_id: str, revision: int, shares: Sequence[SnapshotShare]) -> None:
    for share in shares:
        one_row(unit.connection, tables.snapshot, share.snapshot_id, "snapshot")
    unit.insert(
        tables.study_share,
        *(
            {"study_id": study_id, "revision": revision, "place": place, **share.model_dump()}
            for place, share in enumerate(shares, start=1)
        ),
    )
    if not shares:
        unit.insert(
            tables.study_share,
            {"study_id": study_id, "revision": revision, "place": 0, "snapshot_id": None, "weight": 0.0},
        )


def _shares(connection: Connection, study_id: str) -> list[SnapshotShare]:
    share = tables.study_share
    newest = select(func.max(share.c.revision)).where(share.c.study_id == study_id).scalar_subquery()
    rows = connection.execute(
        select(share.c.snapshot_id, share.c.weight)
        .where(share.c.study_id == study_id, share.c.revision == newest, share.c.snapshot_id.is_not(None))
        .order_by(share.c.place)
    )
    return [SnapshotShare(snapshot_id=str(snapshot_id), weight=weight) for snapshot_id, weight in rows]
