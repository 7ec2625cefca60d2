"""Checks of a study's workers: gold items, calibration items, own pairs that come again with their sides swapped.

An answer on a check is no judgment and is counted apart. When one is due is decided here, from counts alone; nothing
is known of pages.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple

from pydantic import Field
from sqlalchemy import Connection, func, select, update

from prefloop.errors import DataError, NotFoundError, StateError
from prefloop.schema import WEAKEST_GRADES, ComparisonState, Message, Noun, new_id, now
from prefloop.store import tables
from prefloop.store.care import opt_outs
from prefloop.store.check_tables import check, check_answer, check_item
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import is_no_edit, one_row, row_of
from prefloop.study import CheckSettings, picked_by

CheckKind = Literal["gold", "calibration", "repeat"]
Pick = Literal["a", "b", "same"]
_PICKS: tuple[Pick, ...] = ("a", "b", "same")
_MOST_CANDIDATES = 200


class CheckItem(Noun):
    """A pair chosen by researchers. `pick` is the side to click under the mode's question, if known."""

    id: str = Field(default_factory=new_id)
    study_id: str
    messages: tuple[Message, ...]
    answer_a: str
    answer_b: str
    pick: Pick | None = None
    by: str
    created_at: datetime = Field(default_factory=now)
    ended_at: datetime | None = None


class Check(Noun):
    """One showing of an item, or of an earlier comparison, to one person; swapped: A and B have changed places."""

    id: str = Field(default_factory=new_id)
    study_id: str
    worker_id: str
    kind: CheckKind
    item_id: str | None = None
    comparison_id: str | None = None
    is_swapped: bool
    shown_at: datetime = Field(default_factory=now)


class CheckShare(NamedTuple):
    """How many of how many."""

    right: int
    n: int


class CheckCounts(Noun):
    """One worker's checks in a study.

    `gold`: as the known answer; `calibration`: as most researchers (items on which they are split are left out);
    `repeat`: the same answer as before, sides swapped (pairs that were about the same once are left out).
    """

    gold: CheckShare = CheckShare(0, 0)
    calibration: CheckShare = CheckShare(0, 0)
    repeat: CheckShare = CheckShare(0, 0)
    skipped: int = 0


