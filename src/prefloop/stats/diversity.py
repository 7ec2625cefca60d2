"""How varied a set of items is, at a size that other sets have too. Knows items as sets of codes, no texts.

The number of different words grows with the number of texts, so two sets compare only at one size: the mean over
random subsets of that size (rarefaction, Sanders 1968).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import sparse, special

from prefloop.errors import DataError
from prefloop.schema import Interval
from prefloop.stats.intervals import LEVEL, Floats, Ints, Labels, observation_codes

_DRAWS = 100


def rarefied_kinds(items: Sequence[Ints], size: int, *, seed: int = 0, draws: int = _DRAWS) -> Interval:
    """Different codes in `size` of the items, mean over random subsets; the interval is what single subsets give.

    Args:
        items: of each item its codes (of words, say), whole numbers from 0 on.
        size: at most half of the items, since larger subsets resemble each other because they overlap.

    Errors:
        DataError: fewer than two subsets' worth of items.
    """
    if size < 1 or 2 * size > len(items):
        raise DataError(f"{len(items)} items give no two subsets of {size}; collect {max(2 * size, 2)} items.")
    table = _incidence(items)
    draw = np.random.default_rng(seed)
    found = np.array(
        [np.count_nonzero(np.bincount(table[draw.permutation(len(items))[:size]].indices)) for _ in range(draws)],
        dtype=np.float64,
    )
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(found.mean())
    return Interval(value=mean, low=min(float(low), mean), high=max(float(high), mean), n=size, clusters=len(items))


def effective_kinds(counts: Floats) -> float:
    """exp of the entropy: how many equally common kinds would be as mixed as these counts."""
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_difference(items: Sequence[Ints]) -> Interval:
    """1 less the mean Jaccard similarity of two different items: 0 all alike, 1 nothing shared. Interval by jackknife.

    Unlike a count of different codes it does not grow with the number of items.

    Errors:
        DataError: fewer than three items with a code.
    """
    kept = [item for item in items if len(item)]
    n = len(kept)
    if n < 3:
        raise DataError(f"{n} texts do not show how varied somebody writes; 3 are needed.")
    table = _incidence(kept)
    sizes = np.asarray(table.sum(axis=1)).ravel()
    shared = (table @ table.T).toarray()
    alike = shared / (sizes[:, None] + sizes[None, :] - shared)
    np.fill_diagonal(alike, 0.0)
    rows = alike.sum(axis=1)
    value = 1 - rows.sum() / (n * (n - 1))
    without = 1 - (rows.sum() - 2 * rows) / ((n - 1) * (n - 2))
    deviation = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    half = deviation * float(special.stdtrit(n - 1, 0.5 + LEVEL / 2))
    return Interval(value=float(value), low=max(float(value) - half, 0.0), high=min(float(value) + half, 1.0), n=n)


def distinct_share(items: Sequence[Ints], clusters: Labels | None = None) -> Interval:
    """Different codes over all codes of the items, a code counted as often as it stands there. Interval by jackknife.

    It falls with the number of items, so two sets compare at one size alone.

    Args:
        clusters: label of each item; the jackknife leaves out a cluster at a time.

    Errors:
        DataError: fewer than three clusters with a code.
    """
    sizes = np.array([len(item) for item in items], dtype=np.int64)
    codes = np.concatenate([*items, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    owner = np.repeat(observation_codes(clusters, len(items)), sizes)
    m = len(np.unique(owner))
    if m < 3:
        raise DataError(f"{m} texts do not show how varied somebody writes; 3 are needed.")
    pairs = np.unique(np.column_stack([codes, owner]), axis=0)  # each code of a cluster once
    _, first, owners = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    width = int(owner.max()) + 1
    alone = np.bincount(pairs[first[owners == 1], 1], minlength=width)  # codes that no other cluster has
    held = np.bincount(owner, minlength=width)
    value = len(owners) / len(codes)
    without = ((len(owners) - alone) / (len(codes) - held))[held > 0]
    deviation = float(np.sqrt((m - 1) / m * ((without - without.mean()) ** 2).sum()))
    half = deviation * float(special.stdtrit(m - 1, 0.5 + LEVEL / 2))
    return Interval(value=value, low=max(value - half, 0.0), high=min(value + half, 1.0), n=len(codes), clusters=m)


def _incidence(items: Sequence[Ints]) -> sparse.csr_array:
    """(item, code) with 1 where the item has the code."""
    sizes = np.array([len(item) for item in items], dtype=np.int64)
    codes = np.concatenate([*items, np.zeros(0, dtype=np.int64)]).astype(np.int64)
    width = int(codes.max(initial=0)) + 1
    cells = np.sort(np.repeat(np.arange(len(sizes)), sizes) * width + codes)
    cells = cells[np.diff(cells, prepend=-1) > 0]  # each code of an item once
    ends = np.searchsorted(cells, np.arange(len(sizes) + 1) * width)
    return sparse.csr_array((np.ones(len(cells)), cells % width, ends), shape=(len(sizes), width))
