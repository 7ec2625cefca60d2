"""One run of prefloop's PPO trainer for `bench_ppo.py`; the last line is one JSON object.

The trainer is `train_policy`, as the command runs it. Timed are whole batches, from the first prompt drawn to the row
of metrics: sampling, scoring, updates. Loading models and evaluating the starting policy come before that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from memory import peak_mib

from prefloop.runs import RunFolder
from prefloop.schema import Message
from prefloop.train.policy import PolicyRun, train_policy

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--batches", type=int, required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
parser.add_argument("--dtype", default="float32")
parser.add_argument("--learning-rate", type=float, default=3e-6)
parser.add_argument("--kl-coefficient", type=float, default=0.05)
parser.add_argument("--set", action="append", default=[], help="further settings of the run, name=value")
parser.add_argument("--save", type=Path, help="where the trained policy goes")
options = parser.parse_args()
torch.set_num_threads(options.threads)
imports_mib = peak_mib(options.device)

rows = json.loads((options.folder / "prompts.json").read_text(encoding="utf-8"))
prompts = [[Message(**message) for message in row["messages"]] for row in rows]
times: list[float] = []


def timed(batches: range, **_: Any) -> Any:
    """In the place of the progress bar: notes when each batch begins, and when the last one has ended."""

    class Bar:
        def __iter__(self) -> Iterator[int]:
            for index in batches:
                times.append(time.perf_counter())
                yield index

        def set_postfix(self, **_: object) -> None:
            if options.device == "cuda":
                torch.cuda.synchronize()
            if len(times) == len(batches):
                times.append(time.perf_counter())  # the last batch is logged; a snapshot follows

    return Bar()


settings = PolicyRun.model_validate(
    {
        "policy": options.folder / "policy",
        "preference_model": options.folder / "pm",
        "held_out_preference_model": options.folder / "pm",
        "episodes": 64 * options.batches,
        "episodes_per_batch": 64,
        "epochs": 2,
        "minibatches": 4,
        "max_response_tokens": 64,
        "learning_rate": options.learning_rate,
        "value_learning_rate": options.learning_rate,
        "kl_coefficient": options.kl_coefficient,
        "snapshots": 1,
        "checkpoint_every_batches": options.batches + 1,
        "dtype": options.dtype,
        "device": options.device,
        "seed": 0,
    }
    | ({} if options.device == "cpu" else {"row_tokens": 2048, "tokens_per_forward": 16_384})
    | dict(item.split("=", 1) for item in options.set)
)
with tempfile.TemporaryDirectory() as scratch:
    folder = RunFolder.create(Path(scratch), "policy", settings)
    result = train_policy(settings, prompts, folder, prompts[:8], progress=timed)
    metrics = [row for row in folder.metrics() if "score/train" in row]
    if options.save:
        Path(result.snapshots[-1].path).rename(options.save)
seconds = times[-1] - times[0]
print(
    json.dumps(
        {
            "episodes": 64 * options.batches,
            "seconds": seconds,
            "episodes_per_s": 64 * options.batches / seconds,
            "seconds_per_batch": seconds / options.batches,
            "batch_seconds": [round(end - begin, 2) for begin, end in pairwise(times)],
            "sampling_seconds": sum(row["time/sampling_seconds"] for row in metrics) / options.batches,
            "scoring_seconds": sum(row["time/scoring_seconds"] for row in metrics) / options.batches,
            "update_seconds": sum(row["time/update_seconds"] for row in metrics) / options.batches,
            "reply_tokens": sum(row["reply/tokens"] for row in metrics) / len(metrics),
            "peak_mib": peak_mib(options.device),
            "imports_mib": imports_mib,
        }
    )
)
