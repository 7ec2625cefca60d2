"""One run of prefloop's preference model trainer for `bench_pm.py`; the last line is one JSON object.

The trainer is `train_preference`, as the command runs it. Timed are its steps, from the first to the end of the last:
packing, forward, backward, optimizer, metrics. Loading and tokenising come before that, as the peer's do.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "ppo"))
from memory import peak_mib

from prefloop.runs import RunFolder
from prefloop.schema import PreferencePair
from prefloop.train.preference import train_preference
from prefloop.train.preference_settings import PreferenceRun

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--data", required=True, help="name of a file of pairs there")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--learning-rate", type=float, required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
parser.add_argument("--save", type=Path, required=True)
options = parser.parse_args()
torch.set_num_threads(options.threads)
imports_mib = peak_mib(options.device)
rows = json.loads((options.folder / f"{options.data}.json").read_text(encoding="utf-8"))
pairs = [PreferencePair.model_validate(row["pair"]) for row in rows]
times: list[float] = []


def timed(steps: range, **_: Any) -> Any:
    """In the place of the progress bar: notes when the first step begins, and when each has ended."""

    class Bar:
        def __iter__(self) -> Iterator[int]:
            times.append(time.perf_counter())
            yield from steps

        def set_postfix(self, **_: object) -> None:
            if options.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    return Bar()


run = PreferenceRun(
    start=options.folder / f"start-{options.seed}",
    pairs_per_step=options.batch,
    learning_rate=options.learning_rate,
    warmup_steps=0,
    weight_decay=0.0,
    dtype="bfloat16",
    device=options.device,
    max_context_tokens=1024,
    held_out_share=0.0,
    checkpoint_every_steps=10**6,
    seed=options.seed,
)
with tempfile.TemporaryDirectory() as scratch:
    folder = RunFolder.create(Path(scratch), "preference", run)
    began = time.perf_counter()
    trained = train_preference(run, pairs, folder, progress=timed)
    whole = time.perf_counter() - began
    metrics = folder.metrics()
    trained.model.save(options.save)
seconds = times[-1] - times[0]
print(
    json.dumps(
        {
            "seconds": seconds,
            "pairs": trained.pairs,
            "pairs_per_s": trained.pairs / seconds,
            "step_seconds": [round(stop - start, 2) for start, stop in pairwise(times)],
            "whole_call_seconds": whole,
            "tokens": sum(row["preference/tokens"] for row in metrics),
            "peak_mib": peak_mib(options.device),
            "imports_mib": imports_mib,
        }
    )
)
