"""How good a preference model (PM) is on held-out comparisons: every number with its clustered interval and its n.

Asks a `Scorer` for scores and turns them into accuracy, slices, calibration and worst errors. Knows no training; the
page made of these numbers is `preference_report`.

A pair is right when the chosen reply has the higher score; equal scores count half. Clusters are conversations.
"""

from __future__ import annotations

import contextlib
import hashlib
from array import array
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from pydantic import Field
from scipy import optimize, special

from prefloop.errors import DataError
from prefloop.evals.baselines import Agreement, judged_twice, worker_agreement
from prefloop.evals.slices import slice_names, slice_order
from prefloop.models.preference import FittedScores, conversation_key
from prefloop.pair_file import picked
from prefloop.schema import EvalResult, Interval, Message, Mode, Noun, PreferencePair, Scorer
from prefloop.stats import (
    AboveThreshold,
    Calibration,
    accuracy_above,
    calibration,
    clustered_mean,
    clustered_ratio,
    clustered_share,
)
from prefloop.stats.intervals import LEVEL, Floats, Ints, Labels, label_codes
from prefloop.store import Store

__all__ = [
    "PairScores",
    "PreferenceEvaluation",
    "ScoredPair",
    "evaluate_preference",
    "fitted_temperature",
    "score_pairs",
]

_PAIRS_A_BLOCK = 256
_WORST = 10


@runtime_checkable
class PairScorer(Protocol):
    """A scorer that fits both replies of a pair to its window together, and counts what it drops for that."""

    def score_pairs(self, pairs: Sequence[PreferencePair]) -> FittedScores: ...


class PairScores(NamedTuple):
    """Raw scores of the pairs that a scorer takes: their places among all, and what each of the two replies got.

    `dropped_turns` is None where the scorer does not tell.
    """

    kept: Ints
    chosen: Floats
    rejected: Floats
    refused: int
    dropped_turns: int | None

    def among(self, places: Ints) -> PairScores:
        """Of these the pairs at `places`, which another model takes too; what this scorer left out stays counted."""
        is_in = np.isin(self.kept, places)
        return self._replace(kept=self.kept[is_in], chosen=self.chosen[is_in], rejected=self.rejected[is_in])


class ScoredPair(Noun):
    """A comparison with both raw scores."""

    pair: PreferencePair
    score_chosen: float
    score_rejected: float

    @property
    def difference(self) -> float:
        """score(chosen) - score(rejected): the log-odds that the chosen reply is better."""
        return self.score_chosen - self.score_rejected


