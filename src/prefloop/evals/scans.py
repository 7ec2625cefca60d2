"""What many preference models (PMs) tell together: accuracy against one setting, over seeds and folds.

Knows the scores that each trained PM gave held-out pairs, not how it was trained. Where every seed has pairs of its own
(simulated judgments) intervals are Student's t over the seeds and hold all that differs between them; where all are
tested on the same pairs (a workspace's) they are clustered by conversation.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.models.preference import conversation_key
from prefloop.schema import Interval, Noun, PreferencePair
from prefloop.stats import (
    AboveThreshold,
    Calibration,
    FittedPoint,
    LinearFit,
    accuracy_above,
    calibration,
    clustered_mean,
    covariance_of_shares,
    line_of_shares,
    line_over_runs,
    run_mean,
)
from prefloop.stats.intervals import Floats

__all__ = ["ALL", "ScanEvaluation", "ScanFailure", "ScanPoint", "Trial", "evaluate_scan", "x_of"]

ALL = "all"
_FIT_PLACES = 40
_SHARE, _DIFFERENCE = (0.0, 1.0), (-1.0, 1.0)


@dataclass(frozen=True)
class Trial:
    """One trained PM on the held-out pairs of its seed and fold. Arrays have the order of `pairs`.

    Trials of one `draw` are tested on pairs of one source; another draw has other pairs.
    `words` are the differences of a TF-IDF regression on the same training pairs; `probabilities` those of a fresh
    judgment preferring `chosen`, where they are known.
    """

    value: int | float | str
    seed: int
    fold: int
    draw: int
    training_pairs: int
    parameters: int
    pairs: Sequence[PreferencePair]
    chosen: Floats
    rejected: Floats
    words: Floats | None = None
    probabilities: Floats | None = None


class ScanPoint(Noun):
    """Accuracy at one value of the setting, on all held-out pairs and by kind (mode, mode and tranche)."""

    value: int | float | str
    training_pairs: float = Field(description="mean over seeds and folds")
    parameters: int
    accuracy: Mapping[str, Interval] = Field(
        description="share of pairs that are right; where the chances of a fresh judgment are known, of those"
    )
    loss: Interval = Field(description="nats")
    words: Mapping[str, Interval] = Field({}, description="of a TF-IDF regression on the same training pairs")
    above_words: Mapping[str, Interval] = Field({}, description="accuracy less that of the regression, pair by pair")
    by_seed: Mapping[int, float] = Field(description="accuracy on all pairs")


class ScanFailure(Noun):
    """A training that gave no model: it stands in no point."""

    value: int | float | str
    seed: int
    fold: int
    reason: str


class ScanFit(Noun):
    """accuracy = intercept + slope ln x (paper A.1: slope 0.015 for data, 0.007 for size), and how sure that is."""

    line: LinearFit
    band: tuple[FittedPoint, ...] = Field(description="x is not its logarithm here")
    over: Literal["seeds", "conversations", "points"] = Field(
        "points",
        description="what the intervals are over: the lines of seeds with pairs of their own, or resampled "
        "conversations of the only held-out pairs there are, with the models as they are; of older "
        "scans all points as if they were independent, which is too narrow",
    )


class ScanEvaluation(Noun):
    """One scan: its points in their order, and what was asked for beside them."""

    setting: str
    seeds: tuple[int, ...]
    folds: int
    points: tuple[ScanPoint, ...] = Field(description="none where every training failed")
    failed: tuple[ScanFailure, ...] = ()
    fit: ScanFit | None = None
    covariance: tuple[tuple[float, ...], ...] | None = Field(
        None,
        description="of the points' accuracies on all pairs, over the conversations that all are tested on; None where "
        "seeds have pairs of their own, there is one conversation alone, or the scan is an older one",
    )
    not_fitted: str = Field("", description="why a line that was asked for is not there")
    calibration: Calibration | None = Field(None, description="of the last value, all seeds together")
    above_threshold: tuple[AboveThreshold, ...] = Field(
        (), description="of the last value, scores counted from the mean of their own model"
    )

    @property
    def is_over_seeds(self) -> bool:
        """Whether each of several seeds has held-out pairs of its own, so that intervals are over the seeds."""
        return any(point.accuracy[ALL].clusters == len(point.by_seed) > 1 for point in self.points)

    @property
    def whole_seeds(self) -> tuple[int, ...]:
        """The seeds that have a model at every point."""
        return tuple(seed for seed in self.seeds if all(seed in point.by_seed for point in self.points))


def x_of(setting: str, point: ScanPoint) -> float | None:
    """Where a point lies on an axis: data in pairs, models in parameters; None where the setting has no order."""
    if setting == "training_pairs":
        return point.training_pairs
    if setting == "start":
        return float(point.parameters)
    return None if isinstance(point.value, str) else float(point.value)


def evaluate_scan(
    setting: str,
    trials: Sequence[Trial],
    failed: Sequence[ScanFailure] = (),
    *,
    is_fitted: bool = False,
    has_scores: bool = False,
) -> ScanEvaluation:
    """The numbers of one scan; trials of one value stand side by side.

    Args:
        failed: trainings beside them that gave no model.
        is_fitted: a straight line through accuracy against the logarithm of `x_of`.
        has_scores: calibration and thresholds of the last value's PMs.

    Errors:
        DataError: no trials, and none that failed.
    """
    if not trials and not failed:
        raise DataError(f"The scan of {setting} has 0 trials; give it at least one value and one seed.")
    values = [list(part) for _, part in groupby(trials, key=lambda trial: trial.value)]
    points = tuple(_point(part) for part in values)
    fit, not_fitted = None, ""
    if is_fitted and points:
        try:
            fit = _fit([x_of(setting, point) or 0.0 for point in points], values)
        except DataError as error:  # the trainings are done, and the points tell what they tell
            not_fitted = str(error)
    return ScanEvaluation(
        setting=setting,
        seeds=tuple(sorted({one.seed for one in trials} | {one.seed for one in failed})),
        folds=len({one.fold for one in trials} | {one.fold for one in failed}),
        points=points,
        failed=tuple(failed),
        fit=fit,
        covariance=_covariance(values),
        not_fitted=not_fitted,
        **(_scores(values[-1]) if has_scores and values else {}),
    )


def _fit(x: Sequence[float], values: Sequence[Sequence[Trial]]) -> ScanFit:
    """The line through accuracy on all pairs, with the intervals that the points have: over draws, else over pairs."""
    if min(x) <= 0:
        raise DataError(f"A line over a logarithm needs positive numbers, not {min(x):g}; set fit to false.")
    logarithms, places = np.log(x), np.geomspace(min(x), max(x), _FIT_PLACES)
    draws = list(dict.fromkeys(trial.draw for trials in values for trial in trials))
    if len(draws) > 1:
        right = [[(trial.draw, _own_right(trial)) for trial in trials] for trials in values]
        whole = [one for one in draws if all(any(draw == one for draw, _ in point) for point in right)]
        if len(whole) < 2:
            raise DataError(
                f"A line over seeds needs two with a model at every value, and {len(whole)} of {len(draws)} have one; "
                "scan more seeds."
            )
        runs = [
            [float(np.concatenate([r for draw, r in point if draw == one]).mean()) for point in right] for one in whole
        ]
        n = sum(len(r) for point in right for _, r in point)
        line, band = line_over_runs(logarithms, runs, np.log(places), n=n)
    else:
        line, band = line_of_shares(logarithms, _shares(values), np.log(places))
    return ScanFit(
        line=line,
        band=tuple(one.model_copy(update={"x": math.exp(one.x)}) for one in band),
        over="seeds" if len(draws) > 1 else "conversations",
    )


def _shares(values: Sequence[Sequence[Trial]]) -> list[tuple[Floats, list[str]]]:
    """Of each value what its trials made of all pairs, and the conversation of each."""
    return [
        (
            np.concatenate([_own_right(trial) for trial in trials]),
            [conversation_key(pair) for trial in trials for pair in trial.pairs],
        )
        for trials in values
    ]


def _covariance(values: Sequence[Sequence[Trial]]) -> tuple[tuple[float, ...], ...] | None:
    """Where all are tested on pairs of one draw and that is more than one conversation."""
    if len({trial.draw for trials in values for trial in trials}) != 1:  # 0 where every training failed
        return None
    found = covariance_of_shares(_shares(values))
    return tuple(tuple(row) for row in found.tolist()) if np.isfinite(found).all() else None


def _point(trials: Sequence[Trial]) -> ScanPoint:
    kinds = _different_kinds([pair for trial in trials for pair in trial.pairs])
    with_words = all(trial.words is not None for trial in trials)

    def words_right(trial: Trial) -> Floats:
        assert trial.words is not None
        return _right(trial.words, trial)

    accuracy = {kind: _interval(trials, _own_right, kind, _SHARE) for kind in kinds}
    words = {kind: _interval(trials, words_right, kind, _SHARE) for kind in kinds if with_words}
    above = {
        kind: _interval(trials, lambda trial: _own_right(trial) - words_right(trial), kind, _DIFFERENCE)
        for kind in kinds
        if with_words
    }
    by_seed = {
        seed: float(np.concatenate([_own_right(trial) for trial in trials if trial.seed == seed]).mean())
        for seed in dict.fromkeys(trial.seed for trial in trials)
    }
    return ScanPoint(
        value=trials[0].value,
        training_pairs=float(np.mean([trial.training_pairs for trial in trials])),
        parameters=trials[0].parameters,
        accuracy=accuracy,
        loss=_interval(trials, lambda t: np.logaddexp(0, t.rejected - t.chosen), ALL, (0.0, math.inf)),
        words=words,
        above_words=above,
        by_seed=by_seed,
    )


def kinds_of(pair: PreferencePair) -> tuple[str, ...]:
    """The columns that a pair belongs to: all, its mode, its mode and tranche."""
    return (ALL, pair.mode.value, f"{pair.mode.value} {pair.tranche.value}")


def _different_kinds(pairs: Sequence[PreferencePair]) -> list[str]:
    """All, then modes, then modes by tranche; one that holds the same pairs as one before it is left out."""
    counted = Counter(kind for pair in pairs for kind in kinds_of(pair))
    kinds: list[str] = []
    for depth in range(3):
        for kind in sorted({kinds_of(pair)[depth] for pair in pairs}):
            wider = [k for k in kinds if k == ALL or kind.startswith(f"{k} ")]
            if all(counted[kind] < counted[k] for k in wider):
                kinds.append(kind)
    return kinds


def _own_right(trial: Trial) -> Floats:
    return _right(trial.chosen - trial.rejected, trial)


def _right(differences: Floats, trial: Trial) -> Floats:
    """1 where positive, half at 0; under known chances the chance that a fresh judgment agrees."""
    right: Floats = (np.sign(differences) + 1) / 2
    if trial.probabilities is None:
        return right
    return trial.probabilities * right + (1 - trial.probabilities) * (1 - right)


def _interval(
    trials: Sequence[Trial], values_of: Callable[[Trial], Floats], kind: str, bounds: tuple[float, float]
) -> Interval:
    """Mean over the pairs of `kind`: over draws where there are several, else clustered by conversation."""
    by_draw: dict[int, list[float]] = {}
    clusters: list[str] = []
    for trial in trials:
        kept = [place for place, pair in enumerate(trial.pairs) if kind in kinds_of(pair)]
        by_draw.setdefault(trial.draw, []).extend(values_of(trial)[kept].tolist())
        clusters += [conversation_key(trial.pairs[place]) for place in kept]
    draws = [values for values in by_draw.values() if values]
    if len(draws) > 1:
        return run_mean([float(np.mean(values)) for values in draws], sum(map(len, draws)), bounds=bounds)
    return clustered_mean([value for values in draws for value in values], clusters, bounds=bounds)


def _scores(trials: Sequence[Trial]) -> dict[str, Calibration | tuple[AboveThreshold, ...]]:
    """Calibration and thresholds of several PMs together; a conversation of each draw is a cluster."""
    clusters = [f"{trial.draw} {conversation_key(pair)}" for trial in trials for pair in trial.pairs]
    means = [(trial.chosen.mean() + trial.rejected.mean()) / 2 for trial in trials]
    chosen = np.concatenate([trial.chosen - mean for trial, mean in zip(trials, means, strict=True)])
    rejected = np.concatenate([trial.rejected - mean for trial, mean in zip(trials, means, strict=True)])
    return {
        "calibration": calibration(chosen - rejected, clusters),
        "above_threshold": accuracy_above(chosen, rejected, clusters),
    }
