"""What a policy run will take on this machine: memory and time of real batches, and what to change if it does not fit.

Trains two batches in a folder that is thrown away, with the run's own settings; writes nothing else. The times are of
an idle machine only if it is idle now.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from prefloop.models.devices import device_named
from prefloop.runs import RunFolder
from prefloop.schema import Message
from prefloop.train.policy import train_policy
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.preference_estimate import peak_memory

__all__ = ["PolicyEstimate", "estimate_policy", "memory_bytes", "ways_to_fit"]

_TIMED_BATCHES = 2
_ROOM = 0.9  # of the memory: the rest is other programs'


class PolicyEstimate(NamedTuple):
    """Of a whole run. Times hold for replies as long as the starting policy's; evaluations along the way are not in."""

    batches: int
    optimiser_steps: int
    seconds_per_batch: float
    episodes_per_second: float
    seconds: float
    peak_memory_bytes: int
    memory_bytes: int
    fits: bool
    advice: tuple[str, ...]


def estimate_policy(
    run: PolicyRun, prompts: Sequence[Sequence[Message]], evaluation_prompts: Sequence[Sequence[Message]]
) -> PolicyEstimate:
    """Trains two batches of the run's own size, in a folder that is thrown away, and looks at the second.

    Errors:
        As `train_policy`.
    """
    batches = -(-run.episodes // run.episodes_per_batch)
    short = run.model_copy(
        update={
            "episodes": _TIMED_BATCHES * run.episodes_per_batch,
            "snapshots": 1,
            "watching_preference_models": {},
            "value_warmup_batches": 0,
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder.create(Path(scratch), "policy", short)
        train_policy(short, prompts, folder, evaluation_prompts[:8], progress=_silent)
        rates = [row["time/episodes_per_second"] for row in folder.metrics() if "time/episodes_per_second" in row]
    device = device_named(run.device)
    peak, available = peak_memory(device), memory_bytes(device)
    per_batch = run.episodes_per_batch / rates[-1]
    return PolicyEstimate(
        batches=batches,
        optimiser_steps=batches * run.epochs * run.minibatches,
        seconds_per_batch=per_batch,
        episodes_per_second=rates[-1],
        seconds=batches * per_batch,
        peak_memory_bytes=peak,
        memory_bytes=available,
        fits=peak <= _ROOM * available,
        advice=ways_to_fit(run, peak, available),
    )


def ways_to_fit(run: PolicyRun, peak: int, available: int) -> tuple[str, ...]:
    """What to change, the cheapest first; nothing where the peak leaves a tenth of the memory free."""
    if peak <= _ROOM * available:
        return ()
    ways = []
    if run.tokens_per_forward > 512:
        ways.append(f"lower tokens_per_forward (now {run.tokens_per_forward}) to {run.tokens_per_forward // 2}")
    if run.workers != 1:
        ways.append("set workers = 1, so that policy and value model learn one after the other")
    if run.episodes_per_batch > 64:
        ways.append(f"lower episodes_per_batch (now {run.episodes_per_batch}) to {run.episodes_per_batch // 2}")
    if run.held_out_preference_model != run.preference_model:
        ways.append("take a smaller held-out preference model")
    ways.append("take a smaller policy or a machine with more memory")
    return tuple(ways)


def memory_bytes(device: torch.device) -> int:
    """All memory of the device, or of this machine."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return int(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def _silent(steps: range, **_: object) -> Any:
    """In the place of a progress bar."""

    class Bar(list[int]):
        def set_postfix(self, **_: object) -> None: ...

    return Bar(steps)