class PreferenceEvaluation(Noun):
    """What is known about a PM from held-out comparisons. Lengths are characters, losses nats."""

    pairs: int
    conversations: int
    dropped_pairs: int = Field(description="left out because the scorer refused them (longer than its window)")
    dropped_turns: int | None = Field(
        None, description="oldest turns of the others left out, so that they fit; None where the scorer does not tell"
    )
    accuracy: Interval
    loss: Interval
    longer_reply: Interval = Field(description="accuracy of always taking the longer reply (equal lengths half)")
    shorter_reply: Interval
    above_length: Interval = Field(description="accuracy less that of the better of the two length baselines")
    slices: Mapping[str, Mapping[str, Interval]] = Field(
        description="accuracy by tranche, mode, turn, length, grade, worker"
    )
    calibration: Calibration
    temperature: Interval | None = Field(
        description="differences divided by this are calibrated best: above 1 the PM is over-confident; None where no "
        "positive finite one is best (all pairs right, or no more right than wrong)"
    )
    expected_accuracy: Interval | None = Field(
        None, description="chance to agree with a fresh judgment, where the choice probabilities are known"
    )
    best_possible: Interval | None = Field(None, description="the same for a scorer that knows the probabilities")
    share_of_best: Interval | None = Field(
        None, description="(expected_accuracy - 0.5) / (best_possible - 0.5): how far of the way from chance to best"
    )
    words: Interval | None = Field(None, description="accuracy of a TF-IDF regression, where one was given")
    above_words: Interval | None = Field(None, description="accuracy less that of the regression, pair by pair")
    agreement: Agreement | None = Field(None, description="of two workers, where two judged the same comparison")
    above_threshold: tuple[AboveThreshold, ...] = Field(
        (), description="accuracy on pairs both of whose scores reach a threshold, counted from the mean score"
    )
    unknown: tuple[str, ...] = Field((), description="what these comparisons cannot tell, a sentence each")
    scores_by_tranche: Mapping[str, tuple[float, ...]] = Field(description="raw scores of both replies")
    differences: tuple[float, ...] = Field((), description="score(chosen) - score(rejected) of every pair")
    worst: tuple[ScoredPair, ...] = Field(description="the most confident errors, worst first")

    def results(self, model_id: str, data: str = "") -> list[EvalResult]:
        """The numbers as rows of the store; a slice stands behind the description of the data."""
        metrics = {
            "accuracy": self.accuracy,
            "loss": self.loss,
            "longer_reply": self.longer_reply,
            "shorter_reply": self.shorter_reply,
            "above_length": self.above_length,
            "calibration_error": self.calibration.calibration_error,
            "temperature": self.temperature,
            "expected_accuracy": self.expected_accuracy,
            "best_possible": self.best_possible,
            "share_of_best": self.share_of_best,
            "words": self.words,
            "above_words": self.above_words,
            "worker_agreement": self.agreement.two_workers if self.agreement else None,
            "agreement_ceiling": self.agreement.ceiling if self.agreement else None,
        }
        rows = [(name, value, data) for name, value in metrics.items() if value is not None]
        for kind, values in self.slices.items():
            rows += [("accuracy", value, f"{data} {kind}={name}".strip()) for name, value in values.items()]
        return [
            EvalResult(
                evaluation="preference", model_id=model_id, metric=f"preference_eval/{name}", value=value, data=where
            )
            for name, value, where in rows
        ]


