"""Replies to prompts as evaluations see them: their scores by each scorer and their KL. Knows no store and no page."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from prefloop.errors import DataError
from prefloop.models.responses import Prompt, kl_to_reference, require_finite
from prefloop.schema import Interval, Message, Sample, SamplingSettings, Scorer
from prefloop.stats import clustered_mean

__all__ = ["GOLD", "KnownPreference", "are_known", "kl_of", "scores_of"]

GOLD = "gold"
"""The name under which a known preference stands among the scorers."""

KnownPreference = Callable[[Sequence[Message], str], float]
"""The true worth of a reply in its context."""


def scores_of(
    prompts: Sequence[Prompt], replies: Sequence[str], scorers: Mapping[str, Scorer], gold: KnownPreference | None
) -> dict[str, list[float]]:
    """Raw scores of one reply to each prompt, by scorer; `gold` stands among them under its name.

    Errors:
        ModelError: a score is not a finite number.
    """
    conversations = [
        (*prompt.messages, Message(role="assistant", text=reply))
        for prompt, reply in zip(prompts, replies, strict=True)
    ]
    scores = {name: list(scorer.score(conversations)) for name, scorer in scorers.items()}
    for name, values in scores.items():
        require_finite(values, f"The preference model {name!r}")
    if gold is not None:
        scores[GOLD] = [gold(conversation[:-1], conversation[-1].text) for conversation in conversations]
    return scores


def are_known(samples: Sequence[Sample]) -> bool:
    """Whether somebody knows how likely each sample is: where nobody does, a sampler says NaN."""
    return not any(math.isnan(logp) for sample in samples for logp in sample.logps)


def kl_of(
    reference: Any,
    prompt_ids: Sequence[Sequence[int]],
    samples: Sequence[Sample],
    settings: SamplingSettings,
    clusters: Sequence[Hashable] | None,
) -> Interval | None:
    """KL of the samples' policy to a reference LM, nats a reply (k1); None without one, or where a log-probability of
    the samples is not known.

    Errors:
        DataError: settings that are not temperature 1 without top-p and top-k, for which it is not defined.
    """
    if reference is None or not are_known(samples):
        return None
    if (settings.temperature, settings.top_p, settings.top_k) != (1.0, 1.0, 0):
        raise DataError(
            f"The KL is defined for temperature 1 without top-p and top-k, not for {settings.temperature:g}, "
            f"{settings.top_p:g} and {settings.top_k}; leave `reference` out or change the settings."
        )
    return clustered_mean(kl_to_reference(reference, prompt_ids, samples), clusters)
