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
from itertools import accumulate, chain, islice, pairwise
from typing import Any, NamedTuple, Self

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
from prefloop.schema import Sample, Sampler, SamplingSettings
from prefloop.train.gauges import HELD_OUT, TRAIN, scorer_role
from prefloop.train.processes import Processes


@dataclass(frozen=True)
class Models:
    """Who samples and who judges. `reference` is the policy as it was before training.

    `sampler` draws the policy's replies elsewhere; without one they are drawn here.
    """

    policy: Any
    reference: Any
    preference_model: PreferenceModel
    held_out: PreferenceModel
    renderer: Renderer
    sampler: Sampler | None = None


@dataclass(frozen=True)
class Rollout:
    """A batch of episodes. `logp_rollout` is the policy's own, whoever drew; `logp_sampler` that of one elsewhere."""

    prompts: list[Prompt]
    samples: list[Sample]
    is_response: Bool[Tensor, "batch response"]
    logp_rollout: Float[Tensor, "batch response"]
    logp_reference: Float[Tensor, "batch response"]
    values: Float[Tensor, "batch response"]
    scores: Float[Tensor, " batch"]
    held_out_scores: Float[Tensor, " batch"]
    logp_sampler: Float[Tensor, "batch response"] | None = None

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

    def shares(self, items: int) -> list[slice]:
        """As many parts of a list as there are workers."""
        share = -(-items // self.count)
        return [slice(start, start + share) for start in range(0, items, share)]

    def run(self, *jobs: Callable[[], Any]) -> list[Any]:
        """The jobs' results in order; the first error is raised after all have ended."""
        if self._pool is None:
            return [job() for job in jobs]
        futures = [self._pool.submit(job) for job in jobs]
        for future in futures:
            future.exception()  # waits
        return [future.result() for future in futures]


def sample_replies(
    models: Models,
    prompts: Sequence[Prompt],
    n: int,
    max_response_tokens: int,
    seed: int,
    workers: Workers,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Sample]:
    """`n` replies to each prompt at temperature 1 without top-p or top-k, samples of one prompt side by side.

    Their log-probabilities are those of whoever drew them: see `with_own_logps`. `autocast` makes the context in which
    they are drawn here.
    """
    settings = SamplingSettings(max_response_tokens=max_response_tokens)
    if models.sampler is not None:
        drawn = models.sampler.sample([prompt.ids for prompt in prompts], n, settings, seed)
        return list(chain.from_iterable(drawn))

    def job(worker: int) -> list[list[Sample]]:
        sampler = TorchSampler(models.policy, models.renderer, "policy")
        with autocast():
            return sampler.sample(
                [prompt.ids for prompt in prompts[worker :: workers.count]], n, settings, derived_seed(seed, worker)
            )

    count = min(workers.count, len(prompts))
    parts = workers.run(*[lambda worker=worker: job(worker) for worker in range(count)])
    return [sample for place in range(len(prompts)) for sample in parts[place % workers.count][place // workers.count]]


def with_own_logps(
    models: Models,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    budget: Budget,
    workers: Workers,
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Sample]:
    """The samples with log-probabilities of the policy as it is here. `prompts`: one for each sample."""
    if models.sampler is None:
        return list(samples)  # drawn here: they have them
    ids, responses = [prompt.ids for prompt in prompts], [sample.ids for sample in samples]

    def logps(own: slice) -> Tensor:
        with autocast():
            return all_logps(
                models.policy,
                ids[own],
                responses[own],
                row_tokens=budget.row_tokens,
                tokens_per_forward=budget.tokens_per_forward,
            )

    found = torch.cat(workers.run(*[partial(logps, own) for own in workers.shares(len(ids))]))
    parts = torch.split(found, [len(response) for response in responses])
    return [sample._replace(logps=part.tolist()) for sample, part in zip(samples, parts, strict=True)]


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
    processes: Processes | None = None,
) -> Rollout:
    """Samples `n` replies to each prompt and scores them by both PMs, the reference and the value model.

    Args:
        on_sampled: called between sampling and scoring (a stopwatch).
        autocast: makes the context of each forward.
        processes: each does its share of the prompts, and all get the whole.

    Errors:
        ModelError: a score, a value or a log-probability of the reference is not a finite number.
    """
    processes = processes or Processes()
    everyones = prompts
    prompts = processes.share(prompts)
    own_seed = derived_seed(seed, processes.rank) if processes.count > 1 else seed
    samples = sample_replies(models, prompts, n, max_response_tokens, own_seed, workers, autocast)
    on_sampled()
    prompts = [prompt for prompt in prompts for _ in range(n)]
    drawn = samples
    samples = with_own_logps(models, prompts, drawn, budget, workers, autocast)
    ids, responses = [prompt.ids for prompt in prompts], [sample.ids for sample in samples]
    sizes = {"row_tokens": budget.row_tokens, "tokens_per_forward": budget.tokens_per_forward}

    # Each forward is cut into as many parts as there are workers, so that three models keep two workers busy.
    shares = workers.shares(len(ids))

    def scored(name: str, judge: PreferenceModel, own: slice) -> list[float]:
        with autocast():
            return score_replies(judge, models.renderer, prompts[own], samples[own], scorer_role(name))

    def reference(own: slice) -> Tensor:
        with autocast():
            return all_logps(models.reference, ids[own], responses[own], **sizes)

    def valued(own: slice) -> Tensor:
        with autocast():
            return _all_values(value, ids[own], responses[own], budget, processes)

    forwards: list[Callable[[slice], Any]] = [reference, valued, partial(scored, TRAIN, models.preference_model)]
    if models.held_out is not models.preference_model:
        forwards.append(partial(scored, HELD_OUT, models.held_out))
    done = iter(workers.run(*[partial(forward, own) for forward in forwards for own in shares]))
    parts = [list(islice(done, len(shares))) for _ in forwards]
    logp_reference, values = torch.cat(parts[0]), torch.cat(parts[1])
    scores, *others = (list(chain.from_iterable(part)) for part in parts[2:])
    held_out = others[0] if others else scores
    for name, numbers in (("reference's log-probabilities", logp_reference), ("value model's values", values)):
        if not numbers.isfinite().all():
            raise ModelError(f"Some of the {name} are not finite numbers; its weights are damaged or overflow.")
    # What belongs to one prompt travels together, so that all processes hold the prompts' own order.
    reads = list(accumulate(map(len, responses), initial=0))
    episodes = [
        _Episode(sample, one.logps, logp_reference[begin:end], values[begin:end], score, other)
        for sample, one, (begin, end), score, other in zip(
            samples, drawn, pairwise(reads), scores, held_out, strict=True
        )
    ]
    groups = processes.gathered([episodes[start : start + n] for start in range(0, len(episodes), n)])
    everyones = [prompt for prompt in everyones for _ in range(n)]
    return _rollout(everyones, list(chain.from_iterable(groups)), is_drawn_here=models.sampler is None)


class _Episode(NamedTuple):
    sample: Sample
    logp_sampler: list[float]
    logp_reference: Float[Tensor, " response"]
    values: Float[Tensor, " response"]
    score: float
    held_out_score: float


def _rollout(prompts: list[Prompt], episodes: list[_Episode], is_drawn_here: bool) -> Rollout:
    is_response = response_mask([episode.sample.ids for episode in episodes])
    logps = [logp for episode in episodes for logp in episode.sample.logps]
    logps_sampler = [logp for episode in episodes for logp in episode.logp_sampler]
    return Rollout(
        prompts,
        [episode.sample for episode in episodes],
        is_response,
        padded(torch.tensor(logps), is_response),
        padded(torch.cat([episode.logp_reference for episode in episodes]), is_response),
        padded(torch.cat([episode.values for episode in episodes]), is_response),
        torch.tensor([episode.score for episode in episodes]),
        torch.tensor([episode.held_out_score for episode in episodes]),
        None if is_drawn_here else padded(torch.tensor(logps_sampler), is_response),
    )


def derived_seed(*parts: int | str) -> int:
    """A seed for one use, from the run's seed and the names of the use: nothing depends on what was drawn before."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:7], "big")


@torch.no_grad()
def _all_values(
    value: ValueModel, prompts: list[list[int]], responses: list[list[int]], budget: Budget, processes: Processes
) -> Float[Tensor, " token"]:
    device = value.head.weight.device
    found = []
    parts = list(token_parts(prompts, responses, budget.tokens_per_forward))
    for part, counts in processes.even(parts, parts[0]):  # the value model may be split
        packed = pack_responses([prompts[i] for i in part], [responses[i] for i in part], budget.row_tokens)
        values = value(packed.to(device)).cpu()
        if counts:
            found.append(values)
    return torch.cat(found)