def evaluate_preference(
    scorer: Scorer | PairScores,
    pairs: Sequence[PreferencePair],
    *,
    choice_probabilities: Sequence[float] | None = None,
    words: Mapping[Mode | None, Scorer] | None = None,
    groups: Sequence[str] | None = None,
    unstated: Collection[str] = (),
    store: Store | None = None,
    model_id: str = "",
    data: str = "",
    seed: int = 0,
) -> PreferenceEvaluation:
    """Scores both sides of every pair and evaluates the differences.

    Args:
        scorer: the model, or what `score_pairs` kept of it; only the pairs that are kept there are evaluated.
        choice_probabilities: where known (a simulated worker's), the probability of each pair that `chosen` is the
            side that a fresh judgment prefers.
        words: a `TfidfRegression` to compare with, for each mode of which there are training pairs (pooled, what the
            modes prefer cancels out); under None that of all of them, for other modes.
        groups: a name for each pair, for slices of the caller's own.
        unstated: properties that nobody stated of these pairs (tranche, say), which make no slices then.
        store: keeps the numbers as EvalResult rows of `model_id` on `data`.
        seed: of the bootstrap.

    Errors:
        DataError: no pairs, none that the scorer takes, or probabilities that do not fit.
    """
    if not pairs:
        raise DataError("There are no pairs to evaluate on; hold some comparisons out.")
    if choice_probabilities is not None and len(choice_probabilities) != len(pairs):
        raise DataError(
            f"{len(choice_probabilities)} choice probabilities do not fit {len(pairs)} pairs; give as many."
        )
    if groups is not None and len(groups) != len(pairs):
        raise DataError(f"{len(groups)} groups do not fit {len(pairs)} pairs; give as many.")
    kept, chosen_scores, rejected_scores, refused, dropped_turns = (
        scorer if isinstance(scorer, PairScores) else score_pairs(scorer, pairs)
    )
    if len(kept) == 0:
        raise DataError(f"Of {len(pairs)} pairs there is none that every model takes; compare models apart.")
    kept_pairs = picked(pairs, kept)
    differences = chosen_scores - rejected_scores
    if not np.isfinite(differences).all():
        raise DataError(f"{(~np.isfinite(differences)).sum()} of {len(kept)} differences are not finite; train anew.")
    clusters = conversation_numbers(kept_pairs)
    right = shares_right(differences)
    names = {kind: of_pair for kind, of_pair in slice_names(kept_pairs).items() if kind not in unstated}
    names |= {} if groups is None else {"group": [groups[place] for place in kept]}
    mean_score = (chosen_scores.mean() + rejected_scores.mean()) / 2

    def share(values: Floats) -> Interval:
        return clustered_share(values, clusters, seed=seed)

    longer = shares_right(np.array([len(pair.chosen) - len(pair.rejected) for pair in kept_pairs], dtype=np.float64))
    best_length = longer if longer.mean() >= 0.5 else 1 - longer
    known: dict[str, Interval | Agreement] = {}
    unknown = []
    if words is not None:
        word_right = shares_right(word_differences(words, kept_pairs))
        known |= {
            "words": share(word_right),
            "above_words": clustered_mean(right - word_right, clusters, bounds=(-1.0, 1.0), seed=seed),
        }
    try:
        agreement = worker_agreement(kept_pairs, clusters, seed)
        twice = judged_twice(kept_pairs)
        on_same = clustered_share(right[twice], clusters[twice], seed=seed)
        known["agreement"] = agreement.model_copy(update={"model": on_same})
    except DataError as error:
        unknown.append(str(error))
    if choice_probabilities is not None:
        chosen = np.asarray(choice_probabilities, dtype=np.float64)[kept]
        expected, best = chosen * right + (1 - chosen) * (1 - right), np.maximum(chosen, 1 - chosen)
        known |= {"expected_accuracy": share(expected), "best_possible": share(best)}
        if (best > 0.5).any():
            known["share_of_best"] = clustered_ratio(expected - 0.5, best - 0.5, clusters, seed=seed)
    worst = [place for place in np.argsort(differences, kind="stable")[:_WORST].tolist() if differences[place] < 0]
    evaluation = PreferenceEvaluation(
        pairs=len(kept),
        conversations=int(clusters.max()) + 1,
        dropped_pairs=refused,
        dropped_turns=dropped_turns,
        accuracy=share(right),
        loss=clustered_mean(np.logaddexp(0, -differences), clusters, bounds=(0.0, np.inf), seed=seed),
        longer_reply=share(longer),
        shorter_reply=share(1 - longer),
        above_length=clustered_mean(right - best_length, clusters, bounds=(-1.0, 1.0), seed=seed),
        slices=_slices(names, right, clusters, seed),
        calibration=calibration(differences, clusters, seed=seed),
        temperature=fitted_temperature(differences, clusters),
        above_threshold=accuracy_above(chosen_scores - mean_score, rejected_scores - mean_score, clusters, seed=seed),
        unknown=tuple(unknown),
        scores_by_tranche=_scores_by(names.get("tranche", ["all pairs"] * len(kept)), chosen_scores, rejected_scores),
        differences=tuple(differences.tolist()),
        worst=tuple(
            ScoredPair(pair=kept_pairs[i], score_chosen=chosen_scores[i], score_rejected=rejected_scores[i])
            for i in worst
        ),
        **known,
    )
    if store is not None:
        store.add_eval_results(evaluation.results(model_id, data))
    return evaluation


def fitted_temperature(differences: Sequence[float] | Floats, clusters: Labels) -> Interval | None:
    """The T that makes the mean of -log sigmoid(difference / T) least, with a clustered sandwich interval.

    None where there is no positive finite one: every pair is right, or the differences are no better than chance.
    """
    given = np.asarray(differences, dtype=np.float64)

    def slope(inverse: float) -> float:  # of the log-likelihood in 1 / T; it falls as 1 / T rises
        return float((given * special.expit(-inverse * given)).sum())

    scale = 1 / max(float(np.abs(given).mean()), 1e-300)
    if slope(0.0) <= 0 or (given >= 0).all() or slope(1e3 * scale) > 0:
        return None
    inverse = float(optimize.brentq(slope, 0.0, 1e3 * scale))
    sums = np.bincount(label_codes(clusters)[0], weights=given * special.expit(-inverse * given))
    curvature = (given**2 * special.expit(inverse * given) * special.expit(-inverse * given)).sum()
    value, count = 1 / inverse, len(sums)
    if count < 2:
        return Interval(value=value, low=0.0, high=np.inf, n=len(given), clusters=count)
    spread = np.sqrt((sums**2).sum() * count / (count - 1)) / curvature / inverse  # standard error of log T
    reach = float(special.stdtrit(count - 1, 0.5 + LEVEL / 2)) * spread  # of the interval, on the log scale
    with np.errstate(over="ignore", under="ignore"):  # a slope near 0 says next to nothing of T: from 0 to infinity
        low, high = value * np.exp(-reach), value * np.exp(reach)
    return Interval(value=value, low=low, high=high, n=len(given), clusters=count)


