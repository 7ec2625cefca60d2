"""Whether a distilled model answers without the example prompt as its teacher does with it. Knows no training.

Three ways to answer the same prompts are set side by side: the teacher plain, the teacher behind the example prompt,
the student plain. The prompted teacher reads each one's replies: the mean of log p(reply) under who wrote it, less that
under the prompted teacher, estimates its KL to it (k1, nats a reply).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from prefloop.evals.replies import KnownPreference
from prefloop.models.language import LanguageModel, window_tokens
from prefloop.models.responses import encode_prompts, kl_to_reference
from prefloop.models.sampling import TorchSampler
from prefloop.schema import Interval, Message, Noun, SamplingSettings
from prefloop.stats import clustered_mean, clustered_share

__all__ = ["Behaviour", "DistillEvaluation", "evaluate_distillation"]


class Behaviour(Noun):
    """How one of the three answers."""

    kl: Interval = Field(description="to the prompted teacher, nats a reply (k1)")
    gold: Interval | None = Field(description="mean of the known preference, where there is one")
    tokens: Interval = Field(description="tokens of a reply, its end included")
    stopped: Interval = Field(description="share of replies that ended by themselves")


class DistillEvaluation(Noun):
    """The three beside each other, on the same prompts."""

    prompts: int
    teacher: Behaviour
    prompted: Behaviour
    student: Behaviour
    gold_differences: dict[str, Interval] = Field(
        description="prompted less teacher, student less prompted, prompt by prompt; empty without a known preference"
    )


def evaluate_distillation(
    teacher: LanguageModel,
    student: LanguageModel,
    prompt: Sequence[Message],
    contexts: Sequence[Sequence[Message]],
    *,
    gold: KnownPreference | None = None,
    settings: SamplingSettings | None = None,
    seed: int = 0,
) -> DistillEvaluation:
    """One reply of each to every context that fits behind the example prompt. Contexts are taken to be independent."""
    settings = settings or SamplingSettings(max_response_tokens=80)
    renderer = teacher.renderer
    room = min(window_tokens(teacher.model), window_tokens(student.model)) - settings.max_response_tokens
    room -= len(renderer.conversation(prompt).ids)
    encoded, _ = encode_prompts(renderer, contexts, room)
    plain = [item.ids for item in encoded]
    prompted = [renderer.context_ids([*prompt, *item.messages]) for item in encoded]
    behaviours: dict[str, Behaviour] = {}
    golds: dict[str, list[float]] = {}
    for name, model, ids in (
        ("teacher", teacher, plain),
        ("prompted", teacher, prompted),
        ("student", student, plain),
    ):
        drawn = [replies[0] for replies in TorchSampler(model.model, renderer, name).sample(ids, 1, settings, seed)]
        if gold is not None:
            pairs = zip(encoded, drawn, strict=True)
            golds[name] = [gold(item.messages, renderer.decode(sample.ids)) for item, sample in pairs]
        behaviours[name] = Behaviour(
            kl=clustered_mean(kl_to_reference(teacher.model, prompted, drawn)),
            gold=clustered_mean(golds[name]) if name in golds else None,
            tokens=clustered_mean([float(len(sample.ids)) for sample in drawn]),
            stopped=clustered_share([sample.finish_reason == "stop" for sample in drawn]),
        )
    differences = {
        f"{one} less {other}": clustered_mean([x - y for x, y in zip(golds[one], golds[other], strict=True)])
        for one, other in (("prompted", "teacher"), ("student", "prompted"))
        if golds
    }
    return DistillEvaluation(prompts=len(encoded), gold_differences=differences, **behaviours)
