"""Does `prefloop eval diagnosis` name what is wrong? Plants causes in small PPO runs of the tiny world and counts.

    python benchmarks/bench_diagnosis.py [--seeds 0 1] [--kinds ...] [--folder F] [--part 0/2]

Each run has about a minute on one core. The diagnosis sees the run's folder and models as it would any other's; what
was planted, and the known preference, are kept from it. Runs are kept in the folder and not made again. Prints a line a
run, and last one JSON object: named, planted, false_alarms, healthy.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from prefloop.loop.laboratory import Laboratory
from prefloop.models.language import load_language_model, new_llama, save_model
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.schema import PreferencePair
from prefloop.stats import wilson
from prefloop.train.policy_settings import PolicyRun

JUDGED, HALF = 900, 400
RUN_SETTINGS: dict[str, Any] = {
    "episodes": 512,
    "episodes_per_batch": 128,
    "samples_per_prompt": 4,
    "epochs": 1,
    "minibatches": 4,
    "max_response_tokens": 64,
    "learning_rate": 6e-4,
    "value_learning_rate": 1e-3,
    "gae_lambda": 1.0,
    "kl_coefficient": 0.05,
    "snapshots": 4,
    "workers": 1,
    "dtype": "bfloat16",
    "device": "cpu",
}


@dataclass(frozen=True)
class Plant:
    """A run with one thing wrong with it; `causes` are the names that a right diagnosis may give it."""

    causes: frozenset[str]
    preference_model: Callable[[Bench], Path] | None = None
    policy: Callable[[Bench], Path] | None = None
    settings: tuple[tuple[str, Any], ...] = ()
    prompts: int = 1000


class Bench:
    """The models of one seed; two PMs on two halves of the judgments are the healthy ones."""

    def __init__(self, laboratory: Laboratory, seed: int) -> None:
        self.laboratory, self.seed = laboratory, seed
        judged = laboratory.judged(seed, JUDGED)
        self.halves = judged[:HALF], judged[HALF : 2 * HALF]

    def pm(self, name: str, pairs: Sequence[PreferencePair], start: Path | None = None, **settings: Any) -> Path:
        """A PM as the healthy ones are trained."""
        return self.laboratory.preference_model(
            f"{name}-{self.seed}",
            pairs,
            start or tiny_model(PMP_MODEL),
            **({"seed": self.seed} | settings),
        )

    def healthy(self) -> Path:
        return self.pm("half-a", self.halves[0])

    def held_out(self) -> Path:
        return self.pm("half-b", self.halves[1])

    def shuffled(self) -> Path:
        """Labels turned round by the toss of a coin."""
        generator = torch.Generator().manual_seed(self.seed)
        coins = torch.rand(len(self.halves[0]), generator=generator) < 0.5
        pairs = [pair.swap() if coin else pair for pair, coin in zip(self.halves[0], coins.tolist(), strict=True)]
        return self.pm("shuffled", pairs)

    def shuffled_fresh(self) -> Path:
        """The same without PM pre-training: it knows nothing at all."""
        generator = torch.Generator().manual_seed(self.seed + 1)
        coins = torch.rand(len(self.halves[0]), generator=generator) < 0.5
        pairs = [pair.swap() if coin else pair for pair, coin in zip(self.halves[0], coins.tolist(), strict=True)]
        return self.pm("shuffled-fresh", pairs, tiny_model(CHAT_MODEL))

    def two_neurons(self) -> Path:
        """A trunk of width 2 and one layer."""
        start = self.laboratory.folder / "two-neurons"
        if not (start / "config.json").is_file():
            tokenizer = load_language_model(tiny_model(CHAT_MODEL)).renderer.tokenizer
            save_model(
                new_llama(tokenizer, hidden=2, layers=1, heads=1, window_tokens=512, seed=self.seed), tokenizer, start
            )
        return self.pm("two-neurons", self.halves[0], start)

    def length_loving(self) -> Path:
        """Every pair judged by length alone."""
        pairs = [pair if len(pair.chosen) >= len(pair.rejected) else pair.swap() for pair in self.halves[0]]
        return self.pm("longer", pairs, epochs=2)

    def shouting(self) -> Path:
        """The same judgments on replies in capitals, which no policy here writes; without PM pre-training."""
        loud = [
            pair.model_copy(update={"chosen": pair.chosen.upper(), "rejected": pair.rejected.upper()})
            for pair in self.halves[0]
        ]
        return self.pm("shouting", loud, tiny_model(CHAT_MODEL), epochs=2)

    def other_tokenizer(self) -> Path:
        """The healthy PM and its run, with a tokenizer of the same words in another order: ids mean something else."""
        source, target = self.healthy().parent, self.laboratory.folder / f"other-tokenizer-{self.seed}"
        if not (target / "config.json").is_file():
            shutil.copytree(source, target, dirs_exist_ok=True)
            (target / "config.json").unlink()
            file = target / "model" / "tokenizer.json"
            tokenizer = json.loads(file.read_text(encoding="utf-8"))
            special = {token["content"] for token in tokenizer["added_tokens"]}
            words = [word for word in tokenizer["model"]["vocab"] if word not in special]
            ids = [tokenizer["model"]["vocab"][word] for word in words]
            order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(self.seed)).tolist()
            tokenizer["model"]["vocab"] |= {word: ids[place] for word, place in zip(words, order, strict=True)}
            file.write_text(json.dumps(tokenizer), encoding="utf-8")
            shutil.copy(source / "config.json", target)  # last: the plant is whole
        return target / "model"

    def wrong_template(self) -> Path:
        """The healthy PM, its chat template lost: conversations are written with plain headers now."""
        return _without_template(self.healthy(), self.laboratory.folder / f"no-template-{self.seed}")

    def policy_without_template(self) -> Path:
        return _without_template(tiny_model(CHAT_MODEL), self.laboratory.folder / "policy-no-template")

    def one_layer(self) -> Path:
        return self.laboratory.shallow_model(1, 150)


def _without_template(source: Path, target: Path) -> Path:
    if not (target / "config.json").is_file():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("config.json"))
        (target / "chat_template.jinja").unlink()
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        config.pop("conversation_format", None)  # as in any model that was not saved here
        (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


PLANTS: dict[str, Plant] = {
    "healthy": Plant(frozenset()),
    "healthy_more_kl": Plant(frozenset(), settings=(("kl_coefficient", 0.1), ("seed_offset", 1))),
    "healthy_one_sample": Plant(frozenset(), settings=(("samples_per_prompt", 1), ("seed_offset", 2))),
    "shuffled_labels": Plant(frozenset({"pm_near_chance"}), preference_model=Bench.shuffled),
    "shuffled_labels_fresh": Plant(frozenset({"pm_near_chance"}), preference_model=Bench.shuffled_fresh),
    "two_neurons": Plant(frozenset({"pm_near_chance", "pm_too_small"}), preference_model=Bench.two_neurons),
    "one_layer": Plant(frozenset({"policy_too_small"}), policy=Bench.one_layer),
    "learning_rate_x100": Plant(
        frozenset({"optimiser_failing"}), settings=(("learning_rate", 6e-2), ("value_learning_rate", 1e-1))
    ),
    "policy_learning_rate_x100": Plant(frozenset({"optimiser_failing"}), settings=(("learning_rate", 6e-2),)),
    "learning_rate_too_low": Plant(frozenset({"optimiser_failing"}), settings=(("learning_rate", 6e-7),)),
    "length_loving": Plant(frozenset({"reward_gamed"}), preference_model=Bench.length_loving),
    "bad_value_model": Plant(
        frozenset({"optimiser_failing"}),
        settings=(("episodes_per_batch", 64), ("value_learning_rate", 1e-2), ("gae_lambda", 0.0)),
    ),
    "other_tokenizer": Plant(frozenset({"template_mismatch"}), preference_model=Bench.other_tokenizer),
    "shouting": Plant(frozenset({"pm_out_of_distribution"}), preference_model=Bench.shouting),
    "wrong_template": Plant(frozenset({"template_mismatch"}), preference_model=Bench.wrong_template),
    "policy_wrong_template": Plant(frozenset({"template_mismatch"}), policy=Bench.policy_without_template),
    "eight_prompts": Plant(frozenset({"policy_data_starved"}), prompts=8),
}


def planted_run(laboratory: Laboratory, kind: str, seed: int) -> Path:
    """The folder of one planted run."""
    plant, bench = PLANTS[kind], Bench(laboratory, seed)
    settings = dict(plant.settings)
    offset = settings.pop("seed_offset", 0)
    train = plant.preference_model(bench) if plant.preference_model else bench.healthy()
    prompts, evaluation = laboratory.prompts(seed + 100, plant.prompts, 96)
    run = PolicyRun(
        name=f"{kind}-{seed}",
        policy=plant.policy(bench) if plant.policy else tiny_model(CHAT_MODEL),
        preference_model=train,
        held_out_preference_model=bench.held_out(),
        seed=seed + 10 * offset,
        **(RUN_SETTINGS | settings),
    )
    return laboratory.policy_run(run, prompts, evaluation)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--kinds", nargs="+", choices=list(PLANTS), default=list(PLANTS))
    parser.add_argument("--folder", type=Path, default=Path("bench_diagnosis"))
    parser.add_argument("--part", default="0/1", help="i/n: only every n-th run from i on, for several processes")
    parser.add_argument("--make-only", action="store_true", help="make the runs and do not diagnose them")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    laboratory = Laboratory(arguments.folder)
    first, step = (int(number) for number in arguments.part.split("/"))
    work = [(kind, seed) for seed in arguments.seeds for kind in arguments.kinds][first::step]
    counts = {"named": 0, "planted": 0, "false_alarms": 0, "healthy": 0}
    rows = []
    for kind, seed in work:
        folder = planted_run(laboratory, kind, seed)
        if arguments.make_only:
            continue
        from prefloop.loop.diagnosis import diagnose_run

        named = diagnose_run(folder).cause
        causes = PLANTS[kind].causes
        if causes:
            counts["planted"] += 1
            counts["named"] += named in causes
        else:
            counts["healthy"] += 1
            counts["false_alarms"] += named is not None
        rows.append({"kind": kind, "seed": seed, "named": named, "planted": sorted(causes)})
        print(f"{kind:28} seed {seed}: {named or 'nothing'}", flush=True)
    if counts["planted"]:
        share = wilson(counts["named"], counts["planted"])
        print(f"named {counts['named']} of {counts['planted']} planted causes [{share.low:.2f}, {share.high:.2f}]")
    print(json.dumps(counts | {"runs": rows}))


if __name__ == "__main__":
    main()
