"""Experiments in the tiny world: models of several sizes, PMs on simulated judgments, PPO runs watched by gold.

Responsible for making what an experiment compares, each thing once in a folder of its own, so that an interrupted
experiment goes on where it was. Knows no result: what is planted in a run is its caller's business.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from prefloop.loop.data import keep_pairs
from prefloop.models.language import load_language_model, save_model
from prefloop.models.preference import PreferenceModel
from prefloop.models.sampling import TorchSampler
from prefloop.runs import RunFolder, write_json
from prefloop.sandbox import Gold, Population, contrast_pairs, dialogues, draw_prompts, world
from prefloop.sandbox.contrasts import PRE_TRAINING_WAYS
from prefloop.sandbox.limits import known_pairs
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.schema import Message, PreferencePair
from prefloop.train.lm import LanguageRun, train_language_model
from prefloop.train.policy import train_policy
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.preference import train_preference
from prefloop.train.preference_settings import PreferenceRun

FEW_JUDGMENTS: dict[str, Any] = {
    "held_out_share": 0.0,
    "pairs_per_step": 16,
    "learning_rate": 4e-4,
    "schedule": "cosine",
    "label_smoothing": 0.1,
    "start_scale": 0.3,
}
"""Settings of a PM that learns from a few hundred judgments, after PM pre-training (docs/LOG.md has the tries)."""
_EVALUATION_SEED = 1_000_003
Context = tuple[Message, ...]


class Laboratory:
    """A folder of experiments.

    Args:
        progress: a progress bar like tqdm.
    """

    def __init__(self, folder: Path, progress: Callable[..., Any] = tqdm) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._progress = progress

    def judged(self, seed: int, count: int) -> list[PreferencePair]:
        """At most `count` pairs of the tiny chat model's replies, each judged once by simulated workers."""
        file = self.folder / f"judged-{seed}-{count}.jsonl"
        if not file.is_file():
            chat = load_language_model(tiny_model(CHAT_MODEL))
            sampler = TorchSampler(chat.model, chat.renderer, CHAT_MODEL)
            contexts = draw_prompts(world(), seed, count)
            known = known_pairs(sampler, chat.renderer, world(), contexts, Population(seed=seed).traits(), seed)
            temporary = file.with_suffix(".tmp")
            temporary.write_text("".join(f"{item.pair.model_dump_json()}\n" for item in known), encoding="utf-8")
            temporary.replace(file)
        return [PreferencePair.model_validate_json(line) for line in file.read_text(encoding="utf-8").splitlines()]

    def contrasts(self, seed: int, count: int) -> list[PreferencePair]:
        """Pairs of PM pre-training: one reply speaks of what was asked for, the other of something else."""
        return list(contrast_pairs(world(), seed, count, ways=PRE_TRAINING_WAYS))

    def prompts(self, seed: int, training: int, evaluation: int) -> tuple[list[Context], list[Context]]:
        """Prompts to train on, and others to evaluate on."""
        drawn = draw_prompts(world(), seed, training)
        return drawn, draw_prompts(world(), seed + _EVALUATION_SEED, evaluation, exclude=drawn)

    def shallow_model(self, layers: int, steps: int, seed: int = 0) -> Path:
        """The tiny chat model's first `layers` layers, taught the tiny world's texts again: a smaller policy."""
        start = self.folder / f"first-{layers}-layers"
        if not (start / "config.json").is_file():
            chat = load_language_model(tiny_model(CHAT_MODEL))
            _keep_layers(chat.model, layers)
            save_model(chat.model, chat.renderer.tokenizer, start)
        run = LanguageRun(
            name=f"{layers}-layers",
            start=start,
            sandbox_dialogues=max(2000, 20 * steps),
            steps=steps,
            tokens_per_step=4096,
            row_tokens=256,
            learning_rate=2e-3,
            checkpoint_every_steps=50,
            seed=seed,
        )
        folder, done = self._folder("lm", run, run.name)
        if done:
            return folder.path / "model"
        texts = list(dialogues(world(), run.seed, run.sandbox_dialogues))
        return self._finished(folder, train_language_model(run, texts, folder, resume=True, progress=self._progress))

    def shallow_pre_trained(self, layers: int) -> Path:
        """The first `layers` layers of the pre-trained PM, as they are: a start for a smaller PM."""
        start = self.folder / f"first-{layers}-layers-pmp"
        if not (start / "config.json").is_file():
            judge = PreferenceModel.load(tiny_model(PMP_MODEL))
            _keep_layers(judge.model, layers)
            judge.save(start)
        return start

    def preference_model(self, name: str, pairs: Sequence[PreferencePair], start: Path, **settings: Any) -> Path:
        """A PM on these pairs; `settings` go before `FEW_JUDGMENTS`."""
        run = PreferenceRun(name=name, start=start, **(FEW_JUDGMENTS | settings))
        folder, done = self._folder("preference", run, name)
        if done:
            return folder.path / "model"
        keep_pairs(folder, pairs)
        trained = train_preference(run, pairs, folder, resume=True, progress=self._progress)
        return self._finished(folder, trained.path)

    def policy_run(self, run: PolicyRun, prompts: Sequence[Context], evaluation: Sequence[Context]) -> Path:
        """The folder of a finished PPO run; gold scores its snapshots and takes no part in it."""
        folder, done = self._folder("policy", run, run.name)
        if not done:
            result = train_policy(
                run, prompts, folder, evaluation, resume=True, gold=Gold(world()), progress=self._progress
            )
            self._finished(folder, Path(result.report))
        return folder.path

    def _folder(self, stage: str, run: Any, name: str) -> tuple[RunFolder, bool]:
        """The run's folder, and whether the run is finished."""
        is_begun = RunFolder.exists(self.folder, stage, run, name)
        folder = RunFolder.create(self.folder, stage, run, name=name, resume=is_begun)
        return folder, (folder.path / "done.json").is_file()

    def _finished(self, folder: RunFolder, result: Path) -> Path:
        """Notes that the run is whole; its checkpoints are needed no more."""
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
        write_json(folder.path / "done.json", {"result": result.name})
        return result


def _keep_layers(model: Any, layers: int) -> None:
    trunk = model.base_model
    trunk.layers = trunk.layers[:layers]
    model.config.num_hidden_layers = layers
    kinds = getattr(model.config, "layer_types", None)
    if kinds is not None:
        model.config.layer_types = kinds[:layers]
