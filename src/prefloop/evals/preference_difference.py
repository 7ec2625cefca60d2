"""How far one preference model (PM) is ahead of another: differences pair by pair on the comparisons that both scored.

What two models get wrong overlaps, so the interval of their difference is narrower than those of the two accuracies
suggest, and two accuracies whose intervals overlap can be well apart. Knows evaluations, no models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.evals.preference import PreferenceEvaluation, conversation_numbers, shares_right
from prefloop.evals.slices import MODE_AND_TRANCHE, slice_names, slice_order
from prefloop.schema import EvalResult, Interval, Noun, PreferencePair
from prefloop.stats import clustered_mean

__all__ = ["ALL_PAIRS", "PreferenceDifference", "preference_differences"]

ALL_PAIRS = "all"


class PreferenceDifference(Noun):
    """`one` less `other` on the same comparisons; clusters are conversations."""

    one: str
    other: str
    accuracy: Mapping[str, Interval] = Field(description="on all comparisons, and by kind where there are several")
    loss: Interval = Field(description="nats; below 0 `one` is the better")

    def results(self, data: str = "") -> list[EvalResult]:
        """Rows of the store, of `one`; the other model and the kind stand behind the description of the data."""
        rows = [("loss_difference", self.loss, ALL_PAIRS)]
        rows += [("accuracy_difference", value, kind) for kind, value in self.accuracy.items()]
        return [
            EvalResult(
                evaluation="preference",
                model_id=self.one,
                metric=f"preference_eval/{name}",
                value=value,
                data=f"{data} less {self.other}{'' if kind == ALL_PAIRS else f', {kind}'}".strip(),
            )
            for name, value, kind in rows
        ]


def preference_differences(
    evaluations: Mapping[str, PreferenceEvaluation],
    pairs: Sequence[PreferencePair],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[PreferenceDifference, ...]:
    """Every two of the models, which were all evaluated on exactly `pairs`.

    Args:
        groups: the kind of each pair; None takes its mode and tranche.

    Errors:
        DataError: an evaluation of another number of pairs.
    """
    for name, evaluation in evaluations.items():
        if len(evaluation.differences) != len(pairs):
            raise DataError(
                f"{name} was evaluated on {len(evaluation.differences)} pairs and not on these {len(pairs)}; evaluate "
                "all models on the pairs that all of them take."
            )
    if len(evaluations) < 2:
        return ()
    clusters = conversation_numbers(pairs)
    names = slice_names(pairs)[MODE_AND_TRANCHE] if groups is None else groups
    places = {ALL_PAIRS: np.arange(len(pairs))}
    if len(kinds := slice_order(MODE_AND_TRANCHE, names)) > 1:
        places |= {kind: np.array([i for i, name in enumerate(names) if name == kind]) for kind in kinds}
    margins = {name: np.array(evaluation.differences) for name, evaluation in evaluations.items()}
    right = {name: shares_right(margin) for name, margin in margins.items()}
    losses = {name: np.logaddexp(0, -margin) for name, margin in margins.items()}
    return tuple(
        PreferenceDifference(
            one=one,
            other=other,
            accuracy={
                kind: clustered_mean(
                    right[one][here] - right[other][here], clusters[here], bounds=(-1.0, 1.0), seed=seed
                )
                for kind, here in places.items()
            },
            loss=clustered_mean(losses[one] - losses[other], clusters, seed=seed),
        )
        for one, other in combinations(evaluations, 2)
    )
