"""PPO with replies drawn in its own process, and drawn by a model server of its own through HTTP: time and agreement.

    python benchmarks/bench_elsewhere.py --seeds 0 1

Both sides share this machine, one thread each; one JSON line a run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch

from prefloop.engine import ModelServerProcess, write_manifest
from prefloop.loop.laboratory import Laboratory
from prefloop.runs import RunFolder
from prefloop.sandbox import Gold, world
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.train.policy import train_policy
from prefloop.train.policy_settings import PolicyRun

MEDIANS = (
    *("time/sampling_seconds", "time/scoring_seconds", "time/update_seconds", "time/sending_seconds"),
    *("sampler/mean_difference", "sampler/largest_difference", "policy/ratio_first_error", "reply/tokens"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--episodes", type=int, default=1536)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        (root / "weights").mkdir()
        manifest = write_manifest(root / "snapshots.json", [])
        with ModelServerProcess(manifest, threads=1, device="cpu", weights_folder=root / "weights") as server:
            elsewhere = {"sampler_url": server.base_url, "sampler_folder": root / "weights"}
            ways: dict[str, dict[str, Any]] = {
                "here": {},
                "64 prompts at once": elsewhere,
                "1 prompt at once": elsewhere | {"sampler_requests": 1},
                "adapters": elsewhere | {"lora_rank": 8, "learning_rate": 2e-3},
            }
            for seed in options.seeds:
                for name, more in ways.items():
                    facts = one_run(root, seed, options.episodes, more)
                    print(json.dumps({"seed": seed, "replies": name} | facts), flush=True)


def one_run(root: Path, seed: int, episodes: int, more: dict[str, Any]) -> dict[str, Any]:
    """Trains, and what is left: the end's scores with their intervals, and medians over the batches."""
    run = PolicyRun(
        policy=tiny_model(CHAT_MODEL),
        preference_model=tiny_model(PMP_MODEL),
        held_out_preference_model=tiny_model(PMP_MODEL),
        episodes=episodes,
        snapshots=1,
        workers=1,
        device="cpu",
        seed=seed,
        **more,
    )
    prompts, evaluation = Laboratory(root).prompts(0, 1000, 256)
    folder = RunFolder.create(root, "policy", run)
    end = train_policy(run, prompts, folder, evaluation, gold=Gold(world())).snapshots[-1]
    rows = [row for row in folder.metrics() if "score/train" in row]
    medians = {name: statistics.median(row[name] for row in rows) for name in MEDIANS if name in rows[0]}
    scores = {name: getattr(end, name).model_dump(mode="json") for name in ("score_train", "score_gold", "kl")}
    return scores | medians


if __name__ == "__main__":
    main()
