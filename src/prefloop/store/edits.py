"""Edits: a worker writes the better answer, and edit > original becomes a comparison of its own (paper, appendix D.2).

The edited text is a response without a snapshot, the original is copied beside it (a response belongs to one
comparison), in an order that the comparison's id settles. Knows nothing of pages.
"""

from __future__ import annotations

import hashlib

from sqlalchemy import select, update

from prefloop.errors import DataError, StateError
from prefloop.schema import (
    Comparison,
    ComparisonState,
    Judgment,
    Response,
    ResponseState,
    Side,
    new_id,
    now,
)
from prefloop.store import tables
from prefloop.store.comparisons import insert_comparison
from prefloop.store.database import Database, Unit, checked_text
from prefloop.store.rows import load_comparisons, one_row, row_of


class Edits(Database):
    """The part of the store that keeps what workers wrote in a model's place."""

    def add_edit(self, comparison_id: str, side: Side, text: str, worker_id: str, **versions: str) -> Comparison:
        """Keeps that a worker's `text` is better than the answer on `side` of a judged comparison of their own.

        Args:
            versions: `interface_version`, `instructions_version`, `input_device` of the judgment.

        Errors:
            DataError: no text, or the same as the original.
            StateError: the comparison is not judged, is another worker's or is an edit; the answer was edited before.
        """
        checked_text(text, "The edited answer")

        def work(unit: Unit) -> Comparison:
            connection = unit.connection
            row = one_row(connection, tables.comparison, comparison_id, "comparison", lock=True)
            (shown,) = load_comparisons(connection, [row])
            original = shown.response(side)
            _refuse(shown, original, text, worker_id)
            if connection.scalar(select(tables.comparison.c.id).where(tables.comparison.c.edit_of == original.id)):
                raise StateError(f"Answer {original.id} was edited already; go on with the conversation.")
            edit, better = _comparison(shown, original, text)
            insert_comparison(unit, edit)
            connection.execute(  # no second worker is asked about it
                update(tables.comparison).where(tables.comparison.c.id == edit.id).values(overlap_draw=1.0)
            )
            judgment = Judgment(
                comparison_id=edit.id,
                worker_id=worker_id,
                question="edited",
                clicked=better,
                preferred=better,
                both_done_at=edit.created_at,
                **versions,
            )
            unit.insert(tables.judgment, row_of(judgment))
            unit.log(worker_id, "answer.edited", original.id, comparison_id=edit.id, side=side)
            return edit

        return self._write(work)


def _refuse(shown: Comparison, original: Response, text: str, worker_id: str) -> None:
    if shown.worker_id != worker_id or shown.state is not ComparisonState.JUDGED or shown.edit_of is not None:
        raise StateError(f"Comparison {shown.id} is not one that this worker judged; edit an answer of your own.")
    if not text.strip() or text.strip() == original.text.strip():
        raise DataError("The edited answer is empty or the same as before; change something, or leave it.")


def _comparison(shown: Comparison, original: Response, text: str) -> tuple[Comparison, Side]:
    """The edit beside a copy of the original, in an order that the new id decides, and the side of the edit."""
    id = new_id()
    edited = Response(text=text, state=ResponseState.DONE, finish_reason="stop", done_at=now())
    copy = original.model_copy(update={"id": new_id()})
    is_first = hashlib.sha256(id.encode()).digest()[0] % 2 == 0
    first, second = (edited, copy) if is_first else (copy, edited)
    comparison = shown.model_copy(
        update={
            "id": id,
            "response_a": first,
            "response_b": second,
            "state": ComparisonState.JUDGED,
            "pacing": None,
            "edit_of": original.id,
            "created_at": now(),
        }
    )
    return comparison, "a" if is_first else "b"
