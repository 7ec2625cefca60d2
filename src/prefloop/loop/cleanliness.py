"""`prefloop eval cleanliness`: trains a small PM for every way to treat the labels, and says what each is worth.

Labels are flipped on purpose, pairs that a PM of the other folds calls mislabelled are dropped or count less, flagged
workers are left out or weighted, tranches are set beside each other at equal size. The models are thrown away; their
held-out scores are kept, so that an interrupted command goes on where it was. Knows no formulas.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field
from scipy import special
from tqdm import tqdm

from prefloop.config import NAME, Config, Seed
from prefloop.errors import DataError
from prefloop.evals import Cleanliness, Suspicion, Treated, evaluate_cleanliness, suspicion
from prefloop.evals.cleanliness import CLEAN, accuracy_of
from prefloop.loop.assistants import resolve_model
from prefloop.loop.data import evenly, opening_turn
from prefloop.loop.runs import fingerprint, preference_data
from prefloop.models.language import load_language_model, window_tokens
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import encode_prompts
from prefloop.models.sampling import TorchSampler
from prefloop.quality import quality_report
from prefloop.runs import RunFolder, read_json, write_json
from prefloop.sandbox import Gold, draw_prompts, world
from prefloop.sandbox.tiny import CHAT_MODEL, tiny_model
from prefloop.schema import Message, PreferencePair, SamplingSettings, Tranche
from prefloop.store import Store
from prefloop.train.lessons import usable_pairs
from prefloop.train.preference import start_model, train_preference
from prefloop.train.preference_settings import PreferenceRun
from prefloop.train.threads import own_threads_afterwards, take_threads
from prefloop.workspace import Workspace

_CURVE = (0.25, 0.5)
_SHOWN = 50
_PROMPT_SEED = 6_000_011  # of the tiny world, so that no run draws the same prompts


class CleanlinessRun(Config):
    """`prefloop eval cleanliness CLEANLINESS.toml`."""

    name: str = Field("cleanliness", pattern=NAME, description="goes into the name of the run folder")
    run: PreferenceRun = Field(description="what all trainings have in common, and where the comparisons come from")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="of training and of what is flipped")
    flipped: tuple[float, ...] = Field((0.1, 0.2, 0.3), description="shares of training labels to turn round")
    folds: int = Field(3, ge=2, description="of conversations, for scores by a PM that has not seen the pair")
    suspected_share: float = Field(0.1, gt=0.0, lt=1.0, description="of the pairs, the least likely labels, to drop")
    has_suspected: bool = Field(True, description="drop or down-weight suspected pairs, also with most flipped")
    has_workers: bool = Field(True, description="drop flagged workers, and weight all by the quality report")
    has_tranches: bool = Field(True, description="each tranche alone, all at the size of the smallest")
    gold_prompts: int = Field(
        0, ge=0, description="tiny world only: prompts to which each PM picks the best reply, held against the truth"
    )
    gold_samples: int = Field(16, ge=2, description="replies to pick from")


class _Plan(NamedTuple):
    """One training: its treatment, the pairs and how much each counts."""

    name: str
    beside: str
    pairs: list[PreferencePair]
    weights: list[float] | None
    flipped_left: float | None


@dataclass
class _Trainer:
    """Trains PMs below a folder, each once; scores are kept as JSON."""

    folder: Path
    run: PreferenceRun
    held_out: Sequence[PreferencePair]
    gold: Callable[[PreferenceModel], list[float]] | None
    bar: Any = field(default_factory=lambda: tqdm(desc="eval cleanliness", unit="PM"))

    def differences(
        self,
        key: str,
        pairs: Sequence[PreferencePair],
        weights: Sequence[float] | None,
        seed: int,
        on: Sequence[PreferencePair],
        has_gold: bool = False,
    ) -> dict[str, Any]:
        """Score differences on `on`, and what the PM's picks are worth."""
        file = self.folder / f"{key}.json"
        if not file.is_file():
            run = self.run.model_copy(update={"seed": seed})
            place = self.folder / key
            is_begun = RunFolder.exists(place, "preference", run, run.name)
            folder = RunFolder.create(place, "preference", run, name=run.name, resume=is_begun)
            trained = train_preference(run, pairs, folder, resume=is_begun, weights=weights)
            scores = trained.model.score_ids([ids for pair in on for ids in _ids(trained.model, pair)])
            found: dict[str, Any] = {"differences": (np.array(scores[0::2]) - np.array(scores[1::2])).tolist()}
            if has_gold and self.gold is not None:
                found["gold"] = self.gold(trained.model)
            write_json(file, found)
            shutil.rmtree(place)
        self.bar.update()
        return read_json(file, "delete it to train that one again")


