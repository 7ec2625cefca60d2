"""What can be known about preferences between two replies of a model in the tiny world, from gold alone.

Draws pairs of replies, the probability of each choice by a workforce, and from them the best possible accuracy and
how far poor judges of text get: by length alone, by words alone. Reaches models through Sampler and Scorer.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from prefloop.render import Renderer
from prefloop.sandbox.contrasts import contrast_pairs
from prefloop.sandbox.gold import UNREADABLE, Gold
from prefloop.sandbox.judges import Traits, choice_probability
from prefloop.sandbox.language import World, world
from prefloop.sandbox.prompts import Context, is_harmful
from prefloop.schema import Interval, Message, Mode, PreferencePair, Sampler, SamplingSettings, Scorer
from prefloop.stats import clustered_mean

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KnownPair:
    """Two different replies to one context, judged once: `pair.chosen` is what that one judgment preferred.

    `probability` is that of another judgment preferring `chosen` too; `golds` and `is_right` are of chosen, rejected.
    """

    pair: PreferencePair
    probability: float
    golds: tuple[float, float]
    is_right: tuple[bool, bool]


def sample_replies(
    sampler: Sampler, renderer: Renderer, contexts: Sequence[Context], n: int, seed: int, max_response_tokens: int = 80
) -> list[list[str]]:
    """`n` replies to each context at temperature 1."""
    settings = SamplingSettings(max_response_tokens=max_response_tokens)
    samples = sampler.sample([renderer.context_ids(context) for context in contexts], n, settings, seed)
    return [[renderer.decode(sample.ids) for sample in replies] for replies in samples]


def known_pairs(
    sampler: Sampler, renderer: Renderer, world: World, contexts: Sequence[Context], traits: Sequence[Traits], seed: int
) -> list[KnownPair]:
    """One pair of replies to each context; pairs that read the same are left out."""
    gold, chance = Gold(world), random.Random(f"known-pairs-{seed}")
    pairs: list[KnownPair] = []
    for index, (context, replies) in enumerate(
        zip(contexts, sample_replies(sampler, renderer, contexts, 2, seed), strict=True)
    ):
        if replies[0] == replies[1]:
            continue
        if chance.random() >= choice_probability(traits, gold(context, replies[0]) - gold(context, replies[1])):
            replies = replies[::-1]
        chosen, rejected = replies
        golds = gold(context, chosen), gold(context, rejected)
        pair = PreferencePair(
            context=context,
            chosen=chosen,
            rejected=rejected,
            conversation_id=f"held-out-{index}",
            mode=Mode.RED_TEAM if is_harmful(world, context) else Mode.HELPFUL,
            turn=sum(message.role == "user" for message in context),
        )
        right = gold.is_right(context, chosen), gold.is_right(context, rejected)
        pairs.append(KnownPair(pair, choice_probability(traits, golds[0] - golds[1]), golds, right))
    return pairs


@dataclass(frozen=True)
class Limits:
    """Expected accuracies on known pairs; `*_way` is the share of the way from 0.5 to the best possible."""

    pairs: int
    best_possible: Interval
    length_only: Interval
    bag_of_words: Interval
    bag_of_words_way: float
    right_content: Interval
    unreadable: Interval


def limits(pairs: Sequence[KnownPair]) -> Limits:
    """Measures all of it; the bag-of-words model is fitted on the first half of the pairs and tested on the second."""
    probability = np.array([known.probability for known in pairs])
    longer = np.array([len(known.pair.chosen) - len(known.pair.rejected) for known in pairs])
    by_length = expected_accuracy(longer, probability)
    half = len(pairs) // 2
    difference = _word_differences(pairs)
    words = difference[half:] @ _logistic(difference[:half], probability[:half])
    best = np.maximum(probability, 1 - probability)
    by_words = expected_accuracy(words, probability[half:])
    helpful = [known for known in pairs if known.pair.mode is Mode.HELPFUL]
    return Limits(
        pairs=len(pairs),
        best_possible=_mean(best),
        length_only=_mean(np.maximum(by_length.mean(), 1 - by_length.mean()) + by_length - by_length.mean()),
        bag_of_words=_mean(by_words),
        bag_of_words_way=float((by_words.mean() - 0.5) / (best[half:].mean() - 0.5)),
        right_content=_mean(np.array([right for known in helpful for right in known.is_right], dtype=float)),
        unreadable=_mean(np.array([gold <= UNREADABLE for known in pairs for gold in known.golds], dtype=float)),
    )


def score_differences(scorer: Scorer, pairs: Sequence[KnownPair]) -> Floats:
    """A scorer's score of `chosen` less that of `rejected`, per pair."""
    scores = scorer.score(
        [
            (*known.pair.context, Message(role="assistant", text=text))
            for known in pairs
            for text in (known.pair.chosen, known.pair.rejected)
        ]
    )
    return np.array(scores[::2], dtype=np.float64) - np.array(scores[1::2], dtype=np.float64)


def way(differences: Floats, pairs: Sequence[KnownPair]) -> tuple[Interval, float]:
    """Expected accuracy of a scorer with these differences, and its share of the way from 0.5 to the best possible."""
    probability = np.array([known.probability for known in pairs])
    accuracy = expected_accuracy(differences, probability)
    best = np.maximum(probability, 1 - probability)
    return _mean(accuracy), float((accuracy.mean() - 0.5) / (best.mean() - 0.5))


def contrast_accuracy(scorer: Scorer, seed: int, count: int = 1000) -> float:
    """Share of pairs that differ in what was asked for alone, in which the right reply has the higher score."""
    pairs = list(contrast_pairs(world(), seed + 7_000_003, count))
    scores = scorer.score(
        [
            (*pair.context, Message(role="assistant", text=text))
            for pair in pairs
            for text in (pair.chosen, pair.rejected)
        ]
    )
    return sum(right > wrong for right, wrong in zip(scores[::2], scores[1::2], strict=True)) / len(pairs)


def expected_accuracy(difference: Floats, probability: Floats) -> Floats:
    """Per pair: the probability that a fresh judgment agrees with the sign of `difference`; 0.5 at a tie."""
    return np.asarray(np.where(difference > 0, probability, np.where(difference < 0, 1 - probability, 0.5)))


def _mean(values: Floats) -> Interval:
    return clustered_mean(values, list(range(len(values))), bounds=(0.0, 1.0), seed=0)


def _word_differences(pairs: Sequence[KnownPair]) -> Floats:
    """How often each word stands in `chosen` more than in `rejected`: (pair, word)."""
    counts = [(Counter(known.pair.chosen.split()), Counter(known.pair.rejected.split())) for known in pairs]
    vocabulary = {word: column for column, word in enumerate(sorted({w for c, r in counts for w in (*c, *r)}))}
    difference = np.zeros((len(pairs), len(vocabulary)))
    for row, (chosen, rejected) in enumerate(counts):
        for word, count in chosen.items():
            difference[row, vocabulary[word]] += count
        for word, count in rejected.items():
            difference[row, vocabulary[word]] -= count
    return difference


def _logistic(features: Floats, probability: Floats, penalty: float = 5.0) -> Floats:
    """Ridge-penalised logistic regression without intercept on known probabilities."""

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = features @ weights
        value = (np.logaddexp(0, logits) - probability * logits).sum() + penalty / 2 * weights @ weights
        return float(value), features.T @ (special.expit(logits) - probability) + penalty * weights

    fitted = optimize.minimize(loss, np.zeros(features.shape[1]), jac=True, method="L-BFGS-B")
    return np.asarray(fitted.x)
