"""How good a policy is beside the one it started from: scores, win rates, KL, length and diversity, with intervals.

Draws one reply to each prompt from both, with the same settings, and asks every scorer. Reaches models through
`Sampler` and `Scorer` only (and a reference model, where the KL is wanted). Knows no training and no store.

Clusters are prompts, or what the caller says (prompts of one conversation). Ties count half.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.evals.replies import GOLD, KnownPreference, kl_of, scores_of
from prefloop.models.responses import encode_prompts
from prefloop.render import Renderer
from prefloop.schema import EvalResult, Interval, Message, Noun, Sample, Sampler, SamplingSettings, Scorer
from prefloop.stats import clustered_mean, clustered_share, win_rate

__all__ = ["GOLD", "PolicyEvaluation", "SideBySide", "evaluate_policy"]


class SideBySide(Noun):
    """One prompt, both replies, and what each scorer gave them."""

    context: tuple[Message, ...]
    policy: str
    base: str
    scores_policy: Mapping[str, float]
    scores_base: Mapping[str, float]


class Replies(Noun):
    """What is known of one model's replies."""

    scores: Mapping[str, Interval] = Field(description="mean raw score by each scorer")
    tokens: Interval = Field(description="tokens of a reply, its end included")
    stopped: Interval = Field(description="share of replies that ended by themselves")
    distinct: Mapping[int, float] = Field(description="distinct n-grams of words / all of them, over all replies")
    length_correlation: Mapping[str, float] = Field(
        description="Pearson correlation of tokens and score; nan where one of them does not vary"
    )


class PolicyEvaluation(Noun):
    """A policy against its base, on the same prompts."""

    prompts: int
    policy: Replies
    base: Replies
    win_rates: Mapping[str, Interval] = Field(description="share of prompts on which the policy's reply scores higher")
    kl: Interval | None = Field(description="to the reference, nats a reply (k1); None where it was not asked for")
    samples: tuple[SideBySide, ...]

    def results(self, model_id: str, data: str = "") -> list[EvalResult]:
        """The numbers with intervals as rows of the store; the scorer stands behind the description of the data."""
        rows: list[tuple[str, Interval, str]] = []
        for name, value in self.policy.scores.items():
            rows.append(("score", value, f"{data} scorer={name}".strip()))
        for name, value in self.win_rates.items():
            rows.append(("win_rate", value, f"{data} scorer={name}".strip()))
        rows += [("reply_tokens", self.policy.tokens, data), ("stopped", self.policy.stopped, data)]
        if self.kl is not None:
            rows.append(("kl", self.kl, data))
        return [
            EvalResult(evaluation="policy", model_id=model_id, metric=f"policy_eval/{name}", value=value, data=where)
            for name, value, where in rows
        ]


def evaluate_policy(
    sampler: Sampler,
    base_sampler: Sampler,
    prompts: Sequence[Sequence[Message]],
    scorers: Mapping[str, Scorer],
    renderer: Renderer,
    *,
    gold: KnownPreference | None = None,
    reference: Any = None,
    settings: SamplingSettings | None = None,
    room_tokens: int = 1 << 30,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
    samples_shown: int = 8,
) -> PolicyEvaluation:
    """Samples both models once a prompt and compares them.

    Args:
        scorers: PMs by name; each reads the reply's text after the whole context.
        renderer: of both samplers' tokenizer.
        gold: a known preference; it stands among the scorers as "gold".
        reference: a causal LM (usually the base); with it the policy's KL is estimated on the policy's replies.
        room_tokens: longest context; the oldest turns of longer ones are dropped for sampling.
        clusters: label of each prompt; prompts with equal labels resemble each other.
        samples_shown: how many prompts are kept side by side, evenly over the list.

    Errors:
        DataError: no prompts, no scorer, as many labels as prompts are needed, or a KL at settings that are not
            temperature 1 without top-p and top-k.
    """
    settings = settings or SamplingSettings()
    if not scorers and gold is None:
        raise DataError("There are 0 scorers and no known preference; give at least one.")
    encoded, places = encode_prompts(renderer, prompts, room_tokens)
    if clusters is not None:
        clusters = [clusters[place] for place in places]
    ids = [prompt.ids for prompt in encoded]
    drawn = {
        name: [samples[0] for samples in source.sample(ids, 1, settings, seed)]
        for name, source in (("policy", sampler), ("base", base_sampler))
    }
    texts = {name: [renderer.decode(sample.ids) for sample in samples] for name, samples in drawn.items()}
    scores = {name: scores_of(encoded, replies, scorers, gold) for name, replies in texts.items()}
    wins = {
        name: win_rate(0.5 + 0.5 * np.sign(np.subtract(mine, scores["base"][name])), clusters)
        for name, mine in scores["policy"].items()
    }
    shown = {round(i * (len(encoded) - 1) / max(samples_shown - 1, 1)) for i in range(samples_shown)}
    return PolicyEvaluation(
        prompts=len(encoded),
        policy=_replies(drawn["policy"], texts["policy"], scores["policy"], clusters),
        base=_replies(drawn["base"], texts["base"], scores["base"], clusters),
        win_rates=wins,
        kl=kl_of(reference, ids, drawn["policy"], settings, clusters),
        samples=tuple(
            SideBySide(
                context=encoded[place].messages,
                policy=texts["policy"][place],
                base=texts["base"][place],
                scores_policy={name: values[place] for name, values in scores["policy"].items()},
                scores_base={name: values[place] for name, values in scores["base"].items()},
            )
            for place in sorted(shown)
        ),
    )


def distinct_ngrams(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words over all n-grams of the texts: near 0 when all say the same. 0 without any n-gram."""
    grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _replies(
    samples: Sequence[Sample],
    texts: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    clusters: Sequence[Hashable] | None,
) -> Replies:
    tokens = [float(len(sample.ids)) for sample in samples]
    return Replies(
        scores={name: clustered_mean(values, clusters) for name, values in scores.items()},
        tokens=clustered_mean(tokens, clusters),
        stopped=clustered_share([sample.finish_reason == "stop" for sample in samples], clusters),
        distinct={n: distinct_ngrams(texts, n) for n in (1, 2, 3)},
        length_correlation={name: _correlation(tokens, values) for name, values in scores.items()},
    )


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])
