"""Measures on replies and their scores: agreement of scorers, best of n, length, repetition, one template.

Knows texts and numbers; axes are (prompt, sample). Scores come in, no model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from prefloop.schema import Interval
from prefloop.stats import clustered_mean, clustered_ratio, clustered_share
from prefloop.stats.intervals import Floats


def pair_agreement(one: Floats, other: Floats) -> Interval | None:
    """Share of pairs of replies to one prompt that both scorers order alike; pairs that either ties are left out.

    None where no pair is left. Clusters are prompts.
    """
    first, second = np.triu_indices(one.shape[1], 1)
    signs = np.sign(one[:, first] - one[:, second]) * np.sign(other[:, first] - other[:, second])
    decided = (signs != 0).sum(1).astype(float)  # (prompt,)
    if not decided.sum():
        return None
    found = clustered_ratio((signs > 0).sum(1).astype(float), decided, bounds=(0.0, 1.0))
    return found.model_copy(update={"n": int(decided.sum()), "clusters": int((decided > 0).sum())})


def best_of(scores: Floats, by: Floats) -> Interval:
    """Mean over prompts of the score of the reply that `by` likes best, less the mean score of the prompt's replies."""
    picked = np.take_along_axis(scores, by.argmax(1, keepdims=True), 1)[:, 0]
    return clustered_mean(picked - scores.mean(1))


def within_prompt_correlation(one: Floats, other: Floats) -> Interval | None:
    """Mean over prompts of Pearson's correlation between the samples of a prompt; None where nothing varies."""
    varies = (np.ptp(one, axis=1) > 0) & (np.ptp(other, axis=1) > 0)
    if varies.sum() < 2:
        return None
    a, b = (x[varies] - x[varies].mean(1, keepdims=True) for x in (one, other))
    each = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return clustered_mean(each, bounds=(-1.0, 1.0))


def repeated_share(texts: Sequence[str]) -> Interval:
    """Share of replies in which some run of four words stands more than once."""

    def repeats(text: str) -> bool:
        runs = _runs(text, 4)
        return len(set(runs)) < len(runs)

    return clustered_share([repeats(text) for text in texts])


def commonest_share(texts: Sequence[str]) -> Interval:
    """Share of replies that hold the run of five words which most of them hold."""
    holding = [set(_runs(text, 5)) for text in texts]
    counts = Counter(run for runs in holding for run in runs)
    if not counts:
        return clustered_share([False] * len(texts))
    commonest = counts.most_common(1)[0][0]
    return clustered_share([commonest in runs for runs in holding])


def far_share(distances: Floats, limit: float) -> Interval:
    """Share of distances beyond a limit."""
    return clustered_share((distances > limit).tolist())


def mahalanobis(points: Floats, reference: Floats) -> Floats:
    """Distance of each point from the reference cloud, its covariance shrunk by a tenth towards its diagonal."""
    mean = reference.mean(0)
    covariance = np.atleast_2d(np.cov(reference, rowvar=False))
    diagonal = np.diag(np.diag(covariance))
    shrunk = 0.9 * covariance + 0.1 * diagonal + 1e-6 * np.trace(covariance) / len(mean) * np.eye(len(mean))
    centred = points - mean
    squares: Floats = (centred @ np.linalg.pinv(shrunk) * centred).sum(1)
    return np.asarray(np.sqrt(np.maximum(squares, 0.0)), dtype=np.float64)


def _runs(text: str, n: int) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
