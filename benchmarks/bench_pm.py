"""Training a preference model side by side: `train_preference` against the RewardTrainer of TRL 1.16.0.

    python benchmarks/bench_pm.py --data HH_RLHF_FOLDER [--pairs 128] [--rounds 3] [--quick] [--device cuda]

Both sides train the same random Llama (17 M parameters, a BPE of 4,096 tokens) on the same ids of the same real pairs,
a seeded sample over all four tranches whose sides stay under 1,024 tokens: an optimizer step (AdamW, the same settings)
every 16 pairs, bf16 autocast, no gradient checkpointing. They run in turn, each run in a process of its own, another
model and other pairs each round; both take the pairs in the same random order, so that they make the same steps up to
rounding, and should reach the same loss. TRL gets its own virtual environment, which this script makes on first use.
After that: TRL with its defaults, and whole conversations of four comparisons each.

With `--device cuda` both sides train a Llama of 0.7 billion weights on the GPU, 1,024 pairs a round; memory is that of
tensors there, and our first step compiles attention. `--hidden` and `--layers` take another shape.

The held-out loss of both trained models is computed by the same code in float32 on pairs with other opening turns; the
interval of its difference is 95% over the rounds (Student's t). `ratio` is that of the medians, `peak_memory_ratio`
ours over theirs, each less what importing the libraries takes. `peak_share` is the share of the matrix-product peak in
bf16, measured beside, that our linear layers' arithmetic amounts to. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers import peer_python, side
from random_models import GPU_SHAPE

HERE = Path(__file__).parent / "pm"
PEER = ("trl==1.16.0", "transformers==5.23.0", "accelerate==1.15.0", "datasets==5.2.0", "torch==2.13.0")
LEARNING_RATES = {"cpu": 1e-4, "cuda": 1e-5}  # TRL's default; for the large model a tenth
PAIRS = {"cpu": 128, "cuda": 1024}


def held_out_loss(folder: Path, model: Path, device: str) -> float:
    """Mean loss in nats on pairs that neither side trained on, in float32."""
    import torch

    from prefloop.losses import preference_losses
    from prefloop.models.preference import PreferenceModel

    rows = json.loads((folder / "held_out.json").read_text(encoding="utf-8"))
    sides = [row[key] for row in rows for key in ("chosen_ids", "rejected_ids")]
    scores = PreferenceModel.load(model).to(device).score_ids(sides)
    return float(preference_losses(torch.tensor(scores[0::2]), torch.tensor(scores[1::2])).mean())


def peak_flops(threads: int, device: str) -> float:
    """The best of some bf16 matrix products of 1024 and 2048 (GPU: 8192), in operations a second."""
    import torch

    torch.set_num_threads(threads)
    best = 0.0
    for size in (1024, 2048) if device == "cpu" else (8192,):
        left, right = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
        for _ in range(12):
            begin = time.perf_counter()
            left @ right
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * size**3 / (time.perf_counter() - begin))
    return best


def linear_parameters(folder: Path) -> int:
    """Weights that take part in a product for each token: all but the embedding."""
    from prefloop.models.preference import PreferenceModel

    model = PreferenceModel.load(folder / "start-0")
    embedding = model.trunk.get_input_embeddings().weight.numel()
    return sum(parameter.numel() for parameter in model.model.parameters()) - embedding


def paired(differences: list[float]) -> tuple[float, float, float]:
    """Mean and 95% interval by Student's t."""
    from scipy.stats import t

    mean = statistics.fmean(differences)
    if len(differences) < 2:
        return mean, -math.inf, math.inf
    half = float(t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))
    return mean, mean - half, mean + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("PREFLOOP_DATA_ROOT")
    parser.add_argument("--data", type=Path, default=Path(root) / "hh-rlhf" if root else None)
    parser.add_argument("--peer-environment", type=Path, default=HERE.parents[1] / ".venv-trl-1.16.0")
    parser.add_argument("--pairs", type=int, help="a round")
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--hidden", type=int)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--quick", action="store_true", help="one round of 48 pairs, nothing else")
    options = parser.parse_args()
    if options.data is None or not list(options.data.glob("*.jsonl.gz")):
        raise SystemExit("--data must be a folder with HH-RLHF's *.jsonl.gz files (or set PREFLOOP_DATA_ROOT).")
    shape = GPU_SHAPE if options.device == "cuda" else (384, 8)
    hidden, layers = options.hidden or shape[0], options.layers or shape[1]
    options.pairs = options.pairs or PAIRS[options.device]
    if options.quick:
        options.pairs, options.rounds, options.held_out = 48, 1, 64
    python = peer_python(options.peer_environment, PEER)
    scratch = Path(tempfile.mkdtemp())
    runs: dict[str, list[dict[str, Any]]] = {}
    losses: dict[str, list[float]] = {"prefloop": [], "TRL": []}
    peaks: list[float] = []

    def run(name: str, interpreter: Path | str, script: str, *arguments: str) -> None:
        common = (scratch, "--save", scratch / name, "--learning-rate", str(LEARNING_RATES[options.device]))
        common += ("--device", options.device)
        one = side(interpreter, HERE / script, options.threads, *common, *arguments)
        runs.setdefault(name, []).append(one)
        above = one["peak_mib"] - one["imports_mib"]
        print(
            f"{name:26s} {one['pairs']:4d} pairs {one['seconds']:7.2f} s {one['pairs_per_s']:6.2f} pairs/s "
            f"{above:6.0f} MiB above the imports' {one['imports_mib']:.0f}",
            flush=True,
        )

    try:
        sizes = ("--pairs", options.pairs, "--held-out", options.held_out, "--seeds", options.rounds)
        sizes += ("--hidden", hidden, "--layers", layers)
        prepare = [sys.executable, HERE.parent / "prepare_pm.py", scratch, "--data", options.data, *sizes]
        subprocess.run([str(part) for part in prepare], check=True, capture_output=True)
        for seed in range(options.rounds):
            arguments = ("--data", f"real-{seed}", "--seed", str(seed))
            run("TRL", python, "peer.py", *arguments)
            run("prefloop", sys.executable, "ours.py", *arguments)
            peaks.append(peak_flops(options.threads, options.device))
            for name, values in losses.items():
                values.append(held_out_loss(scratch, scratch / name, options.device))
        if not options.quick:
            for _ in range(options.rounds):
                run("TRL, conversations", python, "peer.py", "--data", "conversations")
                run("prefloop, conversations", sys.executable, "ours.py", "--data", "conversations")
            run("TRL, its defaults", python, "peer.py", "--data", "real-0", "--defaults")
        parameters = linear_parameters(scratch)
    finally:
        shutil.rmtree(scratch)

    def median(name: str, key: str = "pairs_per_s") -> float:
        return statistics.median(one[key] for one in runs[name])

    def above_imports(name: str) -> float:
        return statistics.median(one["peak_mib"] - one["imports_mib"] for one in runs[name])

    def ratios(ours: str, theirs: str) -> list[float]:
        rounds = zip(runs[ours], runs[theirs], strict=True)
        return [round(one["pairs_per_s"] / other["pairs_per_s"], 2) for one, other in rounds]

    difference = paired([ours - theirs for ours, theirs in zip(losses["prefloop"], losses["TRL"], strict=True)])
    tokens_per_s = statistics.median(one["tokens"] / one["seconds"] for one in runs["prefloop"])
    peak = statistics.median(peaks)
    for name, values in losses.items():
        print(f"held-out loss of {name}: " + ", ".join(f"{value:.4f}" for value in values))
    result = {
        "benchmark": "pm",
        "pairs": options.pairs,
        "rounds": options.rounds,
        "threads": options.threads,
        "device": options.device,
        "hidden": hidden,
        "layers": layers,
        "ours_pairs_per_s": round(median("prefloop"), 3),
        "peer_pairs_per_s": round(median("TRL"), 3),
        "ratio": round(median("prefloop") / median("TRL"), 2),
        "ratios": ratios("prefloop", "TRL"),
        "peak_memory_ratio": round(above_imports("prefloop") / above_imports("TRL"), 3),
        "ours_whole_call_pairs_per_s": round(options.pairs / median("prefloop", "whole_call_seconds"), 3),
        "held_out_loss": {name: [round(value, 4) for value in values] for name, values in losses.items()},
        "held_out_loss_difference": [round(value, 4) for value in difference],
        "held_out_pairs": options.held_out,
        "ours_tokens_per_s": round(tokens_per_s),
        "peak_gflops": round(peak / 1e9),
        "peak_share": round(6 * parameters * tokens_per_s / peak, 3),
    }
    if not options.quick:
        result |= {
            "peer_defaults_pairs_per_s": round(median("TRL, its defaults"), 3),
            "ratio_to_peer_defaults": round(median("prefloop") / median("TRL, its defaults"), 2),
            "conversations_ours_pairs_per_s": round(median("prefloop, conversations"), 3),
            "conversations_peer_pairs_per_s": round(median("TRL, conversations"), 3),
            "conversations_ratio": round(median("prefloop, conversations") / median("TRL, conversations"), 2),
            "conversations_ratios": ratios("prefloop, conversations", "TRL, conversations"),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
