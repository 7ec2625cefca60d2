"""PPO side by side: `train_policy` against TRL 1.12.0, the last release of TRL that has a PPO trainer.

    python benchmarks/bench_ppo.py --data HH_RLHF_FOLDER [--rounds 3] [--batches 3] [--gain] [--device cuda]

Both sides take the same random models (Llama, hidden 192, 6 layers, vocabulary 2048: policy, reference, preference
model, value model) and the same real prompts of HH-RLHF under 256 tokens; 64 new tokens, batches of 64 episodes, 2
epochs, 4 minibatches. They run in turn, each run in a process of its own: TRL in float32, prefloop in float32 and in
bfloat16. TRL gets its own virtual environment, which this script makes on first use. With `--device cuda` all models
are Llamas of 0.7 billion weights on the GPU, where TRL runs in bfloat16 too; memory is then that of tensors there, and
our first batch compiles attention. `--hidden` and `--layers` take another shape.

Medians over the rounds are compared. `ratio` is prefloop's faster dtype against TRL's, `ratio_fp32` float32 against
float32, `peak_memory_ratio` the peak of those same dtypes, each less what importing the libraries takes. `--gain` adds
what both learn in the tiny world, where there is something to learn: the rise of the PM's score on fixed prompts per
minute of training, on the CPU. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from peers import peer_python, side
from random_models import GPU_SHAPE

HERE = Path(__file__).parent / "ppo"
PEER = ("trl==1.12.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0", "torch==2.13.0")
DTYPES = {"prefloop bf16": "bfloat16", "prefloop fp32": "float32"}
PEERS = {"TRL fp32": "float32", "TRL bf16": "bfloat16"}  # the second on a GPU alone
GAIN_SETTINGS = ("--learning-rate", "2e-4", "--kl-coefficient", "0.05")


def pm_scores(folder: Path, policies: dict[str, Path]) -> dict[str, float]:
    """Mean PM score of each policy's replies to the same 400 prompts that nobody trained on."""
    from prefloop.models.language import load_language_model
    from prefloop.models.preference import PreferenceModel
    from prefloop.models.responses import encode_prompts, score_replies
    from prefloop.models.sampling import TorchSampler
    from prefloop.sandbox import draw_prompts, world
    from prefloop.schema import SamplingSettings

    judge, contexts = PreferenceModel.load(folder / "pm"), draw_prompts(world(), 99, 400)
    means = {}
    for name, path in policies.items():
        model, renderer = load_language_model(path)
        prompts = encode_prompts(renderer, contexts, 128).prompts
        settings = SamplingSettings(max_response_tokens=64)
        replies = TorchSampler(model, renderer, name).sample([prompt.ids for prompt in prompts], 1, settings, 0)
        scores = score_replies(judge, renderer, prompts, [reply for (reply,) in replies])
        means[name] = statistics.fmean(scores)
    return means