class Checks(Database):
    """The part of the store that knows pairs with known answers and how workers did on them."""

    def add_check_item(self, item: CheckItem) -> CheckItem:
        """Keeps an item.

        Errors:
            DataError: no message, the last one is not a person's, or an answer is empty or both are the same.
        """
        if not item.messages or item.messages[-1].role != "user" or not item.messages[-1].text.strip():
            raise DataError(
                "The item has no message of a person at its end; give the message that both answers answer."
            )
        if not item.answer_a.strip() or not item.answer_b.strip() or item.answer_a == item.answer_b:
            raise DataError("The item's answers are empty or the same; give two that differ.")
        checked_text(item.model_dump_json(), "The item")

        def work(unit: Unit) -> CheckItem:
            one_row(unit.connection, tables.study, item.study_id, "study")
            unit.insert(check_item, row_of(item))
            unit.log(item.by, "check_item.added", item.id, study_id=item.study_id, pick=item.pick)
            return item

        return self._write(work)

    def check_items(self, study_id: str) -> list[CheckItem]:
        """All items of a study, ended ones too, oldest first."""
        statement = select(check_item).where(check_item.c.study_id == study_id).order_by(check_item.c.id)
        with self._read() as connection:
            return [CheckItem(**row) for row in connection.execute(statement).mappings()]

    def has_check_items(self, study_id: str) -> bool:
        """Whether a study has items that are shown."""
        wanted = select(check_item.c.id).where(check_item.c.study_id == study_id, check_item.c.ended_at.is_(None))
        with self._read() as connection:
            return connection.scalar(wanted.limit(1)) is not None

    def end_check_item(self, id: str, by: str) -> None:
        """Shows an item to nobody else; what was answered stays."""

        def work(unit: Unit) -> None:
            if one_row(unit.connection, check_item, id, "item", lock=True)["ended_at"] is None:
                unit.connection.execute(update(check_item).where(check_item.c.id == id).values(ended_at=now()))
                unit.log(by, "check_item.ended", id)

        self._write(work)

    def next_check(self, study_id: str, worker_id: str, settings: CheckSettings) -> Check | None:
        """The check that is due for a worker, kept as shown; asked again before its answer, the same one.

        Calibration items stand before a worker's first judgment. Of gold items and repeated pairs one is due whenever
        the worker has seen fewer than their share of the own judgments. A worker who opted out of topics gets own
        pairs alone: what an item is about nobody has said.
        """

        def work(unit: Unit) -> Check | None:
            connection = unit.connection
            one_row(connection, tables.worker, worker_id, "worker", lock=True)  # two tabs get the same check
            mine = (check.c.study_id == study_id) & (check.c.worker_id == worker_id)
            answered = select(check_answer.c.check_id)
            open_one = select(check).where(mine, check.c.id.not_in(answered)).order_by(check.c.id).limit(1)
            row = connection.execute(open_one).mappings().first()
            if row is not None:
                return Check(**row)
            of_kind = select(check.c.kind, func.count()).where(mine).group_by(check.c.kind)
            shown = Counter({kind: int(n) for kind, n in connection.execute(of_kind)})
            found = _due(connection, study_id, worker_id, settings, shown)
            return None if found is None else _shown(unit, found)

        return self._write(work)

    def show_to_researcher(self, item_id: str, researcher_id: str) -> Check:
        """An item without a pick, for a researcher to judge before any worker; the same showing when asked again."""

        def work(unit: Unit) -> Check:
            one_row(unit.connection, tables.worker, researcher_id, "researcher", lock=True)
            item = CheckItem(**one_row(unit.connection, check_item, item_id, "item"))
            wanted = select(check).where(check.c.item_id == item_id, check.c.worker_id == researcher_id)
            row = unit.connection.execute(wanted).mappings().first()
            if row is not None:
                return Check(**row)
            return _shown(unit, _check_of(item, researcher_id))

        return self._write(work)

    def check(self, id: str, worker_id: str) -> Check:
        """A worker's check, or NotFoundError."""
        with self._read() as connection:
            row = connection.execute(select(check).where(check.c.id == id)).mappings().first()
        if row is None or row["worker_id"] != worker_id:
            raise NotFoundError(f"There is no comparison {id!r} among yours; reload the page.")
        return Check(**row)

    def check_item(self, id: str) -> CheckItem:
        """The item with an id, or NotFoundError."""
        with self._read() as connection:
            return CheckItem(**one_row(connection, check_item, id, "item"))

    def add_check_answer(self, check_id: str, grade: int | None, input_device: str) -> None:
        """Keeps a grade from 1 to 8 in the order shown, or None for a skipped one. StateError for a second answer."""
        if grade is not None and not 1 <= grade <= 8:
            raise DataError(f"grade is {grade}; it must be from 1 to 8.")

        def work(unit: Unit) -> None:
            row = one_row(unit.connection, check, check_id, "comparison", lock=True)
            if unit.connection.scalar(select(check_answer.c.check_id).where(check_answer.c.check_id == check_id)):
                raise StateError(f"Comparison {check_id} is judged already; ask for the next one.")
            answer = {"check_id": check_id, "grade": grade, "input_device": input_device, "answered_at": now()}
            unit.insert(check_answer, answer)
            unit.log(row["worker_id"], "check.answered", check_id, grade=grade)

        self._write(work)

    def check_picks(self, study_id: str) -> dict[str, Counter[Pick]]:
        """What researchers picked of a study's items, by item; in the item's own order of sides."""
        with self._read() as connection:
            return _researchers_picks(connection, study_id)

    def check_counts(self, study_id: str, worker_ids: Iterable[str]) -> dict[str, CheckCounts]:
        """How workers of a study did on their checks; workers without any are left out."""
        ids = list(worker_ids)
        statement = (
            select(check, check_answer.c.grade)
            .join(check_answer, check_answer.c.check_id == check.c.id)
            .where(check.c.study_id == study_id, check.c.worker_id.in_(ids))
            .order_by(check.c.id)
        )
        right: dict[tuple[str, str], int] = defaultdict(int)
        total: dict[tuple[str, str], int] = defaultdict(int)
        with self._read() as connection:
            rows = connection.execute(statement).mappings().all()
            known = _known_picks(connection, study_id)
            pairs = [row["comparison_id"] for row in rows if row["comparison_id"] is not None]
            before = _first_grades(connection, pairs, ids)
        for row in rows:
            worker_id, grade = row["worker_id"], row["grade"]
            if grade is None:
                total[worker_id, "skipped"] += 1
                continue
            if row["kind"] == "repeat":
                first = before.get((worker_id, row["comparison_id"]))
                if first is None or first in WEAKEST_GRADES or grade in WEAKEST_GRADES:
                    continue
                is_right = (first <= 4) != (grade <= 4)  # the sides have changed places
            else:
                pick = known.get(row["item_id"])
                if pick is None:
                    continue
                is_right = unswapped(picked_by(grade), row["is_swapped"]) == pick
            total[worker_id, row["kind"]] += 1
            right[worker_id, row["kind"]] += is_right
        return {
            id: CheckCounts(
                gold=CheckShare(right[id, "gold"], total[id, "gold"]),
                calibration=CheckShare(right[id, "calibration"], total[id, "calibration"]),
                repeat=CheckShare(right[id, "repeat"], total[id, "repeat"]),
                skipped=total[id, "skipped"],
            )
            for id in {row["worker_id"] for row in rows}
        }