@own_threads_afterwards()
def run_cleanliness(
    workspace: Workspace, settings: CleanlinessRun, *, resume: bool = False
) -> tuple[Path, Cleanliness, list[dict[str, Any]]]:
    """Trains and evaluates; gives the run folder, the numbers, and the pairs most likely mislabelled, worst first.

    Errors:
        DataError: no comparisons to train or test on, or comparisons that changed since an interrupted command.
    """
    with workspace.store() as store:
        run = settings.run.model_copy(update={"start": resolve_model(workspace, store, settings.run.start)})
        if resume:  # judgments that it draws must be those that it began with
            take_threads(RunFolder.create(workspace.runs, "cleanliness", settings, name=settings.name, resume=True))
        data = preference_data(store, run)
        if not data.training or not data.held_out:
            raise DataError(
                f"There are {len(data.training)} comparisons to train on and {len(data.held_out)} to test on; collect "
                "or import more, or change run.held_out_share."
            )
        workers = _workers(store) if settings.has_workers else {}
    usable = usable_pairs(data.training).pairs
    training = [usable[place] for place in _fitting(run, usable)]
    tested = _fitting(run, data.held_out)
    held_out = [data.held_out[place] for place in tested]
    known = None if data.probabilities is None else [data.probabilities[place] for place in tested]
    facts = fingerprint(training)
    folder = RunFolder.create(workspace.runs, "cleanliness", settings, name=settings.name, resume=resume, data=facts)
    take_threads(folder)
    begun = read_json(folder.path / "provenance.json")["data"]
    if begun != facts:
        raise DataError(f"{folder.path} was started on other comparisons than these; take another name.")
    trials = folder.path / "trials"
    trials.mkdir(exist_ok=True)
    trainer = _Trainer(trials, run, held_out, _gold(settings) if settings.gold_prompts else None)
    trained: list[Treated] = []
    suspicions: list[Suspicion] = []
    curve: list[tuple[int, float]] = []
    worst: list[dict[str, Any]] = []
    for seed in settings.seeds:
        plans, found, margins = _plans(trainer, settings, training, workers, seed)
        suspicions += found
        worst = worst or _worst(training, margins)
        for number, share in enumerate(_CURVE):
            some = evenly(_shuffled(training, seed), int(share * len(training)))
            values = trainer.differences(f"curve{number}-seed{seed}", some, None, seed, held_out)["differences"]
            curve.append((len(some), accuracy_of(np.array(values), known)))
        for number, plan in enumerate(plans):
            key = f"treatment{number}-seed{seed}"
            scored = trainer.differences(key, plan.pairs, plan.weights, seed, held_out, has_gold=True)
            values = np.array(scored["differences"])
            gold = np.array(scored["gold"]) if "gold" in scored else None
            trained.append(Treated(plan.name, plan.beside, seed, len(plan.pairs), plan.flipped_left, values, gold))
            if plan.name == CLEAN:
                curve.append((len(plan.pairs), accuracy_of(values, known)))
    trainer.bar.close()
    order = {name: place for place, name in enumerate(dict.fromkeys(one.name for one in trained))}
    trained.sort(key=lambda one: (order[one.name], one.seed))
    result = evaluate_cleanliness(trained, held_out, suspicions, curve=curve, probabilities=known)
    write_json(folder.path / "cleanliness.json", {**result.model_dump(mode="json"), "suspected_pairs": worst})
    return folder.path, result, worst


