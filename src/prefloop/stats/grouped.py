"""The same number for each of many groups (workers, weeks) at once, with clustered 95% intervals, without resampling.

A thousand bootstraps for each of a thousand workers would take minutes; the linearised variance of a ratio, summed
over clusters, says the same. Shares get Wilson's interval on the number of independent observations that would
spread as much (Korn and Graubard 1998), so it stays within 0 and 1; means get Student's t. Knows numbers and labels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import special

from prefloop.schema import Interval
from prefloop.stats.intervals import LEVEL, UNBOUNDED, Floats, Ints


class _Spread(NamedTuple):
    """(group,) each."""

    value: Floats
    deviation: Floats  # standard error, clusters independent
    weight: Floats  # sum of denominators
    clusters: Ints


def grouped_shares(hits: Floats, tries: Floats, groups: Ints, clusters: Ints, count: int) -> list[Interval | None]:
    """Sum of hits over sum of tries in each group 0 ... count - 1; None where nothing was tried.

    Args:
        hits: (observation,) within 0 and tries.
        tries: (observation,) 1 for a plain share.
        groups: (observation,) whole numbers below `count`.
        clusters: (observation,) whole numbers from 0 on; of one cluster, observations may resemble each other.

    A group of one cluster has the interval from 0 to 1.
    """
    spread = _spread(hits, tries, groups, clusters, count)
    found: list[Interval | None] = []
    for value, deviation, weight, number in zip(*spread, strict=True):
        if weight == 0:
            found.append(None)
            continue
        low, high = (0.0, 1.0) if number < 2 else _wilson(value, deviation, weight, number)
        found.append(Interval(value=value, low=low, high=high, n=round(weight), clusters=int(number)))
    return found


def grouped_means(values: Floats, groups: Ints, clusters: Ints, count: int) -> list[Interval | None]:
    """Mean of the values in each group 0 ... count - 1; None for an empty one, unbounded with one cluster."""
    spread = _spread(values, np.ones(len(values)), groups, clusters, count)
    found: list[Interval | None] = []
    for value, deviation, weight, number in zip(*spread, strict=True):
        if weight == 0:
            found.append(None)
            continue
        half = np.inf if number < 2 else _t(number) * deviation
        low, high = UNBOUNDED if number < 2 else (float(value - half), float(value + half))
        found.append(Interval(value=value, low=low, high=high, n=round(weight), clusters=int(number)))
    return found


def _spread(above: Floats, below: Floats, groups: Ints, clusters: Ints, count: int) -> _Spread:
    weight = np.bincount(groups, weights=below, minlength=count)
    total = np.bincount(groups, weights=above, minlength=count)
    with np.errstate(invalid="ignore"):
        value = total / weight
    is_counted = below != 0
    groups, clusters, rest = groups[is_counted], clusters[is_counted], (above - below * value[groups])[is_counted]
    width = int(clusters.max(initial=0)) + 1
    pairs, place = np.unique(groups * width + clusters, return_inverse=True)
    summed = np.bincount(place, weights=rest, minlength=len(pairs))
    owner = pairs // width
    number: Ints = np.bincount(owner, minlength=count).astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.bincount(owner, weights=summed**2, minlength=count) * number / (number - 1) / weight**2
    return _Spread(value, np.sqrt(variance), np.asarray(weight, dtype=np.float64), number)


def _wilson(share: float, deviation: float, n: float, clusters: int) -> tuple[float, float]:
    """Wilson's ends with t for z on as many independent observations as spread like these; `clusters` at no spread."""
    independent = float(clusters) if deviation == 0 else min(share * (1 - share) / deviation**2, n)
    t = _t(clusters)
    centre = (share + t * t / (2 * independent)) / (1 + t * t / independent)
    half = t / (1 + t * t / independent) * np.sqrt(share * (1 - share) / independent + (t / (2 * independent)) ** 2)
    return min(max(float(centre - half), 0.0), share), max(min(float(centre + half), 1.0), share)


def _t(clusters: int) -> float:
    return float(special.stdtrit(clusters - 1, 0.5 + LEVEL / 2))
