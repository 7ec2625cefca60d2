"""Does the advice where to stop land near the best snapshot? Over-optimised PPO runs in the tiny world, judged by gold.

    python benchmarks/bench_stop_advice.py [--seeds 0 ... 9] [--folder F] [--runs FOLDER...]

Each seed trains three PMs on three parts of few judgments, and a policy against the first with no KL penalty until the
known preference (gold) has passed its peak. The advice sees the PMs alone. It lands where the gold rise at the advised
snapshot is at least 90% of the run's highest; the peak is the highest of noisy means, which counts against the advice.
Also told: what deploying the last snapshot, or the best one by the held-out PM alone, would have given. A run whose
gold never turned is counted apart, and so is one whose gold surely rose (interval of its peak above 0): 90% of a rise
that may be noise says nothing. `--runs` takes finished runs of any kind instead. Runs are kept and not made again.
The last line is one JSON object: landed, runs, turned.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prefloop.loop.laboratory import Laboratory
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.stats import wilson
from prefloop.train.gauges import GOLD, HELD_OUT
from prefloop.train.optimisation import Optimisation, read_optimisation
from prefloop.train.policy_settings import PolicyRun

PART, PARTS = 200, 3
NEAR = 0.9
"""Share of the highest gold rise that the advised snapshot must keep."""


def over_optimised_run(laboratory: Laboratory, seed: int, episodes: int) -> Path:
    """A run whose PM is easily fooled."""
    judged = laboratory.judged(seed, PART * PARTS + 60)
    train, held_out, third = (
        laboratory.preference_model(
            f"part-{part}-{seed}",
            judged[part * PART : (part + 1) * PART],
            tiny_model(PMP_MODEL),
            seed=seed + 1000 * part,
        )
        for part in range(PARTS)
    )
    run = PolicyRun(
        name=f"stop-{seed}",
        policy=tiny_model(CHAT_MODEL),
        preference_model=train,
        held_out_preference_model=held_out,
        watching_preference_models={"third": third},
        episodes=episodes,
        episodes_per_batch=128,
        samples_per_prompt=4,
        epochs=1,
        minibatches=4,
        max_response_tokens=64,
        learning_rate=3e-4,
        value_learning_rate=1e-3,
        learning_rate_warmup_episodes=768,
        value_warmup_batches=2,
        gae_lambda=1.0,
        kl_coefficient=0.0,
        snapshots=12,
        workers=1,
        dtype="bfloat16",
        device="cpu",
        seed=seed,
    )
    prompts, evaluation = laboratory.prompts(seed + 100, 1200, 192)
    return laboratory.policy_run(run, prompts, evaluation)


def judged_by_gold(run: Optimisation) -> dict[str, Any] | None:
    """Gold rises at the advised, the last and the held-out PM's best snapshot; None without advice."""
    gold, held_out = run.scorer(GOLD), run.scorer(HELD_OUT)
    if run.advice is None or gold is None or held_out is None:
        return None
    rises = np.array([rise.value for rise in gold.rises])
    places = [place.episodes for place in run.places]
    best = gold.rises[int(rises.argmax())]
    peak = best.value
    at = places.index(run.advice.at.episodes)
    by_held_out = int(np.argmax([rise.value for rise in held_out.rises]))
    return {
        "run": run.name,
        "peak_episodes": places[int(rises.argmax())],
        "peak_gold_rise": peak,
        "peak_gold_rise_interval": [best.low, best.high],
        "rose": best.low > 0,
        "stop_episodes": places[at],
        "gold_rise_at_stop": float(rises[at]),
        "landed": bool(rises[at] >= NEAR * peak),
        "gold_rise_at_end": float(rises[-1]),
        "end_landed": bool(rises[-1] >= NEAR * peak),
        "held_out_best_landed": bool(rises[by_held_out] >= NEAR * peak),
        "turned": bool(rises[-1] < NEAR * peak),
    }


def told(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Counts over runs."""
    counts: dict[str, Any] = {
        "landed": sum(row["landed"] for row in rows),
        "runs": len(rows),
        "turned": sum(row["turned"] for row in rows),
        "landed_where_turned": sum(row["landed"] for row in rows if row["turned"]),
        "rose": sum(row["rose"] for row in rows),
        "landed_where_rose": sum(row["landed"] for row in rows if row["rose"]),
        "end_landed": sum(row["end_landed"] for row in rows),
        "held_out_best_landed": sum(row["held_out_best_landed"] for row in rows),
    }
    if rows:
        share = wilson(counts["landed"], len(rows))
        counts["interval"] = [share.low, share.high]
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--folder", type=Path, default=Path("bench_stop_advice"))
    parser.add_argument("--episodes", type=int, default=3072, help="a run's replies")
    parser.add_argument("--runs", type=Path, nargs="+", help="finished policy runs that kept their replies")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.runs:
        folders = iter(arguments.runs)
    else:
        laboratory = Laboratory(arguments.folder)
        folders = (over_optimised_run(laboratory, seed, arguments.episodes) for seed in arguments.seeds)
    rows = []
    for folder in folders:
        row = judged_by_gold(read_optimisation(folder))
        if row is not None:
            rows.append(row)
            print(
                f"{row['run']}: stop at {row['stop_episodes']} (gold {row['gold_rise_at_stop']:+.2f}), peak at "
                f"{row['peak_episodes']} ({row['peak_gold_rise']:+.2f}), end {row['gold_rise_at_end']:+.2f}: "
                f"{'landed' if row['landed'] else 'missed'}",
                flush=True,
            )
    print(json.dumps(told(rows) | {"rows": rows}))


if __name__ == "__main__":
    main()
