"""How far scores can be trusted: differences as probabilities (paper 3.3, Figure 9), and accuracy among high scores
(Figure 25). Knows scores, not scorers.

The calibration error is a sum of absolute values, which noise alone makes positive: a bootstrap draw is noisier than
the data, so percentiles of draws lie above the estimate and need not hold it. Here the value is less the bias that the
draws show (2 plain - mean of the draws; Kumar et al. 2019, "Verified uncertainty calibration", section 4, with clusters
resampled). The ends are of two other sums that are off in a known direction, each with the reach of Student's t. The
upper one is of the plain sum, which is never too small in expectation. The lower one is of what a random half of
the clusters finds by the signs that the other half shows, which is never too large, and 0 for a calibrated scorer. So
the interval is rather too wide than too narrow, and it always holds its value.
"""

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
    Floats,
    Labels,
    cluster_sums,
    clustered_share,
    finite_array,
    observation_codes,
    resampled_sums,
    wilson,
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
        description="expected calibration error: mean |accuracy - expected| over bins, weighted by pairs, less what "
        "noise adds to it"
    )
    plain_error: float | None = Field(
        None, description="the same with the noise, as papers report it: a calibrated scorer gives more than 0"
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
    columns = np.zeros((len(given), int(place.max()) + 2))
    columns[:, -1] = 1
    for number in np.unique(place):
        is_here = place == number
        columns[is_here, number] = right[is_here] - expected[is_here]
        rows.append(
            CalibrationBin(
                low=float(size[is_here].min()),
                high=float(size[is_here].max()),
                mean_difference=float(size[is_here].mean()),
                expected=float(expected[is_here].mean()),
                accuracy=clustered_share(right[is_here], labels[is_here], seed=seed, resamples=resamples),
            )
        )
    gaps = cluster_sums(columns, labels)
    return Calibration(
        bins=tuple(rows),
        accuracy=accuracy,
        expected_accuracy=promised,
        calibration_error=_calibration_error(gaps, len(given), seed, resamples),
        plain_error=float(np.abs(_signed_gaps(gaps.sum(axis=0, keepdims=True))).sum()),
    )


def _calibration_error(sums: Floats, n: int, seed: int, resamples: int) -> Interval:
    """From the (cluster, bin + 1) sums of right - expected by bin and of the observations."""
    gaps = _signed_gaps(sums.sum(axis=0, keepdims=True))
    plain, clusters = float(np.abs(gaps).sum()), len(sums)
    if clusters < 2:
        return Interval(value=plain, low=0.0, high=1.0, n=n, clusters=clusters)
    draws = _signed_gaps(resampled_sums(sums, resamples, np.random.default_rng(seed)))
    spreads = draws.std(axis=0)
    if spreads.max() < 1e-12:
        flat = wilson(plain * clusters, clusters)
        return flat.model_copy(update={"value": plain, "n": n})
    plain_draws, halved_draws = np.abs(draws).sum(axis=1), _by_halves(draws, spreads)
    t = float(special.stdtrit(clusters - 1, 0.5 + LEVEL / 2))
    return Interval(
        value=max(0.0, 2 * plain - float(plain_draws.mean())),
        low=max(0.0, float(_by_halves(gaps, spreads)[0] - t * halved_draws.std())),
        high=min(1.0, plain + t * float(plain_draws.std())),
        n=n,
        clusters=clusters,
    )


def _signed_gaps(sums: Floats) -> Floats:
    """(resample, bin): accuracy - expected, weighted by the bin's share of the observations."""
    return sums[:, :-1] / sums[:, -1:]


def _by_halves(gaps: Floats, spreads: Floats) -> Floats:
    """(resample,): sum over bins of one half's gap times the sign of the other half's, on average over the halvings.

    A gap d of standard error s splits into d + e and d - e with e normal of deviation s, and the mean of
    sign(d + e) (d - e) is |d| (2 Phi(|d|/s) - 1) - 2 s phi(d/s).
    """
    sizes = np.abs(gaps)
    z = sizes / np.maximum(spreads, 1e-300)
    density = np.exp(-(np.minimum(z, 40.0) ** 2) / 2) / np.sqrt(2 * np.pi)
    found: Floats = (sizes * (2 * special.ndtr(z) - 1) - 2 * spreads * density).sum(axis=1)
    return found


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
