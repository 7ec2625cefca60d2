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
from prefloop.stats.intervals import RESAMPLES, SHARE, Floats, Ints, Labels, bootstrap_interval, label_codes

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
