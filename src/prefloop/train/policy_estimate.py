"""What a policy run will take on this machine: memory and time of real batches, and what to change if it does not fit.

Trains two batches in a folder that is thrown away, with the run's own settings and models, and evaluates before and
after them as the run will; writes nothing else. The times are of an idle machine only if it is idle now.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from prefloop.models.devices import device_named
from prefloop.runs import RunFolder
from prefloop.schema import Message
from prefloop.train.memory import memory_bytes, peak_memory
from prefloop.train.policy import train_policy
from prefloop.train.policy_settings import PolicyRun

__all__ = ["PolicyEstimate", "estimate_policy", "ways_to_fit"]

_TIMED_BATCHES = 2
_ROOM = 0.9  # of the memory: the rest is other programs'


class PolicyEstimate(NamedTuple):
    """Of a whole run, its evaluations included (but for those that `snapshot_every_root_kl` adds as it goes).

    Times hold for replies as long as the starting policy's.
    """

    batches: int
    optimiser_steps: int
    seconds_per_batch: float
    episodes_per_second: float
    evaluations: int
    seconds_per_evaluation: float
    seconds: float
    peak_memory_bytes: int
    memory_bytes: int  # that this process may have now
    fits: bool
    advice: tuple[str, ...]


def estimate_policy(
    run: PolicyRun, prompts: Sequence[Sequence[Message]], evaluation_prompts: Sequence[Sequence[Message]]
) -> PolicyEstimate:
    """Trains two batches of the run's own size, in a folder that is thrown away, and looks at the last of each kind.

    Errors:
        As `train_policy`.
    """
    batches = -(-run.episodes // run.episodes_per_batch)
    short = run.model_copy(
        update={
            "episodes": _TIMED_BATCHES * run.episodes_per_batch,
            "snapshots": 1,
            "value_warmup_batches": 0,
        }
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder.create(Path(scratch), "policy", short)
        train_policy(short, prompts, folder, evaluation_prompts, progress=_silent)
        rows = {name: value for row in folder.metrics() for name, value in row.items()}  # the last of each name
    device = device_named(run.device)
    peak, available = peak_memory(device), memory_bytes(device)
    rate, per_evaluation = rows["time/episodes_per_second"], rows["time/evaluation_seconds"]
    per_batch, evaluations = run.episodes_per_batch / rate, min(run.snapshots, batches) + 1  # 1: the start
    fits = peak <= _ROOM * available
    return PolicyEstimate(
        batches=batches,
        optimiser_steps=batches * run.steps_per_batch,
        seconds_per_batch=per_batch,
        episodes_per_second=rate,
        evaluations=evaluations,
        seconds_per_evaluation=per_evaluation,
        seconds=batches * per_batch + evaluations * per_evaluation,
        peak_memory_bytes=peak,
        memory_bytes=available,
        fits=fits,
        advice=() if fits else ways_to_fit(run),
    )


def ways_to_fit(run: PolicyRun) -> tuple[str, ...]:
    """What to change where a run does not fit into memory, the cheapest first."""
    ways = []
    if run.tokens_per_forward > 512:
        ways.append(f"lower tokens_per_forward (now {run.tokens_per_forward}) to {run.tokens_per_forward // 2}")
    if run.workers != 1:
        ways.append("set workers = 1, so that policy and value model learn one after the other")
    if run.episodes_per_batch > 64:
        ways.append(f"lower episodes_per_batch (now {run.episodes_per_batch}) to {run.episodes_per_batch // 2}")
    if run.held_out_preference_model != run.preference_model:
        ways.append("take a smaller held-out preference model")
    if run.watching_preference_models:
        ways.append(f"let fewer than {len(run.watching_preference_models)} further preference models watch")
    return (*ways, "take a smaller policy or a machine with more memory")


def _silent(steps: range, **_: object) -> Any:
    """In the place of a progress bar."""

    class Bar(list[int]):
        def set_postfix(self, **_: object) -> None: ...

    return Bar(steps)
