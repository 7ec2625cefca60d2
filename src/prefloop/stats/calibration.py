"""How far scores can be trusted: differences as probabilities (paper 3.3, Figure 9), and accuracy among high scores
(Figure 25). Knows scores, not scorers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.schema import Interval, Noun
from prefloop.stats.intervals import (
    RESAMPLES,
    SHARE,
    Floats,
    Labels,
    bootstrap_interval,
    cluster_sums,
    clustered_share,
    finite_array,
    observation_codes,
)


class CalibrationBin(Noun):
    """Pairs whose absolute score difference is within [low, high]."""

    low: float
    high: float
    mean_difference: float
    expected: float = Field(description="mean of 1/(1+exp(-|difference|)) in the bin")
    accuracy: Interval


class AboveThreshold(Noun):
    """Accuracy on the pairs both of whose scores are at least `threshold`."""

    threshold: float
    accuracy: Interval


class Calibration(Noun):
    """Accuracy against what the differences promise."""

    bins: tuple[CalibrationBin, ...]
    accuracy: Interval
    expected_accuracy: Interval
    calibration_error: Interval = Field(
        description="expected calibration error: mean |accuracy - expected| over bins, weighted by pairs; never "
        "negative, so a small sample of a calibrated scorer gives more than 0"
    )


def calibration(
    differences: Sequence[float] | Floats,
    clusters: Labels | None = None,
    *,
    bins: int = 10,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Calibration:
    """Calibration of score(chosen) - score(rejected), in bins of about equal counts of the absolute difference.

    A difference of 0 counts as half right. Equal differences are never split over two bins.

    Errors:
        DataError: no differences, or one that is not finite.
    """
    given = finite_array(differences)
    labels = observation_codes(clusters, len(given))
    right = (np.sign(given) + 1) / 2
    size = np.abs(given)
    expected = 1 / (1 + np.exp(-size))
    accuracy = clustered_share(right, labels, seed=seed, resamples=resamples)
    promised = clustered_share(expected, labels, seed=seed, resamples=resamples)
    edges = np.unique(np.quantile(size, np.linspace(0, 1, bins + 1)))
    place = np.clip(np.searchsorted(edges, size, side="right") - 1, 0, max(len(edges) - 2, 0))
    rows = []
    columns = np.zeros((len(given), 2 * (int(place.max()) + 1)))
    for number in np.unique(place):
        is_here = place == number
        columns[is_here, 2 * number] = right[is_here] - expected[is_here]
        columns[is_here, 2 * number + 1] = 1
        rows.append(
            CalibrationBin(
                low=float(size[is_here].min()),
                high=float(size[is_here].max()),
                mean_difference=float(size[is_here].mean()),
                expected=float(expected[is_here].mean()),
                accuracy=clustered_share(right[is_here], labels[is_here], seed=seed, resamples=resamples),
            )
        )
    error = bootstrap_interval(
        cluster_sums(columns, labels),
        lambda sums: np.abs(sums[:, 0::2]).sum(axis=1) / sums[:, 1::2].sum(axis=1),
        n=len(given),
        bounds=SHARE,
        seed=seed,
        resamples=resamples,
    )
    return Calibration(bins=tuple(rows), accuracy=accuracy, expected_accuracy=promised, calibration_error=error)


def accuracy_above(
    scores_chosen: Sequence[float] | Floats,
    scores_rejected: Sequence[float] | Floats,
    clusters: Labels | None = None,
    *,
    thresholds: int = 10,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[AboveThreshold, ...]:
    """Accuracy (ties half) against a lower bound on both scores of a pair.

    The thresholds lie where each keeps about one share of 1 / `thresholds` of the pairs less than the one before.

    Errors:
        DataError: no scores, one that is not finite, or lengths that differ.
    """
    chosen, rejected = finite_array(scores_chosen), finite_array(scores_rejected)
    if len(chosen) != len(rejected) or len(chosen) == 0:
        raise DataError(f"{len(chosen)} and {len(rejected)} scores do not pair up; give one of each for every pair.")
    labels = observation_codes(clusters, len(chosen))
    right, lower = (np.sign(chosen - rejected) + 1) / 2, np.minimum(chosen, rejected)
    rows = []
    for threshold in np.unique(np.quantile(lower, np.arange(thresholds) / thresholds, method="higher")):
        is_here = lower >= threshold
        accuracy = clustered_share(right[is_here], labels[is_here], seed=seed, resamples=resamples)
        rows.append(AboveThreshold(threshold=float(threshold), accuracy=accuracy))
    return tuple(rows)
