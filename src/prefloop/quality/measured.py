"""A number or the reason why there is none, and how one is made. Knows intervals, and nothing of what is measured."""

from __future__ import annotations

import math
from collections.abc import Callable

from prefloop.errors import DataError
from prefloop.schema import Interval, Noun


class Measured(Noun):
    """A number with its interval and n, or the sentence that says why it cannot be known. Never both."""

    interval: Interval | None = None
    unknown: str = ""


LEAST_CLUSTERS = 6
"""Fewer conversations (or workers) give no interval by resampling: the middle of five values lies outside all five in
2 * 0.5**5 = 6% of cases, so that not even their whole range is a 95% interval."""


def measured(compute: Callable[[], Interval], clusters: str = "conversations") -> Measured:
    """A resampled interval, or why there is none: the sentence of a DataError, or too few clusters (of that name)."""
    try:
        return known(compute(), LEAST_CLUSTERS, clusters)
    except DataError as error:
        return Measured(unknown=str(error))


def known(interval: Interval, least: int = 2, clusters: str = "conversations") -> Measured:
    """The interval, unless it says nothing: fewer than `least` clusters (of that name), or no bound on a side."""
    if interval.clusters is not None and interval.clusters < least:
        where = f"one {clusters[:-1]}" if interval.clusters == 1 else f"{interval.clusters} {clusters}"
        return Measured(unknown=f"All {interval.n} observations come from {where}; {least} are needed for an interval.")
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return Measured(unknown=f"The {interval.n} observations do not bound the number; collect more.")
    return Measured(interval=interval)


def geometric(part: Measured) -> Measured:
    """The interval of a mean logarithm as that of the geometric mean."""
    if part.interval is None:
        return part
    ends = {name: math.exp(getattr(part.interval, name)) for name in ("value", "low", "high")}
    return Measured(interval=part.interval.model_copy(update=ends))
