"""What a run will take on this machine: steps and tokens counted on a sample, memory and time of real steps.

Trains a model that is thrown away; knows no run folder. The times are of an idle machine only if it is idle now.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from prefloop.schema import Interval, PreferencePair
from prefloop.stats import clustered_mean
from prefloop.train.lessons import usable_pairs
from prefloop.train.memory import peak_memory
from prefloop.train.preference import (
    autocast_dtype,
    backward_of,
    check_shard,
    lessons_of,
    optimizer_of,
    start_model,
)
from prefloop.train.preference_settings import PreferenceRun
from prefloop.train.preference_step import encode, require_one_fits
from prefloop.train.processes import Processes

__all__ = ["PreferenceEstimate", "estimate_preference", "ways_to_fit"]

_SAMPLE_PAIRS = 256
_TIMED_STEPS = 3


class PreferenceEstimate(NamedTuple):
    """Of a whole run; intervals are 95% over the sample and over the timed steps. Evaluation is not in it."""

    pairs: int
    steps: int
    tokens: Interval  # of both sides before sharing, over all epochs
    tokens_shared: float  # 1 - computed / before sharing, in the timed steps
    dropped_long_share: float
    parameters: int
    peak_memory_bytes: int
    seconds: Interval


def estimate_preference(
    run: PreferenceRun, pairs: Sequence[PreferencePair], held_out: Sequence[PreferencePair] = ()
) -> PreferenceEstimate:
    """Encodes an even sample of the pairs and does a few steps of the run's own size, after one that warms up.

    Errors:
        ConfigError: weights or a sharding that the run would refuse.
        DataError: no usable pairs, none of a weight above 0, none in the sample that fits the window, or none of the
            held-out ones.
    """
    usable = lessons_of(run, usable_pairs(pairs).pairs).pairs  # without those of weight 0
    model = start_model(run)
    if run.shard:
        check_shard(run, model, Processes.of_environment())
    require_one_fits(model, held_out, "held-out pairs")
    count = min(max(_SAMPLE_PAIRS, (1 + _TIMED_STEPS) * run.pairs_per_step), len(usable))
    sample = [usable[place * len(usable) // count] for place in range(count)]
    lessons = encode(model, sample, {"pairs": 0, "dropped_long_pairs": 0, "dropped_turns": 0})
    if not lessons:
        raise model.none_fits(f"{count} pairs")
    steps = run.epochs * -(-len(usable) // run.pairs_per_step)
    sizes = [len(one.ids.chosen) + len(one.ids.rejected) for one in lessons]
    fitting = run.epochs * len(usable) * len(lessons) / count
    # The longest pairs stand first: the step that warms up is the one that takes the most memory.
    ordered = [lessons[place] for place in sorted(range(len(lessons)), key=lambda place: -sizes[place])]
    size = min(run.pairs_per_step, len(lessons))
    timed = [
        [lessons[(start + place) % len(lessons)] for place in range(size)] for start in _starts(size, len(lessons))
    ]
    optimizer, output = optimizer_of(model, run), model.output_embedding(run.start) if run.language_weight else None
    dtype = autocast_dtype(run, model)
    seconds: list[float] = []
    computed = unshared = 0
    for number, batch in enumerate([ordered[:size], *timed]):
        began = time.perf_counter()
        losses = backward_of(run, model, batch, output, dtype)
        torch.nn.utils.clip_grad_norm_(model.model.parameters(), run.max_gradient_norm)
        optimizer.step()
        optimizer.zero_grad()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        if number:
            seconds.append((time.perf_counter() - began) / losses.tokens_unshared)
            computed, unshared = computed + losses.tokens, unshared + losses.tokens_unshared
    tokens = _times(clustered_mean([float(value) for value in sizes], bounds=(0.0, float("inf"))), fitting)
    return PreferenceEstimate(
        pairs=len(usable),
        steps=steps,
        tokens=tokens,
        tokens_shared=1 - computed / unshared,
        dropped_long_share=1 - len(lessons) / count,
        parameters=sum(parameter.numel() for parameter in model.model.parameters()),
        peak_memory_bytes=peak_memory(model.device),
        seconds=_times(clustered_mean(seconds, bounds=(0.0, float("inf"))), tokens.value),
    )


def _starts(size: int, count: int) -> list[int]:
    return [step * size % count for step in range(_TIMED_STEPS)]


def _times(interval: Interval, factor: float) -> Interval:
    return interval.model_copy(update={n: getattr(interval, n) * factor for n in ("value", "low", "high")})


def ways_to_fit(run: PreferenceRun) -> tuple[str, ...]:
    """What to change where a run does not fit into memory, the cheapest first."""
    ways = []
    if run.tokens_per_forward > 512:
        ways.append(f"lower tokens_per_forward (now {run.tokens_per_forward}) to {run.tokens_per_forward // 2}")
    if run.max_context_tokens > 256:
        ways.append(f"lower max_context_tokens (now {run.max_context_tokens}) to {run.max_context_tokens // 2}")
    if not run.lora_rank:
        ways.append("train an adapter alone (lora_rank = 8)")
    return (*ways, "take a smaller model or a machine with more memory")
