"""What cleanliness is worth: PMs trained on the same comparisons with more or fewer wrong labels, side by side.

Knows the held-out scores of each PM and how its training pairs were made, not how it was trained. All PMs are tested on
the same pairs, so a change is taken pair by pair; its interval is clustered by conversation, seeds averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.models.preference import conversation_key
from prefloop.schema import Interval, Noun, PreferencePair
from prefloop.stats import LinearFit, clustered_mean, clustered_share, linear_fit, wilson, worth_of_labels
from prefloop.stats.intervals import Floats

__all__ = ["Cleanliness", "Suspicion", "Treated", "Treatment", "evaluate_cleanliness", "suspicion"]

CLEAN = "as they are"


@dataclass(frozen=True)
class Treated:
    """One trained PM: what was done to its pairs, and its score differences on the held-out pairs.

    `beside` names the treatment that it is compared with; `flipped_left` is the share of its labels that were flipped
    on purpose; None where that tells nothing (other comparisons, or weights that have no count).
    """

    name: str
    beside: str
    seed: int
    pairs: int
    flipped_left: float | None
    differences: Floats
    gold: Floats | None = None
    """Known value of the best of several replies to each prompt, as this PM picks them."""


class Treatment(Noun):
    """One way to treat the training pairs, over all seeds."""

    name: str
    beside: str = Field(description="the treatment that changes are counted from")
    pairs: float = Field(description="trained on, mean over seeds")
    flipped_left: float | None
    accuracy: Interval
    change: Interval | None = Field(description="of the accuracy, pair by pair; None: others stand beside it")
    predicted: Interval | None = Field(
        description="change of the accuracy that the learning curve lets expect; the interval is that of its slope"
    )
    gold: Interval | None = Field(description="known value of the replies that this PM picks")
    gold_change: Interval | None


class Suspicion(Noun):
    """How well pairs that an out-of-fold PM calls mislabelled are those that were flipped on purpose."""

    flipped: float
    suspected: int
    precision: Interval = Field(description="share of the suspected pairs that were flipped")
    recall: Interval | None = Field(description="share of the flipped pairs that were suspected")


class Cleanliness(Noun):
    """All of it."""

    held_out: int
    seeds: tuple[int, ...]
    treatments: tuple[Treatment, ...]
    curve: LinearFit | None = Field(description="accuracy against ln(training pairs), labels as they are")
    curve_unknown: str = ""
    suspicions: tuple[Suspicion, ...]


def suspicion(flipped: float, is_flipped: Sequence[bool], is_suspected: Sequence[bool]) -> Suspicion:
    """Counts of one seed.

    Errors:
        DataError: no pair is suspected.
    """
    wrong, called = np.asarray(is_flipped, dtype=bool), np.asarray(is_suspected, dtype=bool)
    if not called.any():
        raise DataError(f"None of {len(called)} pairs is suspected; raise suspected_share.")
    both = int((wrong & called).sum())
    return Suspicion(
        flipped=flipped,
        suspected=int(called.sum()),
        precision=wilson(both, int(called.sum())),
        recall=wilson(both, int(wrong.sum())) if wrong.any() else None,
    )


def evaluate_cleanliness(
    trained: Sequence[Treated],
    held_out: Sequence[PreferencePair],
    suspicions: Sequence[Suspicion] = (),
    *,
    curve: Sequence[tuple[int, float]] = (),
    probabilities: Sequence[float] | None = None,
    seed: int = 0,
) -> Cleanliness:
    """Accuracies, changes and predictions.

    Args:
        trained: in order of name; every seed has the same names.
        held_out: what all of them were tested on.
        curve: (training pairs, accuracy) of PMs on parts of the untouched pairs.
        probabilities: chance of a fresh judgment preferring `chosen`, where known; accuracy is then against it.

    Errors:
        DataError: nothing was trained.
    """
    if not trained or not held_out:
        raise DataError(f"{len(trained)} PMs and {len(held_out)} held-out pairs leave nothing to compare.")
    clusters = [conversation_key(pair) for pair in held_out]
    sure = np.ones(len(held_out)) if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    by_name = {name: list(part) for name, part in groupby(trained, key=lambda one: one.name)}
    right = {name: np.mean([_right(one.differences, sure) for one in part], axis=0) for name, part in by_name.items()}
    gold = {name: _gold(part) for name, part in by_name.items()}
    line, why = None, "A curve needs three sizes of training data."
    if len(curve) >= 3:
        try:
            line, why = linear_fit([math.log(n) for n, _ in curve], [value for _, value in curve]), ""
        except DataError as error:
            why = str(error)
    return Cleanliness(
        held_out=len(held_out),
        seeds=tuple(sorted({one.seed for one in trained})),
        treatments=tuple(
            _treatment(name, part, by_name, right, gold, line, clusters, seed) for name, part in by_name.items()
        ),
        curve=line,
        curve_unknown=why,
        suspicions=tuple(suspicions),
    )


def accuracy_of(differences: Floats, probabilities: Sequence[float] | None) -> float:
    """Mean chance to agree with a judgment; equal scores count half."""
    sure = np.ones(len(differences)) if probabilities is None else np.asarray(probabilities, dtype=np.float64)
    return float(_right(differences, sure).mean())


def _treatment(
    name: str,
    part: Sequence[Treated],
    by_name: Mapping[str, Sequence[Treated]],
    right: Mapping[str, Floats],
    gold: Mapping[str, Floats | None],
    line: LinearFit | None,
    clusters: Sequence[str],
    seed: int,
) -> Treatment:
    beside = part[0].beside
    is_other = beside != name and beside in by_name
    pairs = float(np.mean([one.pairs for one in part]))
    left = None if part[0].flipped_left is None else float(np.mean([one.flipped_left or 0.0 for one in part]))
    predicted = None
    if is_other and line is not None and left is not None and by_name[beside][0].flipped_left is not None:
        other = by_name[beside]
        whole = float(np.mean([one.pairs for one in other]))
        wrong = float(np.mean([one.flipped_left or 0.0 for one in other]))
        factor = worth_of_labels(1.0, pairs, left, whole) - worth_of_labels(1.0, whole, wrong, whole)
        low, high = sorted((factor * line.slope.low, factor * line.slope.high))
        predicted = line.slope.model_copy(update={"value": factor * line.slope.value, "low": low, "high": high})
    here, there = gold[name], gold.get(beside) if is_other else None
    return Treatment(
        name=name,
        beside=beside,
        pairs=pairs,
        flipped_left=left,
        accuracy=clustered_share(right[name], clusters, seed=seed),
        change=clustered_mean(right[name] - right[beside], clusters, bounds=(-1, 1), seed=seed) if is_other else None,
        predicted=predicted,
        gold=None if here is None else clustered_mean(here, seed=seed),
        gold_change=None if here is None or there is None else clustered_mean(here - there, seed=seed),
    )


def _right(differences: Floats, sure: Floats) -> Floats:
    """(pair,) chance to agree with a judgment."""
    return np.where(differences > 0, sure, np.where(differences < 0, 1 - sure, 0.5))


def _gold(part: Sequence[Treated]) -> Floats | None:
    values = [one.gold for one in part if one.gold is not None]
    return np.mean(values, axis=0) if values else None
