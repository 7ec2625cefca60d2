"""What a policy is worth at a snapshot, on fixed prompts: both PMs, the known preference if any, KL and length.

The prompts, their order and the seed of the replies are the same for every snapshot of a run, so that snapshots are
compared on like terms. Knows no optimiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import Field

from prefloop.models.responses import Prompt, kl_to_reference, score_replies
from prefloop.schema import Interval, Message, Noun
from prefloop.stats import clustered_mean, clustered_share
from prefloop.train.rollout import Budget, Models, Workers, sample_replies

Gold = Callable[[Sequence[Message], str], float]
"""A known preference: the true worth of a reply in its context."""


class PolicySnapshot(Noun):
    """A policy along the run and its worth on the evaluation prompts, one reply each."""

    episodes: int = Field(description="episodes trained on; 0 is the policy that the run started from")
    path: str = Field(description="Hugging Face folder")
    score_train: Interval = Field(description="raw score of the PM trained against")
    score_held_out: Interval = Field(description="raw score of the PM that training never sees")
    score_gold: Interval | None = None
    kl: Interval = Field(description="to the reference, nats per reply (k1)")
    reply_tokens: Interval
    stopped: Interval = Field(description="share of replies that ended with the end token")

    def metrics(self) -> dict[str, float]:
        """As `eval/...` with `_low` and `_high` beside each."""
        row: dict[str, float] = {}
        for name in ("score_train", "score_held_out", "score_gold", "kl", "reply_tokens", "stopped"):
            interval: Interval | None = getattr(self, name)
            if interval is not None:
                row |= {
                    f"eval/{name}": interval.value,
                    f"eval/{name}_low": interval.low,
                    f"eval/{name}_high": interval.high,
                }
        return row


class Evaluated(Noun):
    """A snapshot and the PM's scores behind it."""

    snapshot: PolicySnapshot
    scores_train: tuple[float, ...]


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
) -> Evaluated:
    """Samples one reply to each prompt and measures them. Prompts are taken to be independent."""
    samples = sample_replies(models, prompts, 1, max_response_tokens, seed, workers)
    kl, train, held_out = workers.run(
        lambda: kl_to_reference(
            models.reference,
            [prompt.ids for prompt in prompts],
            samples,
            row_tokens=budget.row_tokens,
            tokens_per_forward=budget.tokens_per_forward,
        ),
        lambda: score_replies(models.preference_model, models.renderer, prompts, samples),
        lambda: score_replies(models.held_out, models.renderer, prompts, samples),
    )
    golden = None
    if gold is not None:
        pairs = zip(prompts, samples, strict=True)
        golden = clustered_mean([gold(prompt.messages, models.renderer.decode(sample.ids)) for prompt, sample in pairs])
    snapshot = PolicySnapshot(
        episodes=episodes,
        path=path,
        score_train=clustered_mean(train),
        score_held_out=clustered_mean(held_out),
        score_gold=golden,
        kl=clustered_mean(kl),
        reply_tokens=clustered_mean([float(len(sample.ids)) for sample in samples]),
        stopped=clustered_share([sample.finish_reason == "stop" for sample in samples]),
    )
    return Evaluated(snapshot=snapshot, scores_train=tuple(train))
