"""The best of n replies, for every n from one sampling pass, beside policies that were trained.

A picker (the PM that a best-of-n snapshot would pick with) ranks the replies to each prompt; judges (other PMs, a known
preference) say what the picked ones are worth. Reaches models through `Sampler` and `Scorer` only. Knows no training
and no store.

Clusters are prompts, or what the caller says. Ties count half in win rates.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from pydantic import Field

from prefloop.errors import DataError
from prefloop.evals.replies import kl_of, scores_of
from prefloop.models.responses import Prompt, encode_prompts
from prefloop.render import Renderer
from prefloop.schema import EvalResult, Interval, Message, Noun, Sampler, SamplingSettings, Scorer
from prefloop.stats import best_of_kl_bound, best_of_values, clustered_mean, top_k_kl
from prefloop.stats.intervals import Floats

__all__ = ["BesidePolicy", "BestOfEvaluation", "BestOfPoint", "evaluate_best_of"]


class BestOfPoint(Noun):
    """The `k` best of `n` replies, by the picker."""

    n: int
    k: int = 1
    kl: float = Field(description="nats: for k = 1 the bound log n - (n-1)/n, else log(n/k)")
    scores: Mapping[str, Interval] = Field(description="mean score by each judge, and by the picker itself")
    win_rates: Mapping[str, Interval] = Field(description="against one reply drawn apart from the n, by each judge")


class BesidePolicy(Noun):
    """A policy on the same prompts, one reply to each, less the best of `n` (a difference above 0: it is better)."""

    name: str
    n: int
    scores: Mapping[str, Interval]
    differences: Mapping[str, Interval] = Field(description="policy less best of n, by each judge")
    win_rates: Mapping[str, Interval] = Field(description="of the policy's reply against the best of n")
    kl: Interval | None = Field(description="to the model that was sampled, nats a reply (k1)")


class BestOfEvaluation(Noun):
    """The curve and the policies beside it."""

    picker: str
    prompts: int
    samples: int = Field(description="replies to each prompt, from which every point is estimated")
    best: tuple[BestOfPoint, ...]
    top: tuple[BestOfPoint, ...] = Field(description="the k best of all samples, k falling by halves")
    policies: tuple[BesidePolicy, ...] = ()
    shown: Mapping[str, str] = Field(
        default_factory=dict, description="what a model's replies are besides those of plain weights, by name"
    )

    def point(self, n: int) -> BestOfPoint:
        """The best of n; KeyError where n is not on the curve."""
        return {point.n: point for point in self.best}[n]

    def results(self, model_id: str, data: str = "") -> list[EvalResult]:
        """The curve as rows of the store; n and the judge stand behind the description of the data."""
        return [
            EvalResult(
                evaluation="best_of",
                model_id=model_id,
                metric=metric,
                value=value,
                data=f"{data} n={point.n} picker={self.picker} scorer={judge}".strip(),
            )
            for point in self.best
            for metric, values in (("best_of/score", point.scores), ("best_of/win_rate", point.win_rates))
            for judge, value in values.items()
        ]


def evaluate_best_of(
    sampler: Sampler,
    prompts: Sequence[Sequence[Message]],
    picker: str,
    scorers: Mapping[str, Scorer],
    renderer: Renderer,
    *,
    samples: int = 64,
    gold: Callable[[Sequence[Message], str], float] | None = None,
    policies: Mapping[str, Sampler] | None = None,
    beside: int = 16,
    reference: object = None,
    settings: SamplingSettings | None = None,
    room_tokens: int = 1 << 30,
    clusters: Sequence[Hashable] | None = None,
    seed: int = 0,
) -> BestOfEvaluation:
    """Draws `samples` replies to each prompt once, and estimates the best of n for n = 1, 2, 4 ... `samples`.

    Args:
        picker: the name of the scorer that picks.
        scorers: PMs by name, the picker among them; all of them judge.
        gold: a known preference; it judges as "gold".
        policies: by name, to be set beside the best of `beside`; same tokenizer as `renderer`.
        reference: a causal LM (the one that was sampled); with it the policies' KL is estimated.
        clusters: label of each prompt; prompts with equal labels resemble each other.

    Errors:
        DataError: no prompts, no such picker, or fewer samples than `beside` where there are policies.
    """
    settings = settings or SamplingSettings()
    if picker not in scorers:
        raise DataError(f"The picker {picker!r} is none of the scorers ({', '.join(scorers) or 'none'}); name one.")
    if policies and samples < beside:
        raise DataError(f"The best of {beside} cannot be estimated from {samples} samples; draw at least {beside}.")
    encoded, places = encode_prompts(renderer, prompts, room_tokens)
    labels = None if clusters is None else [clusters[place] for place in places]
    ids = [prompt.ids for prompt in encoded]
    # The last reply of each prompt is kept out of the pool: what the best of n is compared with.
    texts = [
        [renderer.decode(sample.ids) for sample in drawn] for drawn in sampler.sample(ids, samples + 1, settings, seed)
    ]
    flat = scores_of(_repeated(encoded, samples + 1), [text for row in texts for text in row], scorers, gold)
    table = {name: np.reshape(values, (len(encoded), samples + 1)) for name, values in flat.items()}
    pool = {name: values[:, :samples] for name, values in table.items()}
    opponents = {name: values[:, samples] for name, values in table.items()}

    def point(n: int, k: int, kl: float) -> BestOfPoint:
        def mean(judged: Floats) -> Floats:
            return best_of_values(pool[picker], judged, n, k)

        return BestOfPoint(
            n=n,
            k=k,
            kl=kl,
            scores={name: clustered_mean(mean(values), labels) for name, values in pool.items()},
            win_rates={
                name: clustered_mean(mean(_wins(values, opponents[name][:, None])), labels, bounds=(0.0, 1.0))
                for name, values in pool.items()
            },
        )

    sizes = [1 << power for power in range(samples.bit_length()) if 1 << power <= samples]
    beside_policies = []
    for name, source in (policies or {}).items():
        drawn = [replies[0] for replies in source.sample(ids, 1, settings, seed + 1)]
        mine = scores_of(encoded, [renderer.decode(sample.ids) for sample in drawn], scorers, gold)
        picked = {judge: best_of_values(pool[picker], values, beside) for judge, values in pool.items()}
        losses = {
            judge: best_of_values(pool[picker], _wins(values, np.asarray(mine[judge])[:, None]), beside)
            for judge, values in pool.items()
        }
        beside_policies.append(
            BesidePolicy(
                name=name,
                n=beside,
                scores={judge: clustered_mean(values, labels) for judge, values in mine.items()},
                differences={
                    judge: clustered_mean(np.asarray(values) - picked[judge], labels) for judge, values in mine.items()
                },
                win_rates={
                    judge: clustered_mean(1.0 - lost, labels, bounds=(0.0, 1.0)) for judge, lost in losses.items()
                },
                kl=kl_of(reference, ids, drawn, settings, labels),
            )
        )
    return BestOfEvaluation(
        picker=picker,
        prompts=len(encoded),
        samples=samples,
        best=tuple(point(n, 1, best_of_kl_bound(n)) for n in sizes),
        top=tuple(point(samples, k, top_k_kl(k, samples)) for k in reversed(sizes)),
        policies=tuple(beside_policies),
    )


def _wins(values: Floats, opponents: Floats) -> Floats:
    """1 where a value is above its opponent's, 0.5 where equal, 0 below."""
    return np.asarray(0.5 + 0.5 * np.sign(values - opponents), dtype=np.float64)


def _repeated(prompts: Sequence[Prompt], times: int) -> list[Prompt]:
    return [prompt for prompt in prompts for _ in range(times)]
