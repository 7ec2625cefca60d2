"""Scores, rounds, evaluation results and the event log. Knows nothing of how a number came about."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects import postgresql, sqlite

from prefloop.errors import DataError
from prefloop.schema import EvalResult, Round, Score, now
from prefloop.store import tables
from prefloop.store.database import Database, Unit
from prefloop.store.rows import chunks, eval_result_from, eval_result_row, matching, round_from
from prefloop.store.views import Event


class Results(Database):
    """The part of the store that keeps numbers, and the log of everything."""

    def add_scores(self, scores: Iterable[Score]) -> int:
        """Keeps raw scores; how many were new. A preference model never changes, so a second score of the same
        response is the same number and the first one stays.

        Errors:
            DataError: a score that is not a finite number.
        """
        rows = [score.model_dump() for score in scores]
        for row in rows:
            if not math.isfinite(row["value"]):
                raise DataError(
                    f"Response {row['response_id']} has the score {row['value']}; look for a diverged model."
                )

        def work(unit: Unit) -> int:
            added = 0
            for chunk in chunks(rows):
                new = _insert_new(unit).values(chunk).returning(tables.score.c.response_id)
                added += len(unit.connection.execute(new).all())
            for model in sorted({row["preference_model_id"] for row in rows}):
                unit.log("store", "scores.added", model, count=added)
            return added

        return self._write(work)

    def scores(self, preference_model_id: str) -> dict[str, float]:
        """Score by response id."""
        table = tables.score
        statement = select(table.c.response_id, table.c.value).where(table.c.preference_model_id == preference_model_id)
        with self._read() as connection:
            return {row.response_id: row.value for row in connection.execute(statement)}

    def save_round(self, round: Round) -> Round:
        """Keeps the round as a new version; earlier ones stay."""

        def work(unit: Unit) -> Round:
            unit.insert(tables.round_, {**round.model_dump(), "saved_at": now()})
            unit.log("loop", "round.saved", round.id, number=round.number, step=round.step, state=round.state)
            return round

        return self._write(work)

    def round(self, number: int | None = None) -> Round | None:
        """The latest version of a round, of the newest round without a number; None where there is none."""
        table = tables.round_
        wanted = number if number is not None else select(func.max(table.c.number)).scalar_subquery()
        statement = select(table).where(table.c.number == wanted).order_by(table.c.version.desc()).limit(1)
        with self._read() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return None if row is None else round_from(row)

    def add_eval_results(self, results: Iterable[EvalResult]) -> None:
        """Keeps evaluation numbers.

        Errors:
            DataError: a value or bound that is not a number (NaN).
        """
        kept = list(results)
        for result in kept:
            if any(math.isnan(part) for part in (result.value.value, result.value.low, result.value.high)):
                raise DataError(f"{result.metric} of {result.model_id} is not a number; leave an empty metric out.")

        def work(unit: Unit) -> None:
            unit.insert(tables.eval_result, *(eval_result_row(result) for result in kept))
            for result in kept:
                unit.log("evals", "eval_result.added", result.id, model_id=result.model_id, metric=result.metric)

        self._write(work)

    def eval_results(
        self, evaluation: str | None = None, model_id: str | None = None, metric: str | None = None
    ) -> list[EvalResult]:
        """Evaluation numbers, oldest first, of one evaluation, model or metric where given."""
        table = tables.eval_result
        wanted = matching(
            evaluation=(table.c.evaluation, evaluation),
            model_id=(table.c.model_id, model_id),
            metric=(table.c.metric, metric),
        )
        with self._read() as connection:
            rows = connection.execute(select(table).where(*wanted).order_by(table.c.id)).mappings()
            return [eval_result_from(row) for row in rows]

    def log(self, actor: str, verb: str, object_id: str, payload: dict[str, Any] | None = None) -> None:
        """Notes in the event log what no other write would."""
        self._write(lambda unit: unit.log(actor, verb, object_id, **(payload or {})))

    def events(self, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events with an id above `after`, oldest first. Ids rise in order of commit, so a reader misses none."""
        table = tables.event
        statement = select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)
        with self._read() as connection:
            return [Event(**row) for row in connection.execute(statement).mappings()]


def _insert_new(unit: Unit) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that leaves what is there alone; each engine has its own spelling of it."""
    if unit.connection.dialect.name == "postgresql":
        return postgresql.insert(tables.score).on_conflict_do_nothing()
    return sqlite.insert(tables.score).on_conflict_do_nothing()
