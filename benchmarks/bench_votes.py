"""Do worker weights improve the prediction of held-out votes? On the real votes below the data root.

    PREFLOOP_DATA_ROOT=FOLDER python benchmarks/bench_votes.py [--folds 10] [--repeats 3]

Votes without ties (workers choose between two models' answers to one prompt). Pairs of answers are dealt into folds, so
that no vote on a held-out pair is seen. On the others the model of workers and items gives each worker a weight, and
Bradley-Terry strengths of the models are fitted twice: every vote counts once, or with its worker's weight. Then one
slope on the same votes, unweighted, sets how sure the predictions are (weighted strengths speak of better workers than
the typical one). Both predict the held-out votes; the difference of their log losses (nats a vote; below 0: weights
help) and of their accuracies has an interval clustered by pair. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from prefloop.schema import Interval
from prefloop.stats import bradley_terry, clustered_mean, label_codes, logit_point, reliability

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Votes(NamedTuple):
    """(vote,) each."""

    pair: Ints
    worker: Ints
    prompt: Ints
    left: Ints
    right: Ints
    is_left: Flags


def read_votes(file: Path) -> Votes:
    """The votes that are no ties."""
    with file.open(encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if row["winner"] != "tie"]
    models, _ = label_codes([row[side] for side in ("left", "right") for row in rows])
    codes = {name: label_codes([row[name] for row in rows])[0] for name in ("id", "worker", "prompt")}
    is_left = np.array([row["winner"] == "left" for row in rows])
    return Votes(codes["id"], codes["worker"], codes["prompt"], models[: len(rows)], models[len(rows) :], is_left)


def held_out_chances(votes: Votes, is_held_out: Flags, is_weighted: bool) -> Floats:
    """Chance of left for each held-out vote."""
    weights = np.ones(len(votes.pair))
    kept = ~is_held_out
    if is_weighted:
        fit = reliability(votes.worker[kept], votes.pair[kept], votes.is_left[kept], votes.prompt[kept])
        of = dict(zip(fit.workers, fit.weights, strict=True))
        weights = np.array([of.get(worker, 1.0) for worker in votes.worker.tolist()])
        weights /= weights[kept].mean()
    winner = np.where(votes.is_left, votes.left, votes.right)[kept]
    loser = np.where(votes.is_left, votes.right, votes.left)[kept]
    models = int(max(votes.left.max(), votes.right.max())) + 1
    wins = np.zeros((models, models))
    np.add.at(wins, (winner, loser), weights[kept])
    wins += 0.1 * (wins + wins.T > 0)  # a tenth of a win each way, so that a maximum exists in every fold
    strengths = bradley_terry(wins)
    lead = strengths[votes.left] - strengths[votes.right]
    slope = logit_point(lead[kept, None], votes.is_left[kept].astype(np.float64))
    return np.asarray(1 / (1 + np.exp(-slope * lead[is_held_out])), dtype=np.float64)


def compare(votes: Votes, folds: int, repeats: int) -> dict[str, Interval]:
    """Held-out log loss and accuracy, plain, and their differences with weights; means over repeats of the folds."""
    losses, hits = np.zeros((2, len(votes.pair))), np.zeros((2, len(votes.pair)))
    for repeat in range(repeats):
        fold = np.random.default_rng(repeat).integers(folds, size=int(votes.pair.max()) + 1)[votes.pair]
        for number in range(folds):
            is_held_out = fold == number
            outcome = votes.is_left[is_held_out]
            for kind in (0, 1):
                chance = held_out_chances(votes, is_held_out, is_weighted=kind == 1)
                losses[kind, is_held_out] -= np.log(np.where(outcome, chance, 1 - chance)) / repeats
                hits[kind, is_held_out] += ((chance > 0.5) == outcome) / repeats
    return {
        "log_loss": clustered_mean(losses[0], votes.pair),
        "accuracy": clustered_mean(hits[0], votes.pair),
        "log_loss_change": clustered_mean(losses[1] - losses[0], votes.pair),
        "accuracy_change": clustered_mean(hits[1] - hits[0], votes.pair),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    root = os.environ.get("PREFLOOP_DATA_ROOT")
    if not root:
        parser.error("set PREFLOOP_DATA_ROOT to the folder that holds llmfao/llmfao.csv")
    votes = read_votes(Path(root) / "llmfao" / "llmfao.csv")
    found = compare(votes, options.folds, options.repeats)
    for name, interval in found.items():
        print(f"{name:16s} {interval.value:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]  n {interval.n}")
    fit = reliability(votes.worker, votes.pair, votes.is_left, votes.prompt)
    typical, spread = fit.typical_noise, float(fit.weights.std())
    print(f"noise of the mean worker {typical.value:.3f} [{typical.low:.3f}, {typical.high:.3f}]  n {typical.n}")
    print(f"weights of {len(fit.weights)} workers: standard deviation {spread:.2f}, least {fit.weights.min():.2f}")
    print(json.dumps({"benchmark": "votes", **{name: part.model_dump(mode="json") for name, part in found.items()}}))


if __name__ == "__main__":
    main()
