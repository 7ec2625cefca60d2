"""How surprising one group among many is: chances under "as everybody else", for all groups at once.

Responsible for the tests behind flags; knows counts and choices, not workers, and no threshold. (group,) arrays go in
and out; a chance of 1 means that there is nothing to see or nothing to see it with.
"""

from __future__ import annotations

import numpy as np
from scipy import special

from prefloop.stats.intervals import Floats, Ints


def coin_chances(hits: Ints, tries: Ints) -> Floats:
    """Two-sided exact chance that a fair coin lands at least so far from half."""
    fewer = np.minimum(hits, tries - hits)
    return np.asarray(np.minimum(1.0, 2 * special.bdtr(fewer.astype(float), tries, 0.5)), dtype=np.float64)


def at_least_chances(hits: Ints, tries: Ints, shares: Floats) -> Floats:
    """Chance of so many hits or more where each try hits with the group's own share."""
    tail = special.bdtrc(hits - 1.0, tries, np.clip(shares, 0.0, 1.0))
    return np.where(hits > 0, tail, 1.0)


def excess_chances(hits: Ints, tries: Ints) -> Floats:
    """Exact chance of so many hits or more when the hits of all fall on their tries at random (Fisher)."""
    from scipy.stats import hypergeom  # half a second that a page's start need not pay

    return np.asarray(hypergeom.sf(hits - 1, tries.sum(), hits.sum(), tries), dtype=np.float64)


def score_chances(pull: Floats, chosen: Floats, expected: Floats, groups: Ints, count: int) -> tuple[Floats, Floats]:
    """Score test that a group's choices lean with `pull` more than expected: (z, two-sided chance), each (group,).

    Args:
        pull: (observation,) what the choice may lean to: above 0 towards the first, below 0 towards the second.
        chosen: (observation,) 1 where the first was chosen, else 0.
        expected: (observation,) its chance in a model of everybody.
    """
    score = np.bincount(groups, weights=pull * (chosen - expected), minlength=count)
    variance = np.bincount(groups, weights=pull**2 * expected * (1 - expected), minlength=count)
    with np.errstate(invalid="ignore", divide="ignore"):
        z = score / np.sqrt(variance)
    z = np.where(np.isfinite(z), z, 0.0)
    return z, np.asarray(2 * special.ndtr(-np.abs(z)), dtype=np.float64)


def longest_runs(answers: Ints, groups: Ints, count: int) -> Ints:
    """Most equal answers in a row in each group; the observations stand in the order in which they were given."""
    order = np.argsort(groups, kind="stable")
    answers, groups = answers[order], groups[order]
    if len(answers) == 0:
        return np.zeros(count, dtype=np.int64)
    is_new = np.ones(len(answers), dtype=np.bool_)
    is_new[1:] = (answers[1:] != answers[:-1]) | (groups[1:] != groups[:-1])
    starts = np.flatnonzero(is_new)
    lengths = np.diff(np.append(starts, len(answers)))
    longest = np.zeros(count, dtype=np.int64)
    np.maximum.at(longest, groups[starts], lengths)
    return longest


def run_chances(answers: Ints, groups: Ints, count: int) -> tuple[Ints, Floats]:
    """Longest run of equal answers and its chance when the group's own answers are put in random order.

    The chance is the expected number of runs at least so long among all orders (permutations) of the answers, which
    is never below the chance that there is one, and nearly equal to it where that is small.
    """
    longest = longest_runs(answers, groups, count)
    size = np.bincount(groups, minlength=count)
    kinds, codes = np.unique(answers, return_inverse=True)
    expected = np.zeros(count)
    for kind in range(len(kinds)):
        m = np.bincount(groups[codes == kind], minlength=count)
        # a run of r begins at the first place, or behind one of another kind at n - r later places
        at_first = _falling(m, size, longest)
        with np.errstate(invalid="ignore", divide="ignore"):
            behind = np.where(size > longest, at_first * (size - m), 0.0)  # (n - r) places * (n - m) / (n - r)
        expected += np.where(longest > 0, at_first + behind, 0.0)
    return longest, np.where(longest > 0, np.minimum(expected, 1.0), 1.0)


def _falling(part: Ints, whole: Ints, draws: Ints) -> Floats:
    """Chance that `draws` draws without replacement are all of the `part` of the `whole`: m(m-1).../n(n-1)..."""
    enough = (part >= draws) & (draws > 0)
    m, n, r = np.where(enough, part, 1), np.where(enough, whole, 1), np.where(enough, draws, 1)
    log = special.gammaln(m + 1) - special.gammaln(m - r + 1) - special.gammaln(n + 1) + special.gammaln(n - r + 1)
    return np.where(enough, np.exp(log), 0.0)
