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


def measured(compute: Callable[[], Interval]) -> Measured:
    """The interval, or the sentence of the DataError that says what is missing; one cluster is no measurement."""
    try:
        return known(compute())
    except DataError as error:
        return Measured(unknown=str(error))


def known(interval: Interval) -> Measured:
    """The interval, unless it says nothing: one conversation, or no bound on a side."""
    if interval.clusters is not None and interval.clusters < 2:
        return Measured(unknown=f"All {interval.n} observations come from one conversation; a second one is needed.")
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return Measured(unknown=f"The {interval.n} observations do not bound the number; collect more.")
    return Measured(interval=interval)


def geometric(part: Measured) -> Measured:
    """The interval of a mean logarithm as that of the geometric mean."""
    if part.interval is None:
        return part
    ends = {name: math.exp(getattr(part.interval, name)) for name in ("value", "low", "high")}
    return Measured(interval=part.interval.model_copy(update=ends))
