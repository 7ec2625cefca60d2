"""Position and length bias of choices, and the clustered logit behind them. Knows choices, not people or texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy import special

from prefloop.errors import DataError
from prefloop.schema import Interval, Noun
from prefloop.stats.intervals import (
    LEVEL,
    RESAMPLES,
    UNBOUNDED,
    Floats,
    Labels,
    clustered_share,
    observation_codes,
)


class LengthBias(Noun):
    """What length does to a choice."""

    longer_wins: Interval = Field(description="share won by the longer one; pairs of equal length are left out")
    slope: Interval | None = Field(
        description="log-odds of choosing the first per unit of ln(first length / second length); None: see `why_none`"
    )
    intercept: Interval | None = Field(
        description="log-odds of choosing the first at equal length: the position's part"
    )
    why_none: str = ""


def position_bias(
    is_first_chosen: Sequence[bool] | Floats,
    clusters: Labels | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Share of choices that fell on the first (shown as A). With sides drawn by chance, fair choices give 0.5.

    Errors:
        DataError: no choices.
    """
    return clustered_share(np.asarray(is_first_chosen, dtype=np.float64), clusters, seed=seed, resamples=resamples)


def length_bias(
    first_lengths: Sequence[float] | Floats,
    second_lengths: Sequence[float] | Floats,
    is_first_chosen: Sequence[bool] | Floats,
    clusters: Labels | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> LengthBias:
    """Share won by the longer, and a logit of the choice on the log of the ratio of lengths (in any unit).

    An empty text counts as length 1. Length may also help honestly; a slope alone is no proof of a bad judge.

    Errors:
        DataError: no choices, or all lengths equal. Where only the logit has no solution, the share still stands.
    """
    first = np.maximum(np.asarray(first_lengths, dtype=np.float64), 1)
    second = np.maximum(np.asarray(second_lengths, dtype=np.float64), 1)
    chosen = np.asarray(is_first_chosen, dtype=np.float64)
    if not len(first) == len(second) == len(chosen):
        raise DataError(f"{len(first)} and {len(second)} lengths do not fit {len(chosen)} choices; give one of each.")
    labels = observation_codes(clusters, len(chosen))
    differs = np.flatnonzero(first != second)
    if differs.size == 0:
        raise DataError(f"In none of {len(chosen)} choices do the lengths differ, so length bias is unknown.")
    longer = np.where(first > second, chosen, 1 - chosen)[differs]
    share = clustered_share(longer, labels[differs], seed=seed, resamples=resamples)
    try:
        intercept, slope = logit(np.column_stack([np.ones(len(chosen)), np.log(first / second)]), chosen, labels)
    except DataError as error:
        return LengthBias(longer_wins=share, slope=None, intercept=None, why_none=str(error))
    return LengthBias(longer_wins=share, slope=slope, intercept=intercept)


def logit(predictors: Floats, outcomes: Floats, clusters: Labels | None = None) -> list[Interval]:
    """Logistic regression by maximum likelihood, one coefficient per column, with cluster-robust t intervals.

    Args:
        predictors: (observation, column); add a column of ones for an intercept.
        outcomes: 0 or 1 each.

    Errors:
        DataError: columns that depend on each other, or outcomes that the predictors separate completely.
    """
    design, outcome = np.asarray(predictors, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    return _robust(design, outcome, logit_point(design, outcome), clusters)


def logit_point(predictors: Floats, outcomes: Floats) -> Floats:
    """The coefficients of `logit` alone, (column,).

    Errors:
        DataError: as of `logit`.
    """
    design, outcome = np.asarray(predictors, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    beta = np.zeros(design.shape[1])
    if len(outcome) == 0 or np.linalg.matrix_rank(design.T @ design) < design.shape[1]:
        raise DataError(f"{len(outcome)} observations do not determine {design.shape[1]} coefficients; add others.")
    for _ in range(50):
        chance = special.expit(design @ beta)
        information = design.T @ (design * (chance * (1 - chance))[:, None])
        if np.linalg.cond(information) > 1e12:
            break
        step = np.linalg.solve(information, design.T @ (outcome - chance))
        beta += step * min(1.0, 4 / max(float(np.abs(step).max()), 1e-12))  # far steps are shortened, not skipped
        if np.abs(step).max() < 1e-10:
            return beta
    raise DataError(
        f"The {len(outcome)} outcomes are separated by the predictors, so no finite slope fits; add others."
    )


def _robust(design: Floats, outcome: Floats, beta: Floats, clusters: Labels | None) -> list[Interval]:
    """Sandwich intervals: the spread of the clusters' scores, with C/(C-1) and t with C-1 degrees of freedom."""
    chance = special.expit(design @ beta)
    scores = design * (outcome - chance)[:, None]
    codes = observation_codes(clusters, len(outcome))
    count = int(codes.max()) + 1
    if count < 2:
        return [Interval(value=float(b), low=UNBOUNDED[0], high=UNBOUNDED[1], n=len(outcome), clusters=1) for b in beta]
    summed = np.zeros((count, design.shape[1]))
    np.add.at(summed, codes, scores)
    inverse = np.linalg.inv(design.T @ (design * (chance * (1 - chance))[:, None]))
    covariance = inverse @ (summed.T @ summed) @ inverse * count / (count - 1)
    half = special.stdtrit(count - 1, 0.5 + LEVEL / 2) * np.sqrt(np.diag(covariance))
    return [
        Interval(value=float(b), low=float(b - h), high=float(b + h), n=len(outcome), clusters=count)
        for b, h in zip(beta, half, strict=True)
    ]