def _plans(
    trainer: _Trainer,
    settings: CleanlinessRun,
    training: list[PreferencePair],
    workers: dict[str, float],
    seed: int,
) -> tuple[list[_Plan], list[Suspicion], list[float]]:
    """All treatments of one seed, what was suspected, and the margins of the untouched labels (empty: not asked)."""
    plans = [_Plan(CLEAN, CLEAN, training, None, 0.0)]
    suspicions: list[Suspicion] = []
    margins: list[float] = []
    order = np.argsort([_draw(pair, seed) for pair in training], kind="stable")
    labels = {0.0: (CLEAN, training, np.zeros(len(training), dtype=np.bool_))}
    for share in settings.flipped:
        is_flipped = np.zeros(len(training), dtype=np.bool_)
        is_flipped[order[: round(share * len(training))]] = True
        turned = [pair.swap() if wrong else pair for pair, wrong in zip(training, is_flipped, strict=True)]
        labels[share] = (f"{share:.0%} flipped", turned, is_flipped)
        plans.append(_Plan(labels[share][0], CLEAN, turned, None, share))
    for share in sorted({0.0, max(settings.flipped, default=0.0)}) if settings.has_suspected else ():
        name, pairs, is_flipped = labels[share]
        found = _out_of_fold(trainer, settings.folds, pairs, f"fold-flipped{share:g}", seed)
        margins = margins or found
        limit = np.quantile(found, settings.suspected_share)
        is_suspected = np.array(found) < limit
        if share:
            suspicions.append(suspicion(share, is_flipped.tolist(), is_suspected.tolist()))
        kept = np.flatnonzero(~is_suspected)
        left = float(is_flipped[kept].mean()) if share else None
        plans.append(_Plan(f"{name}, suspected dropped", name, [pairs[place] for place in kept], None, left))
        weights = special.expit(np.array(found)).tolist()
        plans.append(_Plan(f"{name}, suspected count less", name, pairs, weights, None))
    named = {pair.worker_id for pair in training if pair.worker_id}
    if flagged := {id for id, weight in workers.items() if weight < 0 and id in named}:
        kept_pairs = [pair for pair in training if pair.worker_id not in flagged]
        if kept_pairs:
            plans.append(_Plan("flagged workers dropped", CLEAN, kept_pairs, None, None))
    if named & set(workers):
        weights = [max(workers.get(pair.worker_id or "", 1.0), 0.0) for pair in training]
        if any(weights):
            plans.append(_Plan("workers weighted", CLEAN, training, weights, None))
    tranches = {tranche: [pair for pair in training if pair.tranche is tranche] for tranche in Tranche}
    present = {tranche: pairs for tranche, pairs in tranches.items() if pairs}
    if settings.has_tranches and len(present) > 1:
        size = min(len(pairs) for pairs in present.values())
        for tranche, pairs in present.items():
            some = evenly(_shuffled(pairs, seed), size)
            plans.append(_Plan(f"{tranche.value.replace('_', ' ')} alone, {size} pairs", CLEAN, some, None, None))
    return plans, suspicions, margins


def _out_of_fold(trainer: _Trainer, folds: int, pairs: list[PreferencePair], key: str, seed: int) -> list[float]:
    """Of each pair, score(chosen) - score(rejected) by a PM that was trained on the other folds' conversations."""
    fold = np.array([int(_fold_place(pair) * folds) for pair in pairs])
    margins = np.zeros(len(pairs))
    for number in range(folds):
        inside = np.flatnonzero(fold == number)
        if len(inside) == 0 or len(inside) == len(pairs):
            continue
        rest = [pair for pair, other in zip(pairs, fold, strict=True) if other != number]
        found = trainer.differences(f"{key}-{number}-seed{seed}", rest, None, seed, [pairs[place] for place in inside])
        margins[inside] = found["differences"]
    return margins.tolist()


