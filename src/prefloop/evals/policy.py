"""How good a policy is beside the one it started from: scores, win rates, KL, length and diversity, with intervals.

Draws one reply to each prompt from both, under the same settings or each sampler's own, and asks every scorer. Reaches
models through `Sampler` and `Scorer` only (and a reference model, where the KL is wanted). Knows no training and no
store.

Clusters are prompts, or what the caller says (prompts of one conversation). Ties count half.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.evals.comparisons import LogpAccuracy
from prefloop.evals.replies import GOLD, KnownPreference, are_known, kl_of, scores_of
from prefloop.models.responses import encode_prompts
from prefloop.render import Renderer
from prefloop.schema import EvalResult, Interval, Message, Noun, Sample, Sampler, SamplingSettings, Scorer
from prefloop.stats import (
    bootstrap_interval,
    clustered_mean,
    clustered_ratio,
    clustered_share,
    distinct_share,
    label_codes,
    mean_difference,
    win_rate,
)
from prefloop.stats.intervals import Floats, cluster_sums

__all__ = ["GOLD", "Part", "PolicyEvaluation", "Replies", "SideBySide", "evaluate_policy"]

_FEWEST_TEXTS = 3


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
    distinct: Mapping[int, Interval | None] = Field(
        description="distinct n-grams of words / all of them, over all replies; None where there are too few"
    )
    entropy: Interval | None = Field(
        None, description="minus the mean log-probability of the sampled tokens, nats a token; None where it is unknown"
    )
    self_similarity: Interval | None = Field(
        None, description="mean Jaccard similarity of the words of two replies; None where there are fewer than 3"
    )
    length_correlation: Mapping[str, Interval | None] = Field(
        description="Pearson correlation of tokens and score; None where one of them does not vary"
    )


class Part(Noun):
    """The prompts of one mode: helpful, or harmful ones (red_team)."""

    prompts: int
    policy: Mapping[str, Interval] = Field(description="mean raw score by each scorer")
    base: Mapping[str, Interval]
    differences: Mapping[str, Interval] = Field(description="policy less base, prompt by prompt")
    win_rates: Mapping[str, Interval]


class PolicyEvaluation(Noun):
    """A policy against its base, on the same prompts."""

    prompts: int
    policy: Replies
    base: Replies
    differences: Mapping[str, Interval] = Field(description="score of the policy less the base's, prompt by prompt")
    win_rates: Mapping[str, Interval] = Field(description="share of prompts on which the policy's reply scores higher")
    kl: Interval | None = Field(description="to the reference, nats a reply (k1); None where it is not known")
    kl_note: str = Field("", description="why it is not known")
    kl_bound: float | None = Field(
        None, description="of a best-of-k policy to single replies of its own: at most log k - (k-1)/k nats"
    )
    policy_shown: str = Field("", description="what its replies are besides those of plain weights")
    base_shown: str = ""
    samples: tuple[SideBySide, ...]
    modes: Mapping[str, Part] = Field(default_factory=dict, description="apart, where the modes are given (Figure 14)")
    people: Interval | None = Field(None, description="share of people's judgments that prefer the policy's reply")
    logp_accuracy: LogpAccuracy | None = None

    def results(self, model_id: str, data: str = "") -> list[EvalResult]:
        """The numbers with intervals as rows of the store; the scorer stands behind the description of the data."""
        rows: list[tuple[str, Interval, str]] = []
        for name, value in self.policy.scores.items():
            rows.append(("score", value, f"{data} scorer={name}".strip()))
        for name, value in self.differences.items():
            rows.append(("score_difference", value, f"{data} scorer={name}".strip()))
        for name, value in self.win_rates.items():
            rows.append(("win_rate", value, f"{data} scorer={name}".strip()))
        rows += [("reply_tokens", self.policy.tokens, data), ("stopped", self.policy.stopped, data)]
        one_each = {
            "kl": self.kl,
            "entropy": self.policy.entropy,
            "self_similarity": self.policy.self_similarity,
            "people_win_rate": self.people,
        }
        rows += [(name, value, data) for name, value in one_each.items() if value is not None]
        for size, share in self.policy.distinct.items():
            if share is not None:
                rows.append(("distinct", share, f"{data} words={size}".strip()))
        for name, correlation in self.policy.length_correlation.items():
            if correlation is not None:
                rows.append(("length_correlation", correlation, f"{data} scorer={name}".strip()))
        if self.logp_accuracy is not None:
            for mode, value in self.logp_accuracy.policy.items():
                rows.append(("logp_accuracy", value, f"{data} mode={mode}".strip()))
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
    modes: Sequence[str] | None = None,
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
        modes: of each prompt ("helpful", "red_team"); they are evaluated apart as well.
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
    differences = {name: np.subtract(mine, scores["base"][name]) for name, mine in scores["policy"].items()}
    outcomes = {name: 0.5 + 0.5 * np.sign(values) for name, values in differences.items()}
    is_plain = (settings.temperature, settings.top_p, settings.top_k) == (1.0, 1.0, 0)
    groups: dict[str, list[int]] = {}
    for place, index in enumerate(places):
        if modes is not None:
            groups.setdefault(modes[index], []).append(place)

    def part(members: list[int]) -> Part:
        labels = None if clusters is None else [clusters[place] for place in members]

        def means(table: Mapping[str, Sequence[float] | Floats]) -> dict[str, Interval]:
            return {name: clustered_mean([values[i] for i in members], labels) for name, values in table.items()}

        return Part(
            prompts=len(members),
            policy=means(scores["policy"]),
            base=means(scores["base"]),
            differences=means(differences),
            win_rates={name: win_rate(values[members], labels) for name, values in outcomes.items()},
        )

    shown = {round(i * (len(encoded) - 1) / max(samples_shown - 1, 1)) for i in range(samples_shown)}
    return PolicyEvaluation(
        prompts=len(encoded),
        policy=_replies(drawn["policy"], texts["policy"], scores["policy"], clusters, is_plain),
        base=_replies(drawn["base"], texts["base"], scores["base"], clusters, is_plain),
        differences={name: clustered_mean(values, clusters) for name, values in differences.items()},
        win_rates={name: win_rate(values, clusters) for name, values in outcomes.items()},
        modes={mode: part(members) for mode, members in sorted(groups.items())},
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


def _distinct(texts: Sequence[str], n: int, clusters: Sequence[Hashable] | None) -> Interval | None:
    """Distinct n-grams of words over all n-grams of the texts: near 0 when all say the same."""
    grams = [[" ".join(words[i : i + n]) for i in range(len(words) - n + 1)] for words in map(str.split, texts)]
    codes, _ = label_codes([gram for of_text in grams for gram in of_text])
    items = np.split(codes, np.cumsum([len(of_text) for of_text in grams])[:-1])
    try:
        return distinct_share(items, clusters)
    except DataError:
        return None


def _replies(
    samples: Sequence[Sample],
    texts: Sequence[str],
    scores: Mapping[str, Sequence[float]],
    clusters: Sequence[Hashable] | None,
    is_plain: bool,
) -> Replies:
    is_known = is_plain and are_known(samples)
    tokens = [float(len(sample.ids)) for sample in samples]
    return Replies(
        scores={name: clustered_mean(values, clusters) for name, values in scores.items()},
        tokens=clustered_mean(tokens, clusters),
        stopped=clustered_share([sample.finish_reason == "stop" for sample in samples], clusters),
        distinct={n: _distinct(texts, n, clusters) for n in (1, 2, 3)},
        entropy=clustered_ratio([-sum(sample.logps) for sample in samples], tokens, clusters) if is_known else None,
        self_similarity=_self_similarity(texts),
        length_correlation={name: _correlation(tokens, values, clusters) for name, values in scores.items()},
    )


def _self_similarity(texts: Sequence[str]) -> Interval | None:
    """How alike the replies to different prompts are: 1 where all use the same words, near 0 where none does."""
    codes, _ = label_codes([word for text in texts for word in text.split()])
    ends = np.cumsum([len(text.split()) for text in texts])[:-1]
    items = [item for item in np.split(codes, ends) if len(item)]
    if len(items) < _FEWEST_TEXTS:
        return None
    unlike = mean_difference(items)
    return unlike.model_copy(
        update={"value": 1 - unlike.value, "low": max(0.0, 1 - unlike.high), "high": min(1.0, 1 - unlike.low)}
    )


def _correlation(one: Sequence[float], other: Sequence[float], clusters: Sequence[Hashable] | None) -> Interval | None:
    """Pearson's, with its interval over clusters; None where one of the two does not vary."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    x, y = np.asarray(one) - np.mean(one), np.asarray(other) - np.mean(other)
    columns = np.column_stack([np.ones(len(x)), x, y, x * x, y * y, x * y])

    def pearson(sums: Floats) -> Floats:
        n, sx, sy, sxx, syy, sxy = sums.T
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((n * sxy - sx * sy) / np.sqrt((n * sxx - sx * sx) * (n * syy - sy * sy)))

    return bootstrap_interval(cluster_sums(columns, clusters), pearson, n=len(x), bounds=(-1.0, 1.0))
