"""How unevenly work lies on people. Knows counts per person and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from prefloop.errors import DataError
from prefloop.schema import Interval
from prefloop.stats.intervals import RESAMPLES, SHARE, Floats, Ints, percentiles


def top_share(counts: Sequence[int] | Ints, top: int = 20, *, seed: int = 0) -> Interval:
    """Share of everything that the `top` busiest people did; the interval resamples people.

    Errors:
        DataError: not more people than `top`, whose share is everything by definition.
    """
    work = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    if len(work) <= top:
        raise DataError(f"The {top} busiest of {len(work)} are all of them; more workers are needed.")
    return _interval(work, lambda rows: np.sort(rows, axis=1)[:, -top:].sum(axis=1) / rows.sum(axis=1), seed)


def gini(counts: Sequence[int] | Ints, *, seed: int = 0) -> Interval:
    """Gini coefficient of the counts: 0 when all did as much, near 1 when one did everything; people are resampled.

    Errors:
        DataError: fewer than two people.
    """
    work = np.asarray(counts, dtype=np.float64)
    if len(work) < 2:
        raise DataError(f"How evenly work is spread needs two workers, and judgments name {len(work)}.")
    return _interval(work, _gini, seed)


def _gini(rows: Floats) -> Floats:
    """(sample, person) -> (sample,): sum over ranks of (2 rank - n - 1) x / (n sum x)."""
    size = rows.shape[1]
    ranks = 2 * np.arange(1, size + 1) - size - 1
    total = np.maximum(rows.sum(axis=1), 1e-12)  # a sample of people who did nothing is even
    return np.asarray((np.sort(rows, axis=1) @ ranks) / (size * total), dtype=np.float64)


def _interval(work: Floats, statistic: Callable[[Floats], Floats], seed: int) -> Interval:
    if work.sum() <= 0:
        raise DataError(f"{len(work)} people did nothing, so nothing is spread; collect first.")
    value = float(statistic(work[None])[0])
    generator = np.random.default_rng(seed)
    chunk = max(1, 2_000_000 // len(work))
    draws = np.concatenate(
        [
            statistic(work[generator.integers(len(work), size=(min(chunk, RESAMPLES - done), len(work)))])
            for done in range(0, RESAMPLES, chunk)
        ]
    )
    low, high = percentiles(draws, len(work))
    low, high = max(min(low, value), SHARE[0]), min(max(high, value), SHARE[1])
    return Interval(value=value, low=low, high=high, n=round(work.sum()), clusters=len(work))
