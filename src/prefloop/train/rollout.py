"""Collecting rollouts: replies of the present policy with everything PPO needs to know of them. Knows no optimiser.

Legend of axes: `batch` one row an episode, samples of one prompt side by side; `response` the tokens of its reply,
right-padded, True in `is_response`. Log-probabilities are in nats at temperature 1, scores are raw PM outputs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prefloop.errors import ModelError
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import (
    Prompt,
    all_logps,
    pack_responses,
    padded,
    response_mask,
    score_replies,
    token_parts,
)
from prefloop.models.sampling import TorchSampler
from prefloop.models.value import ValueModel
from prefloop.render import Renderer
from prefloop.schema import Sample, SamplingSettings


@dataclass(frozen=True)
class Models:
    """Who samples and who judges. `reference` is the policy as it was before training."""

    policy: Any
    reference: Any
    preference_model: PreferenceModel
    held_out: PreferenceModel
    renderer: Renderer


@dataclass(frozen=True)
class Rollout:
    """A batch of episodes."""

    prompts: list[Prompt]
    samples: list[Sample]
    is_response: Bool[Tensor, "batch response"]
    logp_rollout: Float[Tensor, "batch response"]
    logp_reference: Float[Tensor, "batch response"]
    values: Float[Tensor, "batch response"]
    scores: Float[Tensor, " batch"]
    held_out_scores: Float[Tensor, " batch"]

    @property
    def is_stopped(self) -> Bool[Tensor, " batch"]:
        """True where the reply ended with the end token, False where it ran into the limit."""
        return torch.tensor([sample.finish_reason == "stop" for sample in self.samples])

    @property
    def reply_tokens(self) -> Float[Tensor, " batch"]:
        """Length of each reply, its end token included."""
        return self.is_response.sum(-1).float()


@dataclass(frozen=True)
class Budget:
    """Sizes of forwards; they change the rounding of a result, never its meaning."""

    row_tokens: int
    tokens_per_forward: int


class Workers:
    """Runs independent jobs side by side on threads. Each job's arithmetic is the same whatever runs beside it.

    Args:
        count: jobs at once; 1 runs them in turn.
        threads_per_job: of torch, inside each job.
    """

    def __init__(self, count: int, threads_per_job: int) -> None:
        self.count = count
        self._threads = threads_per_job
        self._pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        if self.count > 1:
            self._pool = ThreadPoolExecutor(self.count, "worker", torch.set_num_threads, (self._threads,))
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
        torch.set_num_threads(self._threads_before)

    def run(self, *jobs: Callable[[], Any]) -> list[Any]:
        """The jobs' results in order; the first error is raised after all have ended."""
        if self._pool is None:
            return [job() for job in jobs]
        futures = [self._pool.submit(job) for job in jobs]
        for future in futures:
            future.exception()  # waits
        return [future.result() for future in futures]


def sample_replies(
    models: Models, prompts: Sequence[Prompt], n: int, max_response_tokens: int, seed: int, workers: Workers
) -> list[Sample]:
    """`n` replies to each prompt at temperature 1 without top-p or top-k, samples of one prompt side by side."""
    settings = SamplingSettings(max_response_tokens=max_response_tokens)

    def job(worker: int) -> list[list[Sample]]:
        sampler = TorchSampler(models.policy, models.renderer, "policy")
        return sampler.sample(
            [prompt.ids for prompt in prompts[worker :: workers.count]], n, settings, derived_seed(seed, worker)
        )

    count = min(workers.count, len(prompts))
    parts = workers.run(*[lambda worker=worker: job(worker) for worker in range(count)])
    return [sample for place in range(len(prompts)) for sample in parts[place % workers.count][place // workers.count]]


def collect(
    models: Models,
    value: ValueModel,
    prompts: Sequence[Prompt],
    n: int,
    max_response_tokens: int,
    seed: int,
    budget: Budget,
    workers: Workers,
    on_sampled: Callable[[], None] = lambda: None,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> Rollout:
    """Samples `n` replies to each prompt and scores them by both PMs, the reference and the value model.

    Args:
        on_sampled: called between sampling and scoring (a stopwatch).
        autocast: makes the context of each forward that scores; sampling has none.

    Errors:
        ModelError: a score, a value or a log-probability of the reference is not a finite number.
    """
    samples = sample_replies(models, prompts, n, max_response_tokens, seed, workers)
    on_sampled()
    prompts = [prompt for prompt in prompts for _ in range(n)]
    ids, responses = [prompt.ids for prompt in prompts], [sample.ids for sample in samples]
    sizes = {"row_tokens": budget.row_tokens, "tokens_per_forward": budget.tokens_per_forward}

    def scored(judge: PreferenceModel) -> list[float]:
        with autocast():
            return score_replies(judge, models.renderer, prompts, samples)

    def reference() -> Tensor:
        with autocast():
            return all_logps(models.reference, ids, responses, **sizes)

    def valued() -> Tensor:
        with autocast():
            return _all_values(value, ids, responses, budget)

    jobs: list[Callable[[], Any]] = [reference, valued, partial(scored, models.preference_model)]
    if models.held_out is not models.preference_model:
        jobs.append(partial(scored, models.held_out))
    logp_reference, values, scores, *others = workers.run(*jobs)
    held_out = others[0] if others else scores
    for name, numbers in (("reference's log-probabilities", logp_reference), ("value model's values", values)):
        if not numbers.isfinite().all():
            raise ModelError(f"Some of the {name} are not finite numbers; its weights are damaged or overflow.")
    is_response = response_mask(responses)
    return Rollout(
        prompts,
        samples,
        is_response,
        padded(torch.tensor([logp for sample in samples for logp in sample.logps]), is_response),
        padded(logp_reference, is_response),
        padded(values, is_response),
        torch.tensor(scores),
        torch.tensor(held_out),
    )


def derived_seed(*parts: int | str) -> int:
    """A seed for one use, from the run's seed and the names of the use: nothing depends on what was drawn before."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


@torch.no_grad()
def _all_values(
    value: ValueModel, prompts: list[list[int]], responses: list[list[int]], budget: Budget
) -> Float[Tensor, " token"]:
    device = value.head.weight.device
    parts = []
    for part in token_parts(prompts, responses, budget.tokens_per_forward):
        packed = pack_responses([prompts[i] for i in part], [responses[i] for i in part], budget.row_tokens)
        parts.append(value(packed.to(device)).cpu())
    return torch.cat(parts)
