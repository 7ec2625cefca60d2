"""A straight line through points, with R squared. Knows numbers only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field
from scipy import special

from prefloop.errors import DataError
from prefloop.schema import Interval, Noun
from prefloop.stats.intervals import LEVEL, Floats


class LinearFit(Noun):
    """y = intercept + slope x by least squares."""

    slope: Interval
    intercept: Interval
    r_squared: float = Field(description="share of the variance of y that the line explains; 0 where y is constant")


class FittedPoint(Noun):
    """Where the line lies at x, with the 95% band of the line (not of single points)."""

    x: float
    y: Interval


def fitted_line(
    x: Sequence[float] | Floats, y: Sequence[float] | Floats, at: Sequence[float] | Floats
) -> tuple[FittedPoint, ...]:
    """The least-squares line of `linear_fit` at the places `at`, with its Student-t band.

    Errors:
        DataError: as `linear_fit`.
    """
    fit = linear_fit(x, y)
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n, x_mean = len(xs), xs.mean()
    residuals = ys - fit.intercept.value - fit.slope.value * xs
    variance = (residuals**2).sum() / (n - 2)
    t = special.stdtrit(n - 2, 0.5 + LEVEL / 2)
    points = []
    for place in np.asarray(at, dtype=np.float64):
        value = fit.intercept.value + fit.slope.value * place
        half = t * np.sqrt(variance * (1 / n + (place - x_mean) ** 2 / ((xs - x_mean) ** 2).sum()))
        points.append(FittedPoint(x=place, y=Interval(value=value, low=value - half, high=value + half, n=n)))
    return tuple(points)


def linear_fit(x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> LinearFit:
    """Least squares with Student-t intervals, which take points as independent; successive steps of a run are not.

    Errors:
        DataError: fewer than three points, x that does not vary, values that are not finite, lengths that differ.
    """
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    n = len(xs)
    if n != len(ys) or n < 3 or not (np.isfinite(xs).all() and np.isfinite(ys).all()) or np.ptp(xs) == 0:
        raise DataError(
            f"A line needs three finite points with different x, not {n} x and {len(ys)} y; give more points."
        )
    x_mean, y_mean = xs.mean(), ys.mean()
    spread = ((xs - x_mean) ** 2).sum()
    slope = ((xs - x_mean) * (ys - y_mean)).sum() / spread
    intercept = y_mean - slope * x_mean
    residual = ((ys - intercept - slope * xs) ** 2).sum()
    total = ((ys - y_mean) ** 2).sum()
    variance = residual / (n - 2)
    t = special.stdtrit(n - 2, 0.5 + LEVEL / 2)
    slope_half = t * np.sqrt(variance / spread)
    intercept_half = t * np.sqrt(variance * (1 / n + x_mean**2 / spread))
    return LinearFit(
        slope=Interval(value=slope, low=slope - slope_half, high=slope + slope_half, n=n),
        intercept=Interval(value=intercept, low=intercept - intercept_half, high=intercept + intercept_half, n=n),
        r_squared=float(1 - residual / total) if total > 0 else 0.0,
    )
