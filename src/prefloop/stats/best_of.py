"""What the best of n samples is worth, for every n from one pass of N >= n samples. Knows arrays, no model.

Of each prompt N samples are drawn once. A picker's scores rank them and a judge's scores say what they are worth. The
mean worth of the pick over all subsets of n samples is a weighted sum over the ranks (order statistics), so that one
pass gives the unbiased estimate of every point of the curve (Nakano et al. 2021, WebGPT, appendix I):

    E[judged of the best of n] = sum over ranks i = n..N of C(i-1, n-1) / C(N, n) * judged(i), rank N being the best

Samples that the picker cannot tell apart share their ranks: a pick among them is taken to be random, as it is where the
order of the samples is.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from prefloop.errors import DataError
from prefloop.stats.intervals import Floats

__all__ = ["best_of_kl_bound", "best_of_values", "top_k_kl"]


def best_of_values(picker: Floats, judged: Floats, n: int, k: int = 1) -> Floats:
    """The mean judged worth of the best of n samples (the `k` best of n, taken evenly) for each prompt.

    Args:
        picker, judged: (prompt, sample), of the same samples.
        n: between 1 and the number of samples; `k` between 1 and n.

    Returns:
        (prompt,), an unbiased estimate for each prompt.

    Errors:
        DataError: arrays of different shapes, a score that is not finite, n or k out of range.
    """
    picker, judged = np.asarray(picker, dtype=np.float64), np.asarray(judged, dtype=np.float64)
    if picker.ndim != 2 or picker.shape != judged.shape:
        raise DataError(
            f"Scores of shapes {picker.shape} and {judged.shape} are not of the same samples; give (prompt, sample)."
        )
    samples = picker.shape[1]
    if not 1 <= k <= n <= samples:
        raise DataError(f"The best {k} of {n} cannot be taken from {samples} samples; draw more, or lower n.")
    if not (np.isfinite(picker).all() and np.isfinite(judged).all()):
        raise DataError(f"A score of these {picker.size} is not a finite number; mend the scorer.")
    weights = np.array(_rank_weights(samples, n, k))
    values = np.empty(len(picker))
    for prompt, (scores, worth) in enumerate(zip(picker, judged, strict=True)):
        _, groups = np.unique(scores, return_inverse=True)  # equal scores, ascending
        sizes = np.bincount(groups)
        means = np.bincount(groups, weights=worth) / sizes
        shares = np.add.reduceat(weights, np.r_[0, sizes.cumsum()[:-1]])
        values[prompt] = shares @ means
    return values


def best_of_kl_bound(n: int) -> float:
    """log n - (n - 1)/n nats: an upper bound on the KL from the best of n to one sample (Beirami et al. 2024).

    The KL equals it only where no two samples have the same score; where samples repeat, as those of small models do,
    it is less.
    """
    if n < 1:
        raise DataError(f"The best of {n} is not defined; n is at least 1.")
    return math.log(n) - (n - 1) / n


def top_k_kl(k: int, n: int) -> float:
    """log(n/k) nats: what keeping the k best of n costs (Bai et al. 4.3); for k = 1 above `best_of_kl_bound`."""
    if not 1 <= k <= n:
        raise DataError(f"The best {k} of {n} is not defined; k is between 1 and n.")
    return math.log(n / k)


@cache
def _rank_weights(samples: int, n: int, k: int) -> tuple[float, ...]:
    """By rank, worst first: the chance that the sample of this rank is kept (k best of a random n), over k."""
    whole = k * math.comb(samples, n)
    return tuple(
        sum(math.comb(samples - rank, better) * math.comb(rank - 1, n - 1 - better) for better in range(k)) / whole
        for rank in range(1, samples + 1)
    )