def unswapped(pick: Pick, is_swapped: bool) -> Pick:
    """A pick in the order shown, in the item's own order."""
    other: dict[Pick, Pick] = {"a": "b", "b": "a", "same": "same"}
    return other[pick] if is_swapped else pick


def _due(
    connection: Connection, study_id: str, worker_id: str, settings: CheckSettings, shown: Counter[str]
) -> Check | None:
    judgment, comparison = tables.judgment, tables.comparison
    own = (
        select(judgment.c.comparison_id)
        .join(comparison, comparison.c.id == judgment.c.comparison_id)
        .where(judgment.c.worker_id == worker_id, judgment.c.revises.is_(None))
        .where(comparison.c.study_id == study_id, is_no_edit())
        .where(comparison.c.state == ComparisonState.JUDGED.value)
    )
    judged = connection.scalar(select(func.count()).select_from(own.subquery())) or 0
    if not opt_outs(connection, worker_id, study_id):
        seen = select(check.c.item_id).where(check.c.worker_id == worker_id, check.c.item_id.is_not(None))
        fresh = select(check_item).where(
            check_item.c.study_id == study_id, check_item.c.ended_at.is_(None), check_item.c.id.not_in(seen)
        )
        items = [CheckItem(**row) for row in connection.execute(fresh.order_by(check_item.c.id)).mappings()]
        if judged == 0:
            picks = _researchers_picks(connection, study_id) if items else {}
            for item in items:
                if item.pick is None and sum(picks.get(item.id, Counter()).values()) >= settings.calibration_judges:
                    return _check_of(item, worker_id)
        gold = [item for item in items if item.pick is not None]
        if gold and shown["gold"] < int(settings.gold_share * judged):
            return _check_of(min(gold, key=lambda item: _coin(worker_id + item.id)), worker_id)
    if shown["repeat"] < int(settings.repeat_share * judged):
        again = select(check.c.comparison_id).where(check.c.worker_id == worker_id, check.c.comparison_id.is_not(None))
        old = own.order_by(judgment.c.id.desc()).offset(settings.repeat_after).limit(_MOST_CANDIDATES)
        candidates = set(connection.scalars(old)) - set(connection.scalars(again))
        if candidates:
            chosen = min(candidates, key=lambda id: _coin(worker_id + id))
            return Check(study_id=study_id, worker_id=worker_id, kind="repeat", comparison_id=chosen, is_swapped=True)
    return None


def _check_of(item: CheckItem, person_id: str) -> Check:
    kind: CheckKind = "calibration" if item.pick is None else "gold"
    is_swapped = _coin(f"{person_id} {item.id}") % 2 == 0
    return Check(study_id=item.study_id, worker_id=person_id, kind=kind, item_id=item.id, is_swapped=is_swapped)


def _shown(unit: Unit, shown: Check) -> Check:
    unit.insert(check, row_of(shown))
    unit.log(shown.worker_id, "check.shown", shown.id, kind=shown.kind)
    return shown


def _coin(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _researchers_picks(connection: Connection, study_id: str) -> dict[str, Counter[Pick]]:
    statement = (
        select(check.c.item_id, check.c.is_swapped, check_answer.c.grade)
        .join(check_answer, check_answer.c.check_id == check.c.id)
        .join(tables.worker, tables.worker.c.id == check.c.worker_id)
        .where(check.c.study_id == study_id, check.c.item_id.is_not(None), check_answer.c.grade.is_not(None))
        .where(tables.worker.c.role == "researcher")
    )
    picks: dict[str, Counter[Pick]] = defaultdict(Counter)
    for item_id, is_swapped, grade in connection.execute(statement):
        picks[str(item_id)][unswapped(picked_by(int(grade or 0)), is_swapped)] += 1
    return dict(picks)


def _known_picks(connection: Connection, study_id: str) -> dict[str, Pick]:
    """The answer of every item that has one: its own, or what more researchers picked than anything else."""
    given = select(check_item.c.id, check_item.c.pick).where(check_item.c.study_id == study_id)
    known: dict[str, Pick] = {
        item_id: pick for item_id, given_pick in connection.execute(given) for pick in _PICKS if given_pick == pick
    }
    for item_id, picks in _researchers_picks(connection, study_id).items():
        (first, most), *others = picks.most_common()
        if not others or others[0][1] < most:
            known.setdefault(item_id, first)
    return known


def _first_grades(connection: Connection, pairs: list[str], worker_ids: list[str]) -> dict[tuple[str, str], int]:
    """The unrevised grade of every worker on every pair, by worker and pair."""
    judgment = tables.judgment
    statement = (
        select(judgment.c.worker_id, judgment.c.comparison_id, judgment.c.grade)
        .where(judgment.c.comparison_id.in_(pairs), judgment.c.worker_id.in_(worker_ids))
        .where(judgment.c.grade.is_not(None))
        .order_by(judgment.c.id)
    )
    return {(str(worker), str(pair)): int(grade or 0) for worker, pair, grade in connection.execute(statement)}
