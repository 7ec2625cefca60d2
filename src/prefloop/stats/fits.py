"""A straight line through points, with R squared: of one run, of several runs, of shares of the same observations.

Points of one run share its data and its observations, so their scatter around a line says too little of how far
another run's line would lie from it. Knows numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

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
    bootstrap_interval,
    finite_array,
    label_codes,
    run_mean,
)

LEAST_POINTS = 3
"""Different x without which a line says nothing: through two points there is always one."""


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


class LineAndBand(NamedTuple):
    """A line, and where it lies at some places."""

    line: LinearFit
    band: tuple[FittedPoint, ...]


def line_over_runs(
    x: Sequence[float] | Floats, runs: Sequence[Sequence[float]] | Floats, at: Sequence[float] | Floats, *, n: int
) -> LineAndBand:
    """A line for each run, (run, point); mean slope and band with Student's t over the runs.

    Args:
        n: observations behind all points, for the record.

    Errors:
        DataError: fewer than two runs, or x that cannot carry a line.
    """
    weights, ys = _line_weights(x, at), np.asarray(runs, dtype=np.float64)
    slopes, *band = (run_mean(ys @ row, n) for row in weights)
    return _line_and_band(x, ys.mean(axis=0), slopes, band, at)


def line_of_shares(
    x: Sequence[float] | Floats,
    shares: Sequence[tuple[Floats, Labels]],
    at: Sequence[float] | Floats,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> LineAndBand:
    """A line through means over overlapping observations; whole clusters are resampled for all points together.

    Args:
        shares: of each point the values whose mean it is, and their clusters.

    Errors:
        DataError: x that cannot carry a line, or a point without values.
    """
    codes, names = label_codes([label for _, labels in shares for label in labels])
    sums = np.zeros((len(names), 2 * len(shares)))
    start = 0
    for place, (values, labels) in enumerate(shares):
        here = codes[start : start + len(labels)]
        start += len(labels)
        sums[:, 2 * place] = np.bincount(here, weights=finite_array(values), minlength=len(names))
        sums[:, 2 * place + 1] = np.bincount(here, minlength=len(names))
    weights = _line_weights(x, at)

    found = [
        bootstrap_interval(sums, partial(_weighted_means, weights=row), n=start, seed=seed, resamples=resamples)
        for row in weights
    ]
    means = np.array([finite_array(values).mean() for values, _ in shares])
    return _line_and_band(x, means, found[0], found[1:], at)


def covariance_of_shares(shares: Sequence[tuple[Floats, Labels]]) -> Floats:
    """(point, point): how means over overlapping observations vary together, from one draw of clusters to another.

    Of each cluster what it adds to the means' distances from their expectation is taken, as in a clustered standard
    error; NaN where there is one cluster alone.

    Args:
        shares: as `line_of_shares`.
    """
    codes, names = label_codes([label for _, labels in shares for label in labels])
    moves = np.zeros((len(names), len(shares)))
    start = 0
    for place, (values, labels) in enumerate(shares):
        here = codes[start : start + len(labels)]
        start += len(labels)
        given = finite_array(values)
        moves[:, place] = np.bincount(here, weights=given - given.mean(), minlength=len(names)) / len(given)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(moves.T @ moves * np.divide(len(names), len(names) - 1))


def line_of_means(
    x: Sequence[float] | Floats,
    means: Sequence[float] | Floats,
    covariance: Sequence[Sequence[float]] | Floats,
    at: Sequence[float] | Floats,
    *,
    n: int,
    clusters: int,
) -> LineAndBand:
    """A line through means of which `covariance_of_shares` is known, with Student's t over the clusters.

    Where all means are of the same observations it is `line_of_shares` without the observations.

    Errors:
        DataError: fewer than two clusters, or x that cannot carry a line.
    """
    if clusters < 2:
        raise DataError(f"An interval over clusters needs 2 of them, not {clusters}; add conversations.")
    ys, between = np.asarray(means, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    t = special.stdtrit(clusters - 1, 0.5 + LEVEL / 2)
    found = []
    for row in _line_weights(x, at):
        value, half = float(row @ ys), float(t * np.sqrt(max(0.0, row @ between @ row)))
        found.append(Interval(value=value, low=value - half, high=value + half, n=n, clusters=clusters))
    return _line_and_band(x, ys, found[0], found[1:], at)


def _weighted_means(sums: Floats, weights: Floats) -> Floats:
    """(resample, sum and count of each point) -> (resample,)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((sums[:, 0::2] / sums[:, 1::2]) @ weights)


def _line_weights(x: Sequence[float] | Floats, at: Sequence[float] | Floats) -> Floats:
    """What each point counts in the slope (first row), and in the line's value at 0 and at each of the places."""
    xs = np.asarray(x, dtype=np.float64)
    if len(set(xs.tolist())) < LEAST_POINTS or not np.isfinite(xs).all():
        raise DataError(f"A line needs {LEAST_POINTS} different x, not {len(set(xs.tolist()))}; give more points.")
    slope = (xs - xs.mean()) / ((xs - xs.mean()) ** 2).sum()
    places = np.array([0.0, *at])
    return np.vstack([slope, 1 / len(xs) + np.outer(places - xs.mean(), slope)])


def _line_and_band(
    x: Sequence[float] | Floats,
    y: Floats,
    slope: Interval,
    values: Sequence[Interval],
    at: Sequence[float] | Floats,
) -> LineAndBand:
    """`values` are those of the line at 0 and `at`."""
    line = LinearFit(slope=slope, intercept=values[0], r_squared=linear_fit(x, y).r_squared)
    return LineAndBand(line, tuple(FittedPoint(x=x_, y=y_) for x_, y_ in zip(at, values[1:], strict=True)))
