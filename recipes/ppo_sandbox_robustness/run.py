"""The paper's robustness experiment (4.2, 4.3) in the tiny world: python recipes/ppo_sandbox_robustness/run.py FOLDER

Two halves of the judgments, a PM of two sizes on each; policies of two sizes trained against both PMs of the first half
and scored by both of the second and by gold; several seeds. Given again after an interruption it goes on where it was,
and the report is drawn from whatever is finished. Prints one JSON object; FOLDER/robustness.html has the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from figures import write_figures
from tqdm import tqdm

from prefloop.loop.laboratory import Laboratory
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.train.policy_settings import PolicyRun

SIZES = ("small", "large")
JUDGED, HALF, CONTRASTS = 900, 400, 800
PROMPTS, EVALUATION_PROMPTS = 1500, 128


class Cell(NamedTuple):
    """One run of the grid."""

    seed: int
    pm: str
    policy: str

    @property
    def name(self) -> str:
        return f"pm_{self.pm}-policy_{self.policy}-{self.seed}"


def preference_model(laboratory: Laboratory, seed: int, half: int, size: str) -> Path:
    """The PM of a size on half 0 or 1 of a seed's judgments, PM pre-training mixed in."""
    judged = laboratory.judged(seed, JUDGED)[half * HALF : (half + 1) * HALF]
    start = tiny_model(PMP_MODEL) if size == "large" else laboratory.shallow_pre_trained(2)
    return laboratory.preference_model(
        f"{'ab'[half]}-{size}-{seed}",
        judged + laboratory.contrasts(seed + 10 * half, CONTRASTS),
        start,
        seed=seed,
    )


def policy_run(laboratory: Laboratory, cell: Cell, episodes: int) -> Path:
    """Trains one policy of the grid; all four PMs of its seed score its snapshots."""
    pms = {(half, size): preference_model(laboratory, cell.seed, half, size) for half in (0, 1) for size in SIZES}
    other = SIZES[cell.pm == SIZES[0]]
    run = PolicyRun(
        name=cell.name,
        policy=tiny_model(CHAT_MODEL) if cell.policy == "large" else laboratory.shallow_model(2, 150),
        preference_model=pms[0, cell.pm],
        held_out_preference_model=pms[1, cell.pm],
        watching_preference_models={f"test_{other}": pms[1, other]},
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
        kl_coefficient=0.001,  # the paper's
        snapshots=12,
        workers=1,
        dtype="bfloat16",
        device="cpu",
        seed=cell.seed,
    )
    prompts, evaluation = laboratory.prompts(cell.seed + 100, PROMPTS, EVALUATION_PROMPTS)
    return laboratory.policy_run(run, prompts, evaluation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=3072, help="a run's replies")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.add_argument("--report-only", action="store_true", help="draw what is finished")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    laboratory = Laboratory(arguments.folder, partial(tqdm, disable=arguments.quiet))
    cells = [Cell(seed, pm, policy) for seed in arguments.seeds for pm in SIZES for policy in SIZES]
    finished: dict[Cell, Path] = {}
    for cell in cells:
        if arguments.report_only:
            done = sorted(arguments.folder.glob(f"policy-{cell.name}-*/done.json"))
            if done:
                finished[cell] = done[0].parent
            continue
        finished[cell] = policy_run(laboratory, cell, arguments.episodes)
        print(f"{len(finished)} of {len(cells)}: {finished[cell]}", file=sys.stderr, flush=True)
        result: dict[str, Any] = write_figures(finished, arguments.folder / "robustness.html")
    if arguments.report_only:
        result = write_figures(finished, arguments.folder / "robustness.html")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
