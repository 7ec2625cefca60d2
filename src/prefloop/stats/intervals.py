"""Means, ratios and shares with clustered 95% intervals. Knows numbers and cluster labels, not what they stand for.

Judgments of one conversation (or one worker) resemble each other, so whole clusters are resampled, never rows.
Intervals are percentile bootstrap intervals, widened for few clusters (Hesterberg 2015, "expanded percentile":
the level is moved to that of Student's t with clusters - 1 degrees of freedom). Three cases are defined apart:
no observations: DataError; fewer than two clusters: the interval is the statistic's whole range (`bounds`, infinite
where there is none), and `Interval.clusters` says why; no spread between clusters: Wilson on the clusters for shares.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from prefloop.errors import DataError
from prefloop.schema import Interval

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Labels = Sequence[Hashable] | npt.NDArray[np.generic]

LEVEL = 0.95
RESAMPLES = 1000
UNBOUNDED = (-np.inf, np.inf)
SHARE = (0.0, 1.0)
_CHUNK_CELLS = 500_000  # resamples x clusters held at once, 4 MB, which a processor's cache holds
_MOST_CLUSTERS = 10_000


def wilson(successes: float, n: int) -> Interval:
    """Wilson's 95% score interval of a share of independent observations; `successes` may be half-integer (ties).

    Errors:
        DataError: n is 0, or successes are not within 0 and n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise DataError(f"A share needs 0 <= successes <= n and n >= 1, not {successes} of {n}; count again.")
    z = float(special.ndtri(0.5 + LEVEL / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = max(0.0, float(centre - half)), min(1.0, float(centre + half))
    return Interval(value=share, low=min(low, share), high=max(high, share), n=n, clusters=n)


def clustered_mean(
    values: Sequence[float] | Sequence[bool] | Floats,
    clusters: Labels | None = None,
    *,
    bounds: tuple[float, float] = UNBOUNDED,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of `values` with an interval clustered by `clusters` (None: every observation is its own cluster).

    Errors:
        DataError: no values, a value that is not finite, or labels of another length.
    """
    return clustered_ratio(values, np.ones(len(values)), clusters, bounds=bounds, seed=seed, resamples=resamples)


def clustered_ratio(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    clusters: Labels | None = None,
    *,
    bounds: tuple[float, float] = UNBOUNDED,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Sum of numerators over sum of denominators, clusters resampled; n counts the observations.

    Errors:
        DataError: no observations, values that are not finite, lengths that differ, denominators that sum to 0.
    """
    above, below = finite_array(numerators), finite_array(denominators)
    if len(above) != len(below):
        raise DataError(f"{len(above)} numerators and {len(below)} denominators do not pair up; give as many of each.")
    if below.sum() == 0:
        raise DataError(f"The denominators of {len(below)} observations sum to 0; a ratio needs another sum.")
    sums = cluster_sums(np.column_stack([above, below]), clusters)
    return bootstrap_interval(sums, _ratio, n=len(above), bounds=bounds, seed=seed, resamples=resamples)


def clustered_share(
    is_true: Sequence[float] | Sequence[bool] | Floats,
    clusters: Labels | None = None,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Mean of values within 0 and 1 (accuracy, say); the interval stays within 0 and 1.

    Errors:
        DataError: no values, or one outside 0 and 1.
    """
    values = finite_array(is_true)
    outside = values[(values < 0) | (values > 1)]
    if outside.size:
        raise DataError(f"A share is taken of values within 0 and 1, not {outside[0]:g}; use clustered_mean.")
    return clustered_mean(values, clusters, bounds=SHARE, seed=seed, resamples=resamples)


def run_mean(values: Sequence[float] | Floats, n: int, *, bounds: tuple[float, float] = UNBOUNDED) -> Interval:
    """Mean of what a few independent runs (seeds) gave, with Student's t interval over them.

    It holds all that differs between the runs: data, order, sampling of the observations; with three it is wide.

    Args:
        n: observations behind all runs, for the record.

    Errors:
        DataError: fewer than two runs, or a value that is not finite.
    """
    given = finite_array(values)
    if len(given) < 2:
        raise DataError(f"An interval over runs needs 2 of them, not {len(given)}; add seeds.")
    mean = float(given.mean())
    half = float(special.stdtrit(len(given) - 1, 0.5 + LEVEL / 2) * given.std(ddof=1) / np.sqrt(len(given)))
    low, high = max(bounds[0], mean - half), min(bounds[1], mean + half)
    return Interval(value=mean, low=low, high=high, n=n, clusters=len(given))


def win_rate(
    outcomes: Sequence[float] | Floats, clusters: Labels | None = None, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Share of wins with ties half: each outcome is 1 (win), 0.5 (tie) or 0 (loss).

    Errors:
        DataError: no outcomes, or one that is none of the three.
    """
    values = finite_array(outcomes)
    strange = values[~np.isin(values, (0.0, 0.5, 1.0))]
    if strange.size:
        raise DataError(f"An outcome is 1 (win), 0.5 (tie) or 0 (loss), not {strange[0]:g}; code it so.")
    return clustered_mean(values, clusters, bounds=SHARE, seed=seed, resamples=resamples)


def bootstrap_interval(
    sums: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    n: int,
    bounds: tuple[float, float] = UNBOUNDED,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Interval:
    """Interval of any statistic of column sums.

    Args:
        sums: (cluster, column), what each cluster adds.
        statistic: (resample, column) -> (resample,); NaN where a resample leaves it undefined.
        n: observations, for the record.
        bounds: the statistic's range; it is the interval where nothing narrower is known.

    Errors:
        DataError: no clusters, or the statistic is undefined on the data themselves.
    """
    if len(sums) == 0:
        raise DataError("There are 0 observations; at least 1 is needed for a number and 2 clusters for an interval.")
    value = float(statistic(sums.sum(axis=0, keepdims=True))[0])
    if not np.isfinite(value):
        raise DataError(f"The statistic is undefined on these {n} observations; add observations that differ.")
    clusters = len(sums)
    if clusters < 2:
        return Interval(value=value, low=bounds[0], high=bounds[1], n=n, clusters=clusters)
    draws = statistic(resampled_sums(sums, resamples, np.random.default_rng(seed)))
    defined = draws[np.isfinite(draws)]
    if len(defined) < 0.95 * len(draws):
        return Interval(value=value, low=bounds[0], high=bounds[1], n=n, clusters=clusters)
    if bounds == SHARE and np.ptp(defined) < 1e-12:
        flat = wilson(min(max(value, 0.0), 1.0) * clusters, clusters)
        return flat.model_copy(update={"value": value, "n": n})
    low, high = percentiles(defined, clusters)
    return Interval(value=value, low=max(low, bounds[0]), high=min(high, bounds[1]), n=n, clusters=clusters)


def percentiles(draws: Floats, clusters: int) -> tuple[float, float]:
    """Lower and upper end of a 95% interval from bootstrap draws, widened for few clusters."""
    t = float(special.stdtrit(clusters - 1, 0.5 + LEVEL / 2))
    tail = float(special.ndtr(-t * np.sqrt(clusters / (clusters - 1))))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def cluster_sums(columns: Floats, clusters: Labels | None) -> Floats:
    """(observation, column) -> (cluster, column).

    Errors:
        DataError: as many labels as observations are needed.
    """
    if clusters is None:
        return columns
    codes = observation_codes(clusters, len(columns))
    return np.column_stack([np.bincount(codes, weights=column) for column in columns.T])


def label_codes(labels: Labels) -> tuple[Ints, list[Hashable]]:
    """Labels as numbers 0 ... in order of first appearance, and the labels so numbered."""
    if isinstance(labels, np.ndarray) and labels.ndim == 1 and labels.dtype.kind in "iu":  # the same, much faster
        return _whole_number_codes(labels)
    seen: dict[Hashable, int] = {}
    codes = np.fromiter((seen.setdefault(label, len(seen)) for label in labels), dtype=np.int64, count=len(labels))
    return codes, list(seen)


def _whole_number_codes(labels: npt.NDArray[Any]) -> tuple[Ints, list[Hashable]]:
    least = int(labels.min(initial=0))
    width = int(labels.max(initial=0)) - least + 1
    if width > 4 * len(labels) + 1000:
        names, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
        rank = np.empty(len(names), dtype=np.int64)
        rank[order := np.argsort(first)] = np.arange(len(names))
        return rank[inverse], names[order].tolist()
    places = labels - least  # a table over all numbers between needs no sorting
    earliest = np.full(width, len(labels))
    earliest[places[::-1]] = np.arange(len(labels))[::-1]  # of several writes the last one stays: the first place
    names = np.flatnonzero(earliest < len(labels))
    names = names[np.argsort(earliest[names])]
    table = np.empty(width, dtype=np.int64)
    table[names] = np.arange(len(names))
    return table[places], (names + least).tolist()


def observation_codes(clusters: Labels | None, n: int) -> Ints:
    """The cluster number of each of `n` observations; without labels each is its own cluster.

    Errors:
        DataError: another number of labels than observations.
    """
    if clusters is None:
        return np.arange(n, dtype=np.int64)
    if len(clusters) != n:
        raise DataError(f"{len(clusters)} cluster labels do not fit {n} observations; give one for each.")
    return label_codes(clusters)[0]


def resampled_sums(sums: Floats, resamples: int, generator: np.random.Generator) -> Floats:
    """Column sums of `resamples` bootstrap samples of the clusters: (cluster, column) -> (resample, column).

    Clusters with equal rows are interchangeable, so they are drawn together by a multinomial over the distinct rows:
    the same distribution, and with a million small clusters there are only a few dozen distinct rows. Where rows
    are many and different, clusters are first thrown together at random into ten thousand bins: sums of bins spread
    as much as sums of clusters do, and a spread known from ten thousand is known to within a hundredth.
    """
    clusters = len(sums)
    rows, counts = _distinct(sums)
    if len(rows) <= min(clusters // 2, _MOST_CLUSTERS):
        return _chunked(
            resamples, len(rows), lambda size: generator.multinomial(clusters, counts / clusters, size=size), rows
        )
    if clusters > 2 * _MOST_CLUSTERS:
        bins = generator.permutation(clusters) % _MOST_CLUSTERS
        sums = np.column_stack([np.bincount(bins, weights=column) for column in sums.T])
        clusters = len(sums)
    return _chunked(resamples, clusters, lambda size: resample_counts(clusters, size, generator), sums)


def _distinct(rows: Floats) -> tuple[Floats, Ints]:
    """Different rows and how often each stands there, told apart by one random number a row instead of by sorting."""
    keys = np.zeros(len(rows))
    factors = np.random.default_rng(7).normal(size=(rows.shape[1],))
    for place in range(rows.shape[1]):
        keys += factors[place] * rows[:, place]
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    return rows[first], counts


def resample_counts(clusters: int, resamples: int, generator: np.random.Generator) -> Ints:
    """How often each cluster is drawn in each bootstrap sample: (resample, cluster)."""
    drawn = generator.integers(clusters, size=(resamples, clusters))
    drawn += clusters * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * clusters).reshape(resamples, clusters)


def _chunked(resamples: int, width: int, draw: Callable[[int], Ints], rows: Floats) -> Floats:
    size = max(1, _CHUNK_CELLS // max(width, 1))
    parts = [draw(min(size, resamples - start)) @ rows for start in range(0, resamples, size)]
    return np.concatenate(parts)


def _ratio(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(sums[:, 0] / sums[:, 1], dtype=np.float64)


def finite_array(values: Sequence[float] | Sequence[bool] | Floats) -> Floats:
    """Values as a flat array.

    Errors:
        DataError: one of them is not finite.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        raise DataError(f"Observation {bad[0]} is {array[bad[0]]}, not a finite number; leave it out or mend it.")
    return array
