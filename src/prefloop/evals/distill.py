"""Whether a distilled model answers without the example prompt as its teacher does with it. Knows no training.

Three ways to answer the same prompts are set side by side: the teacher plain, the teacher behind the example prompt,
the student plain. The prompted teacher reads each one's replies: the mean of log p(reply) under who wrote it, less that
under the prompted teacher, estimates its KL to it (k1, nats a reply).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from prefloop.errors import DataError
from prefloop.evals.replies import KnownPreference
from prefloop.models.language import LanguageModel, window_tokens
from prefloop.models.responses import encode_prompts, kl_to_reference
from prefloop.models.sampling import TorchSampler
from prefloop.render import Renderer, without_oldest
from prefloop.schema import Interval, Message, Noun, SamplingSettings
from prefloop.stats import clustered_mean, clustered_share

__all__ = ["MAX_RESPONSE_TOKENS", "Behaviour", "DistillEvaluation", "behind_prompt", "evaluate_distillation"]

MAX_RESPONSE_TOKENS = 80
"""Of a reply that is looked at."""


class Behaviour(Noun):
    """How one of the three answers."""

    kl: Interval = Field(description="to the prompted teacher, nats a reply (k1)")
    gold: Interval | None = Field(description="mean of the known preference, where there is one")
    tokens: Interval = Field(description="tokens of a reply, its end included")
    stopped: Interval = Field(description="share of replies that ended by themselves")


class DistillEvaluation(Noun):
    """The three beside each other, on the same prompts."""

    prompts: int
    left_out: int = Field(0, description="contexts whose last turn does not fit behind the example prompt")
    teacher: Behaviour
    prompted: Behaviour
    student: Behaviour
    gold_differences: dict[str, Interval] = Field(
        description="prompted less teacher, student less prompted, prompt by prompt; empty without a known preference"
    )


def behind_prompt(
    renderer: Renderer,
    prompt: Sequence[Message],
    contexts: Sequence[Sequence[Message]],
    window_tokens: int,
    max_response_tokens: int = MAX_RESPONSE_TOKENS,
) -> list[tuple[Message, ...]]:
    """The contexts that fit behind the example prompt and before a reply, less the oldest turns of longer ones.

    Errors:
        DataError: prompt and reply leave no room for a context, there is none, or none fits.
    """
    prompt_tokens = len(renderer.conversation(prompt).ids)
    room = window_tokens - max_response_tokens - prompt_tokens
    if room < 1:
        raise DataError(
            f"The example prompt has {prompt_tokens} tokens and a reply {max_response_tokens}, which leaves no room "
            f"for a question in the window of {window_tokens}; shorten the prompt or take models with a longer window."
        )
    kept = encode_prompts(renderer, contexts, room).prompts
    return [tuple(without_oldest(item.messages, renderer.fit(item.messages, room).dropped_turns)) for item in kept]


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
    """One reply of each to every context that fits behind the example prompt. Contexts are taken to be independent.

    All three read the same turns: those that `behind_prompt` keeps.

    Errors:
        DataError: as `behind_prompt`.
    """
    settings = settings or SamplingSettings(max_response_tokens=MAX_RESPONSE_TOKENS)
    renderer = teacher.renderer
    window = min(window_tokens(teacher.model), window_tokens(student.model))
    asked = behind_prompt(renderer, prompt, contexts, window, settings.max_response_tokens)
    plain = [renderer.context_ids(context) for context in asked]
    prompted = [renderer.context_ids([*prompt, *context]) for context in asked]
    behaviours: dict[str, Behaviour] = {}
    golds: dict[str, list[float]] = {}
    for name, model, ids in (
        ("teacher", teacher, plain),
        ("prompted", teacher, prompted),
        ("student", student, plain),
    ):
        drawn = [replies[0] for replies in TorchSampler(model.model, renderer, name).sample(ids, 1, settings, seed)]
        if gold is not None:
            pairs = zip(asked, drawn, strict=True)
            golds[name] = [gold(context, renderer.decode(sample.ids)) for context, sample in pairs]
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
    left_out = len(contexts) - len(asked)
    return DistillEvaluation(prompts=len(asked), left_out=left_out, gold_differences=differences, **behaviours)
