"""Agreement between raters: raw and chance-corrected, with intervals. Knows units and values, not who judged what.

A unit is what was judged (a comparison), a value is one rater's answer, oriented to the thing and not to the screen.
Krippendorff's alpha needs neither the same raters nor the same number of them on each unit. Units (or the clusters
that they come from) are resampled, since the units are the sample of what could have been judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from prefloop.errors import DataError
from prefloop.schema import Interval
from prefloop.stats.intervals import (
    RESAMPLES,
    SHARE,
    Floats,
    Ints,
    Labels,
    bootstrap_interval,
    label_codes,
    observation_codes,
)

Metric = Literal["nominal", "ordinal"]


def raw_agreement(
    units: Labels,
    values: Sequence[float] | Floats,
    clusters: Labels | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Share of pairs of judgments of one unit that give the same value; n counts those pairs.

    Errors:
        DataError: no unit has two judgments.
    """
    counts, groups = _overlapping(units, values, clusters)
    size = counts.sum(axis=1)
    columns = np.column_stack([(counts * (counts - 1)).sum(axis=1) / 2, size * (size - 1) / 2])
    pairs = round(columns[:, 1].sum())
    return bootstrap_interval(
        _summed(columns, groups), lambda s: s[:, 0] / s[:, 1], n=pairs, bounds=SHARE, seed=seed, resamples=resamples
    )


def krippendorff_alpha(
    units: Labels,
    values: Sequence[float] | Floats,
    clusters: Labels | None = None,
    *,
    metric: Metric = "nominal",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Krippendorff's alpha: 1 is perfect agreement, 0 what chance gives; n counts the judgments that overlap.

    Args:
        units: the unit of each judgment.
        values: the value of each judgment; for 'ordinal' their order is that of the numbers.
        clusters: the cluster of each judgment, constant within a unit; None takes the units themselves.

    Errors:
        DataError: no unit has two judgments, or all judgments have the same value (agreement by chance is then 1).
    """
    counts, groups = _overlapping(units, values, clusters)
    kinds = counts.shape[1]
    if kinds < 2:
        raise DataError(f"All {round(counts.sum())} overlapping judgments have one value, so alpha is not defined.")
    size = counts.sum(axis=1)
    ordered = counts[:, :, None] * counts[:, None, :]  # (unit, value, value): ordered pairs, then without self-pairs
    ordered[:, np.arange(kinds), np.arange(kinds)] -= counts
    coincidences = (ordered / (size - 1)[:, None, None]).reshape(len(counts), -1)
    return bootstrap_interval(
        _summed(coincidences, groups),
        lambda sums: _alpha(sums.reshape(-1, kinds, kinds), metric),
        n=round(size.sum()),
        bounds=(-1.0, 1.0),
        seed=seed,
        resamples=resamples,
    )


def cohen_kappa(
    first: Sequence[float] | Floats,
    second: Sequence[float] | Floats,
    clusters: Labels | None = None,
    *,
    weights: Literal["none", "quadratic"] = "none",
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Cohen's kappa of two raters on the same units: 1 is perfect agreement, 0 what their own habits give by chance.

    Args:
        first, second: the two raters' values of each unit.
        weights: 'quadratic' counts a disagreement by its square, for grades.

    Errors:
        DataError: lengths differ, no units, or both gave one value all along (agreement by chance is then 1).
    """
    if len(first) != len(second) or len(first) == 0:
        raise DataError(f"{len(first)} and {len(second)} values do not pair up; give both raters' values of each unit.")
    kinds, codes = np.unique(np.concatenate([first, second]).astype(np.float64), return_inverse=True)
    if len(kinds) < 2:
        raise DataError(f"Both raters gave one value to all {len(first)} units, so kappa is not defined.")
    one, other = codes[: len(first)], codes[len(first) :]
    tables = np.zeros((len(one), len(kinds) ** 2))
    tables[np.arange(len(one)), one * len(kinds) + other] = 1
    unlike = 1 - np.eye(len(kinds)) if weights == "none" else (kinds[:, None] - kinds[None, :]) ** 2

    def kappa(sums: Floats) -> Floats:
        table = sums.reshape(-1, len(kinds), len(kinds))
        observed = (table * unlike).sum(axis=(1, 2)) * table.sum(axis=(1, 2))
        expected = (table.sum(axis=2)[:, :, None] * table.sum(axis=1)[:, None, :] * unlike).sum(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(expected > 0, 1 - observed / expected, np.nan)

    groups = observation_codes(clusters, len(one))
    return bootstrap_interval(
        _summed(tables, groups), kappa, n=len(one), bounds=(-1.0, 1.0), seed=seed, resamples=resamples
    )


def accuracy_ceiling(agreement: Interval) -> Interval:
    """From the agreement of two workers, the most that any scorer is expected to agree with one: (1+sqrt(2a-1))/2.

    With p the chance that a worker drawn at random prefers side a, two workers agree with 1 - 2p(1-p) = (1 + u^2) / 2
    where u = |2p - 1|, and the best scorer agrees with one worker with (1 + u) / 2. As the mean of u is at most the
    root of the mean of u^2, the best accuracy is at most this, and at least the agreement.
    """
    ends = {name: (1 + max(2 * getattr(agreement, name) - 1, 0.0) ** 0.5) / 2 for name in ("value", "low", "high")}
    return agreement.model_copy(update=ends)


def _alpha(coincidences: Floats, metric: Metric) -> Floats:
    """(table, value, value) -> (table,); NaN where only one value is left."""
    marginals = coincidences.sum(axis=2)
    if metric == "nominal":
        distance = np.broadcast_to(1 - np.eye(marginals.shape[1]), coincidences.shape)
    else:  # squared number of judgments between two values, half of those at the ends
        middle = np.cumsum(marginals, axis=1) - marginals / 2
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
    observed = (coincidences * distance).sum(axis=(1, 2))
    expected = (marginals[:, :, None] * marginals[:, None, :] * distance).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (marginals.sum(axis=1) - 1) * observed / expected
    return np.where(expected > 0, 1 - ratio, np.nan)


def _overlapping(units: Labels, values: Sequence[float] | Floats, clusters: Labels | None) -> tuple[Floats, Ints]:
    """Counts of each value per unit with two or more judgments, (unit, value), and the cluster number of each unit."""
    answers = np.asarray(values, dtype=np.float64)
    if len(units) != len(answers):
        raise DataError(f"{len(units)} units and {len(answers)} values do not pair up; give one unit for each value.")
    unit_codes, names = label_codes(units)
    kinds, value_codes = np.unique(answers, return_inverse=True)
    cells = unit_codes * len(kinds) + value_codes
    counts = np.bincount(cells, minlength=len(names) * len(kinds)).reshape(len(names), len(kinds)).astype(np.float64)
    is_shared = counts.sum(axis=1) >= 2
    if not is_shared.any():
        raise DataError(f"None of {len(names)} units has two judgments, so agreement is unknown; collect overlap.")
    if clusters is None:
        groups = np.arange(len(names))
    else:
        cluster_codes, _ = label_codes(clusters)
        groups = np.zeros(len(names), dtype=np.int64)
        groups[unit_codes] = cluster_codes
    counts = counts[is_shared]
    return counts[:, counts.sum(axis=0) > 0], label_codes(groups[is_shared])[0]


def _summed(columns: Floats, groups: Ints) -> Floats:
    return np.column_stack([np.bincount(groups, weights=column) for column in columns.T])