def conversation_numbers(pairs: Sequence[PreferencePair]) -> Ints:
    """A number for each pair's conversation, told apart by eight bytes of a hash: keys can be as long as the texts."""
    keys = (hashlib.blake2b(conversation_key(pair).encode(), digest_size=8).digest() for pair in pairs)
    names = np.fromiter((int.from_bytes(key, "big", signed=True) for key in keys), dtype=np.int64, count=len(pairs))
    return label_codes(names)[0]


def score_pairs(scorer: Scorer, pairs: Sequence[PreferencePair]) -> PairScores:
    """Scores of both replies of the pairs that the scorer takes.

    Errors:
        DataError: it takes none.
    """
    kept, values = array("q"), array("d")
    dropped_turns = 0 if isinstance(scorer, PairScorer) else None
    for start in range(0, len(pairs), _PAIRS_A_BLOCK):
        block = pairs[start : start + _PAIRS_A_BLOCK]
        if isinstance(scorer, PairScorer):
            found = scorer.score_pairs(block)
            kept.extend(start + place for place in found.kept)
            values.extend(chain.from_iterable(zip(found.chosen, found.rejected, strict=True)))
            dropped_turns = (dropped_turns or 0) + found.dropped_turns
            continue
        try:
            values.extend(_score_block(scorer, block))
            kept.extend(range(start, start + len(block)))
        except DataError:  # one of them is too long: find out which
            for place, pair in enumerate(block, start):
                with contextlib.suppress(DataError):  # counted as dropped
                    values.extend(_score_block(scorer, [pair]))
                    kept.append(place)
    if not kept:
        raise DataError(f"None of the {len(pairs)} pairs fits the scorer's window; take shorter ones.")
    scores = np.array(values)
    return PairScores(np.array(kept), scores[0::2], scores[1::2], len(pairs) - len(kept), dropped_turns)


def _score_block(scorer: Scorer, pairs: Sequence[PreferencePair]) -> list[float]:
    """Chosen, rejected, chosen, rejected ..."""
    return scorer.score(
        [
            [*pair.context, Message(role="assistant", text=text)]
            for pair in pairs
            for text in (pair.chosen, pair.rejected)
        ]
    )


def word_differences(words: Mapping[Mode | None, Scorer], pairs: Sequence[PreferencePair]) -> Floats:
    differences = np.zeros(len(pairs))
    modes = [pair.mode for pair in pairs]
    for mode in set(modes):
        places = [place for place, other in enumerate(modes) if other == mode]
        scores = score_pairs(words.get(mode, words[None]), picked(pairs, places))
        differences[places] = scores.chosen - scores.rejected
    return differences


def shares_right(differences: Floats) -> Floats:
    """1 where positive, 0 where negative, half at 0."""
    halves: Floats = (np.sign(differences) + 1) / 2
    return halves


def _slices(
    names: Mapping[str, Sequence[str]], right: Floats, clusters: Ints, seed: int
) -> dict[str, dict[str, Interval]]:
    """Accuracy by each property, in the property's own order."""
    slices: dict[str, dict[str, Interval]] = {}
    for kind, of_pair in names.items():
        slices[kind] = {}
        for name in slice_order(kind, of_pair):
            places = [place for place, other in enumerate(of_pair) if other == name]
            slices[kind][name] = clustered_share(right[places], clusters[places], seed=seed)
    return slices


def _scores_by(tranches: Sequence[str], chosen: Floats, rejected: Floats) -> dict[str, tuple[float, ...]]:
    scores: dict[str, tuple[float, ...]] = {}
    for name in sorted(set(tranches)):
        is_here = np.array([tranche == name for tranche in tranches])
        scores[name] = tuple(np.stack([chosen[is_here], rejected[is_here]], axis=1).ravel().tolist())
    return scores
