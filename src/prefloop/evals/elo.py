"""Elo of snapshots from people's judgments: who beat whom, with intervals (paper 2.4, B.5).

Takes pairs as the store or an import gives them, leaves out what says nothing about two snapshots, and hands the rest
to `stats`. Knows no models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import Field

from prefloop.errors import DataError
from prefloop.schema import WEAKEST_GRADES, EvalResult, Noun, PreferencePair
from prefloop.stats import EloTable, elo

__all__ = ["SnapshotElo", "evaluate_elo"]

_Reason = Literal["weakest grade", "no snapshot", "the same snapshot"]


class SnapshotElo(Noun):
    """Ratings of snapshots against the anchor, and how many judgments stand behind them."""

    table: EloTable
    judgments: int = Field(description="judgments used")
    dropped: Mapping[str, int] = Field(description="judgments left out, by reason")
    cluster_by: Literal["conversation", "worker"]

    def results(self, data: str = "") -> list[EvalResult]:
        """One row a snapshot; the anchor's is 0 by definition."""
        where = f"{data} anchor={self.table.anchor} clusters={self.cluster_by}".strip()
        return [
            EvalResult(evaluation="elo", model_id=snapshot, metric="elo/rating", value=rating, data=where)
            for snapshot, rating in self.table.ratings.items()
        ]


def evaluate_elo(
    pairs: Iterable[PreferencePair],
    anchor: str,
    *,
    cluster_by: Literal["conversation", "worker"] = "conversation",
    seed: int = 0,
) -> SnapshotElo:
    """Elo from judged comparisons between different snapshots, `anchor` at 0.

    Every judgment is one win for the preferred side. Judgments with the two weakest grades are left out, as are
    comparisons of a snapshot with itself and responses of no known snapshot.

    Args:
        pairs: `Store.pairs(...)`, or imported ones with `chosen_snapshot_id` and `rejected_snapshot_id`.
        anchor: id of the snapshot whose rating is 0 (the base).
        cluster_by: what judgments have in common: their conversation, or their worker. A pair without the label
            is a cluster of its own.

    Errors:
        DataError: nothing is left to rate, or the anchor was never compared.
    """
    dropped: Counter[str] = Counter()
    chosen, rejected, clusters = [], [], []
    for number, pair in enumerate(pairs):
        reason = _reason_to_drop(pair)
        if reason is not None:
            dropped[reason] += 1
            continue
        chosen.append(str(pair.chosen_snapshot_id))
        rejected.append(str(pair.rejected_snapshot_id))
        label = pair.conversation_id if cluster_by == "conversation" else pair.worker_id
        clusters.append(label or f"pair {number}")
    if not chosen:
        left_out = ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "there were none"
        raise DataError(f"No judgment compares two snapshots ({left_out}); collect some with compare = 'distinct'.")
    table = elo(chosen, rejected, [1.0] * len(chosen), clusters, anchor=anchor, seed=seed)
    return SnapshotElo(table=table, judgments=len(chosen), dropped=dict(dropped), cluster_by=cluster_by)


def _reason_to_drop(pair: PreferencePair) -> _Reason | None:
    if pair.grade in WEAKEST_GRADES:
        return "weakest grade"
    if pair.chosen_snapshot_id is None or pair.rejected_snapshot_id is None:
        return "no snapshot"
    if pair.chosen_snapshot_id == pair.rejected_snapshot_id:
        return "the same snapshot"
    return None