def gain(python: Path, scratch: Path, threads: int, batches: int) -> dict[str, float]:
    """Rise of the PM's score in the tiny world per minute of training, both sides with the same settings."""
    world_folder = scratch / "sandbox"
    prepare = [sys.executable, str(HERE.parent / "prepare_ppo.py"), str(world_folder), "--sandbox"]
    subprocess.run([*prepare, "--prompts", str(64 * batches)], check=True, capture_output=True)
    policies = {"start": world_folder / "policy"}
    minutes = {}
    for name, (interpreter, script, extra) in {
        "peer": (python, "peer.py", ("--missing-eos-penalty", "1.0")),
        "ours": (sys.executable, "ours.py", ("--set", "value_learning_rate=5e-4")),
    }.items():
        policies[name] = scratch / f"trained-{name}"
        arguments = (*GAIN_SETTINGS, *extra, "--batches", str(batches), "--save", str(policies[name]))
        minutes[name] = side(interpreter, HERE / script, threads, world_folder, *arguments)["seconds"] / 60
    means = pm_scores(world_folder, policies)
    result = {f"{name}_gain": round(means[name] - means["start"], 3) for name in minutes}
    return result | {
        f"{name}_gain_per_minute": round((means[name] - means["start"]) / minutes[name], 3) for name in minutes
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("PREFLOOP_DATA_ROOT")
    parser.add_argument("--data", type=Path, default=Path(root) / "hh-rlhf" if root else None)
    parser.add_argument("--peer-environment", type=Path, default=HERE.parents[1] / ".venv-trl-1.12.0")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=3, help="of 64 episodes, a run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--gain", action="store_true", help="also what both learn per minute in the tiny world")
    parser.add_argument("--gain-batches", type=int, default=16)
    options = parser.parse_args()
    if options.data is None or not list(options.data.glob("*.jsonl.gz")):
        raise SystemExit("--data must be a folder with HH-RLHF's *.jsonl.gz files (or set PREFLOOP_DATA_ROOT).")
    shape = GPU_SHAPE if options.device == "cuda" else (192, 6)
    peers = dict(PEERS) if options.device == "cuda" else {"TRL fp32": "float32"}
    python = peer_python(options.peer_environment, PEER)
    scratch = Path(tempfile.mkdtemp())
    try:
        prepare = [
            sys.executable,
            str(HERE.parent / "prepare_ppo.py"),
            str(scratch / "models"),
            "--data",
            str(options.data),
            "--hidden",
            str(options.hidden or shape[0]),
            "--layers",
            str(options.layers or shape[1]),
        ]
        subprocess.run([*prepare, "--prompts", str(64 * options.batches)], check=True, capture_output=True)
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in peers | DTYPES}
        for _ in range(options.rounds):
            for name, results in runs.items():
                arguments = ("--batches", str(options.batches), "--dtype", (peers | DTYPES)[name])
                arguments += ("--device", options.device)
                interpreter, script = (sys.executable, "ours.py") if name in DTYPES else (python, "peer.py")
                one = side(interpreter, HERE / script, options.threads, scratch / "models", *arguments)
                results.append(one)
                above = one["peak_mib"] - one["imports_mib"]
                parts = " ".join(
                    f"{part} {one[f'{part}_seconds']:.2f}"
                    for part in ("sampling", "scoring", "update")
                    if f"{part}_seconds" in one
                )
                print(
                    f"{name:14s} {one['seconds_per_batch']:6.2f} s a batch {one['episodes_per_s']:6.2f} episodes/s "
                    f"{above:6.0f} MiB above the imports' {one['imports_mib']:.0f} {parts}",
                    flush=True,
                )
        gains = gain(python, scratch, options.threads, options.gain_batches) if options.gain else {}
    finally:
        shutil.rmtree(scratch)

    def median(name: str, key: str) -> float:
        return statistics.median(one[key] for one in runs[name])

    def above_imports(name: str) -> float:
        return statistics.median(one["peak_mib"] - one["imports_mib"] for one in runs[name])

    best = max(DTYPES, key=lambda name: median(name, "episodes_per_s"))
    best_peer = max(peers, key=lambda name: median(name, "episodes_per_s"))
    peer = median(best_peer, "episodes_per_s")
    result = {
        "benchmark": "ppo",
        "rounds": options.rounds,
        "episodes_a_run": 64 * options.batches,
        "threads": options.threads,
        "device": options.device,
        "ours_dtype": DTYPES[best],
        "peer_dtype": peers[best_peer],
        "ours_episodes_per_s": round(median(best, "episodes_per_s"), 2),
        "ours_fp32_episodes_per_s": round(median("prefloop fp32", "episodes_per_s"), 2),
        "peer_episodes_per_s": round(peer, 2),
        "ratio": round(median(best, "episodes_per_s") / peer, 2),
        "ratio_fp32": round(median("prefloop fp32", "episodes_per_s") / median("TRL fp32", "episodes_per_s"), 2),
        "seconds_per_batch": {name: round(median(name, "seconds_per_batch"), 2) for name in runs},
        "peak_mib_above_imports": {name: round(above_imports(name)) for name in runs},
        "peak_memory_ratio": round(above_imports(best) / above_imports(best_peer), 2),
        "peak_memory_ratio_fp32": round(above_imports("prefloop fp32") / above_imports("TRL fp32"), 2),
    } | gains
    print(json.dumps(result))


if __name__ == "__main__":
    main()