def _worst(pairs: Sequence[PreferencePair], margins: Sequence[float]) -> list[dict[str, Any]]:
    """The pairs whose labels an out-of-fold PM doubts most, for people to read."""
    return [
        {
            "comparison_id": pairs[place].comparison_id,
            "worker_id": pairs[place].worker_id,
            "chance_of_label": float(special.expit(margins[place])),
            "context": [message.model_dump(mode="json") for message in pairs[place].context],
            "chosen": pairs[place].chosen,
            "rejected": pairs[place].rejected,
        }
        for place in np.argsort(margins, kind="stable")[:_SHOWN].tolist()
    ]


def _workers(store: Store) -> dict[str, float]:
    """Weight of each worker whose noise is known; -1 of those who are flagged for it."""
    report = quality_report(store)
    found = {worker.worker_id: worker.weight for worker in report.workers if worker.weight is not None}
    doubted = ("noise", "flipped")
    found |= {one.worker_id: -1.0 for one in report.workers if any(flag.kind in doubted for flag in one.flags)}
    return found


def _gold(settings: CleanlinessRun) -> Callable[[PreferenceModel], list[float]]:
    """Samples the tiny chat model's replies once; then: known value of the reply that a PM picks, by prompt."""
    chat = load_language_model(tiny_model(CHAT_MODEL))
    sampler, gold = TorchSampler(chat.model, chat.renderer, CHAT_MODEL), Gold(world())
    contexts = draw_prompts(world(), _PROMPT_SEED, settings.gold_prompts)
    room = window_tokens(chat.model) - SamplingSettings().max_response_tokens
    prompts = encode_prompts(chat.renderer, contexts, room).prompts
    drawn = sampler.sample([prompt.ids for prompt in prompts], settings.gold_samples, SamplingSettings(), _PROMPT_SEED)
    replies = [
        (*prompt.messages, Message(role="assistant", text=chat.renderer.decode(sample.ids)))
        for prompt, samples in zip(prompts, drawn, strict=True)
        for sample in samples
    ]
    worth = np.array([gold(reply[:-1], reply[-1].text) for reply in replies]).reshape(len(prompts), -1)

    def picked(model: PreferenceModel) -> list[float]:
        best = np.argmax(np.array(model.score(replies)).reshape(worth.shape), axis=1)
        return [float(value) for value in worth[np.arange(len(best)), best]]

    return picked


def _fitting(run: PreferenceRun, pairs: Sequence[PreferencePair]) -> list[int]:
    """Places of the pairs that fit the window."""
    model = start_model(run)
    kept = []
    for place, pair in enumerate(pairs):
        with contextlib.suppress(DataError):
            model.encode_pair(pair)
            kept.append(place)
    if not kept:
        raise model.none_fits(f"{len(pairs)} pairs", "run.max_context_tokens")
    return kept


def _ids(model: PreferenceModel, pair: PreferencePair) -> tuple[list[int], list[int]]:
    both = model.encode_pair(pair)
    return both.chosen, both.rejected


def _shuffled(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    return sorted(pairs, key=lambda pair: _draw(pair, seed))


def _draw(pair: PreferencePair, seed: int) -> float:
    """A number that the seed and the comparison's texts alone decide: ids are made anew by each import."""
    turns = [f"{message.role}: {message.text}" for message in pair.context]
    return _hashed(f"seed {seed}", *turns, pair.chosen, pair.rejected)


def _fold_place(pair: PreferencePair) -> float:
    """The same for its opening turn, whatever the seed: conversations that begin alike are in one fold."""
    return _hashed("fold", opening_turn(pair))


def _hashed(*texts: str) -> float:
    return int.from_bytes(hashlib.sha256("\x1f".join(texts).encode()).digest()[:8], "big") / 2**64
