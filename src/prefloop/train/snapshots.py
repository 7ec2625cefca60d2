"""What a policy is worth at a snapshot, on fixed prompts: both PMs, the known preference if any, KL and length.

The prompts, their order and the seed of the replies are the same for every snapshot of a run, so that snapshots are
compared on like terms. Knows no optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

from pydantic import Field

from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import Prompt, kl_to_reference, score_replies
from prefloop.schema import Interval, Message, Noun
from prefloop.stats import clustered_mean, clustered_share
from prefloop.train.gauges import GOLD, HELD_OUT, TRAIN, EvaluatedReply, scorer_role
from prefloop.train.rollout import Budget, Models, Workers, sample_replies, with_own_logps

Gold = Callable[[Sequence[Message], str], float]
"""A known preference: the true worth of a reply in its context."""


class PolicySnapshot(Noun):
    """A policy along the run and its worth on the evaluation prompts, one reply each."""

    episodes: int = Field(description="episodes trained on; 0 is the policy that the run started from")
    path: str = Field(description="Hugging Face folder")
    score_train: Interval = Field(description="raw score of the PM trained against")
    score_held_out: Interval = Field(description="raw score of the PM that training never sees")
    score_gold: Interval | None = None
    scores_watching: Mapping[str, Interval] = Field(
        default={}, description="raw scores of further PMs that only watch, by name"
    )
    kl: Interval = Field(description="to the reference, nats per reply (k1)")
    reply_tokens: Interval
    stopped: Interval = Field(description="share of replies that ended with the end token")

    def metrics(self) -> dict[str, float]:
        """As `eval/...` with `_low` and `_high` beside each."""
        row: dict[str, float] = {}
        names = ("score_train", "score_held_out", "score_gold", "kl", "reply_tokens", "stopped")
        intervals: dict[str, Interval | None] = {name: getattr(self, name) for name in names}
        intervals |= {f"score_watching_{name}": interval for name, interval in self.scores_watching.items()}
        for name, interval in intervals.items():
            if interval is not None:
                row |= {
                    f"eval/{name}": interval.value,
                    f"eval/{name}_low": interval.low,
                    f"eval/{name}_high": interval.high,
                }
        return row


class Evaluated(Noun):
    """A snapshot and the replies behind it, in the order of the prompts."""

    snapshot: PolicySnapshot
    replies: tuple[EvaluatedReply, ...]

    @property
    def scores_train(self) -> tuple[float, ...]:
        return tuple(reply.scores[TRAIN] for reply in self.replies)


def evaluate_snapshot(
    models: Models,
    prompts: Sequence[Prompt],
    episodes: int,
    path: str,
    max_response_tokens: int,
    seed: int,
    budget: Budget,
    workers: Workers,
    gold: Gold | None = None,
    watching: Mapping[str, PreferenceModel] = MappingProxyType({}),
) -> Evaluated:
    """Samples one reply to each prompt and measures them. Prompts are taken to be independent.

    Args:
        watching: further PMs by name.
    """
    samples = sample_replies(models, prompts, 1, max_response_tokens, seed, workers)
    samples = with_own_logps(models, prompts, samples, budget, workers)
    judges = {TRAIN: models.preference_model, HELD_OUT: models.held_out, **watching}
    kl, *scored = workers.run(
        lambda: kl_to_reference(
            models.reference,
            [prompt.ids for prompt in prompts],
            samples,
            row_tokens=budget.row_tokens,
            tokens_per_forward=budget.tokens_per_forward,
        ),
        *[
            partial(score_replies, judge, models.renderer, prompts, samples, scorer_role(name))
            for name, judge in judges.items()
        ],
    )
    scores: dict[str, list[float]] = dict(zip(judges, scored, strict=True))
    texts = [models.renderer.decode(sample.ids) for sample in samples]
    if gold is not None:
        scores[GOLD] = [gold(prompt.messages, text) for prompt, text in zip(prompts, texts, strict=True)]
    means = {name: clustered_mean(values) for name, values in scores.items()}
    replies = tuple(
        EvaluatedReply(
            prompt=place,
            reply=texts[place],
            tokens=len(sample.ids),
            stopped=sample.finish_reason == "stop",
            kl=kl[place],
            scores={name: values[place] for name, values in scores.items()},
        )
        for place, sample in enumerate(samples)
    )
    snapshot = PolicySnapshot(
        episodes=episodes,
        path=path,
        score_train=means[TRAIN],
        score_held_out=means[HELD_OUT],
        score_gold=means.get(GOLD),
        scores_watching={name: means[name] for name in watching},
        kl=clustered_mean(kl),
        reply_tokens=clustered_mean([float(reply.tokens) for reply in replies]),
        stopped=clustered_share([reply.stopped for reply in replies]),
    )
    return Evaluated(snapshot=snapshot, replies=replies)
