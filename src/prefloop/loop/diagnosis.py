"""`prefloop eval diagnosis`: gathers what a policy run, its PMs' runs and the store know, and asks for the cause.

Responsible for finding runs, models, prompts and judgments. Names no cause (see `evals.diagnosis`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.errors import ConfigError, DataError
from prefloop.evals.diagnosis import (
    MOST_PAIRS,
    Diagnosis,
    Evidence,
    Judge,
    diagnose,
    measure_layout,
    measure_replies,
    pair_accuracy,
    write_diagnosis,
)
from prefloop.loop.data import evenly, kept_pairs, prompts_of, split, stored_pairs
from prefloop.loop.held_out import training_folder
from prefloop.loop.optimisation import policy_run
from prefloop.models.devices import device_named
from prefloop.models.language import load_language_model, window_tokens
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import readable_prompts, same_tokens
from prefloop.runs import RunFolder, read_json
from prefloop.sandbox import Gold, world
from prefloop.schema import HELD_OUT_SHARE, Interval
from prefloop.stats import wilson
from prefloop.store import Store
from prefloop.train.gauges import HELD_OUT, evaluation_prompts
from prefloop.train.policy_settings import PolicyRun
from prefloop.workspace import Workspace

_PROMPTS = 48
_LEAST_JUDGED = 30


def diagnose_in(
    workspace: Workspace,
    store: Store,
    run: str,
    *,
    html: Path | None = None,
    gold: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> dict[str, Any]:
    """The diagnosis of a run of the workspace, on a page (by default `diagnosis.html` in the run's folder).

    Errors:
        NotFoundError: no such run.
        DataError: no snapshot, no prompts to answer, or a damaged file of the run.
    """
    folder = policy_run(workspace, run)
    found = diagnose_run(folder, workspace, store, gold=gold, seed=seed, device=device)
    path = write_diagnosis(found, html or folder / "diagnosis.html")
    return found.model_dump(mode="json", exclude={"evidence"}) | {"report": str(path)}


def diagnose_run(
    folder: Path,
    workspace: Workspace | None = None,
    store: Store | None = None,
    *,
    gold: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> Diagnosis:
    """The diagnosis of a run folder; a store adds what people judged.

    Args:
        gold: ask the tiny world's known preference too (sandbox runs only).
        device: of the models, as `device_named` has it.

    Errors:
        DataError: no snapshot besides the start, no prompts to answer, or a damaged file of the run.
    """
    run = _settings(folder)
    rows = RunFolder(folder).metrics()
    end_path, episodes = _last_snapshot(folder, rows)
    prompts = evaluation_prompts(folder)
    if not prompts and store is not None:
        prompts = prompts_of(split(stored_pairs(store), HELD_OUT_SHARE).held_out)
    if not prompts:
        raise DataError(f"{folder} kept no evaluation prompts and no workspace holds any; train it again.")
    known = Gold(world()) if gold else None
    if known is not None:
        known.require_known(prompts)
    unknown: dict[str, str] = {}
    place = device_named(device)
    start, end = (load_language_model(path).to(place) for path in (run.policy, end_path))
    paths = {"PM": run.preference_model, HELD_OUT: run.held_out_preference_model} | run.watching_preference_models
    judges = [Judge(name, PreferenceModel.load(path).to(place)) for name, path in paths.items()]
    alike = [judge.model for judge in judges if same_tokens(judge.model.renderer, start.renderer)]
    room = min([window_tokens(start.model) - 1, *(model.room_tokens for model in alike)]) - run.max_response_tokens
    named = {judge.name: judge.model for judge in judges}
    asked = evenly(prompts, _PROMPTS)
    encoded, unread = readable_prompts(start.renderer, asked, room, named, run.max_response_tokens)
    if len(encoded) < len(asked):
        whose = "".join(f", {count} of them of {name} alone" for name, count in unread.items())
        unknown["prompts too long"] = (
            f"{len(asked) - len(encoded)} of {len(asked)} evaluation prompts do not fit a window beside a reply{whose}."
        )
    pm_folder = training_folder(run.preference_model, workspace, store)
    pairs = [] if pm_folder is None else kept_pairs(pm_folder)
    measured = _logged(rows, len(evaluation_prompts(folder))) | measure_replies(
        start, end, judges, encoded, run.max_response_tokens, pairs, seed, known
    )
    learned = None if pm_folder is None else learned_accuracy(pm_folder)
    if learned is None:
        unknown["learned"] = "the run that trained the PM is not here, so its training cannot be looked at."
    if not pairs:
        unknown["far, reread"] = "what the PM was trained on is not here (its run keeps some pairs since this version)."
    reread = pair_accuracy(judges[0].model, pairs[:MOST_PAIRS])
    read = 0 if reread is None else reread.n
    if read < len(pairs[:MOST_PAIRS]):
        unknown["pairs too long"] = (
            f"{len(pairs[:MOST_PAIRS]) - read} of {len(pairs[:MOST_PAIRS])} pairs kept by the PM's run do not fit its "
            f"window of {judges[0].model.max_tokens} tokens, so it did not learn from them either."
        )
    judged = None if store is None else _judged(workspace, store, run, folder, judges[0].model)
    if judged is None:
        unknown["judged"] = (
            f"fewer than {_LEAST_JUDGED} judgments of this policy's answers are in the store; collect some to be surer."
        )
    layouts = {"policy": measure_layout(start, prompts)}
    if layouts["policy"] is None:
        unknown["other_layout"] = (
            "the evaluation prompts hold no two earlier assistant turns that fit the window in both ways."
        )
    if len(judges) == 2:
        unknown["held_out_agreement"] = "one PM watched; more can be named in watching_preference_models."
    evidence = Evidence(
        episodes=episodes,
        **measured,
        learned=learned,
        reread=reread,
        judged=judged,
        parameters={"policy": _size(start.model)} | {judge.name: _size(judge.model.model) for judge in judges},
        layers={"policy": _layers(start.model)} | {judge.name: _layers(judge.model.model) for judge in judges},
        formats={"policy": start.renderer.format} | {judge.name: judge.model.renderer.format for judge in judges},
        same_vocabulary=all(
            judge.model.renderer.tokenizer.get_vocab() == start.renderer.tokenizer.get_vocab() for judge in judges
        ),
        other_layout={name: value for name, value in layouts.items() if value is not None},
        unknown=unknown,
    )
    return diagnose(run.name, evidence)


def learned_accuracy(folder: Path) -> Interval | None:
    """Accuracy of a PM on the second half of its first epoch, each pair before it was learned from; None if unknown.

    What a model gets right before it has seen it is as good as held out, and every PM run logs it.
    """
    settings = read_json(folder / "config.json")
    rows = [row for row in RunFolder(folder).metrics() if "preference/accuracy" in row]
    epoch = rows[: len(rows) // int(settings.get("epochs", 1))]
    late = epoch[len(epoch) // 2 :]
    pairs = sum(row["preference/pairs"] for row in late)
    if not pairs:
        return None
    right = sum(row["preference/accuracy"] * row["preference/pairs"] for row in late)
    return wilson(round(2 * right) / 2, int(pairs))


def _settings(folder: Path) -> PolicyRun:
    try:
        return PolicyRun.load_values(read_json(folder / "config.json"))
    except ConfigError as error:
        raise DataError(f"{folder} is no policy run of this version: {error}") from None


def _last_snapshot(folder: Path, rows: Sequence[Mapping[str, Any]]) -> tuple[Path, int]:
    found = sorted((folder / "snapshots").glob("episodes-*/config.json"))
    if not found:
        raise DataError(f"{folder} has no snapshot besides its start; let the run go on until its first one.")
    path = found[-1].parent
    return path, int(path.name.removeprefix("episodes-"))


def _logged(rows: Sequence[Mapping[str, Any]], prompts: int) -> dict[str, Any]:
    """Fields of the evidence out of the run's own metrics; its snapshots were evaluated on so many prompts."""
    batches = [row for row in rows if "score/train" in row]
    snapshots = [row for row in rows if "eval/kl" in row]
    if not batches or not snapshots:
        return {}

    def mean(name: str, part: Sequence[Mapping[str, Any]]) -> float | None:
        values = [row[name] for row in part if name in row]
        return float(np.mean(values)) if values else None

    half, few = batches[len(batches) // 2 :], max(1, len(batches) // 5)
    last = {key.removeprefix("eval/"): value for key, value in snapshots[-1].items()}
    first_score, last_score = mean("score/train", batches[:few]), mean("score/train", batches[-few:])
    spread = batches[0]["score/train_std"]
    entropy = batches[0]["policy/entropy"]
    kl = last["kl"]
    return {
        "batches": len(batches),
        "kl": Interval(value=kl, low=last["kl_low"], high=last["kl_high"], n=prompts),
        "root_kl": max(kl, 0.0) ** 0.5,
        "clip_fraction": mean("policy/clip_fraction", batches),
        "moved_kl": max((row["policy/moved_kl"] for row in batches if "policy/moved_kl" in row), default=None),
        "explained_variance": mean("value/explained_variance", half),
        "entropy_ratio": None if entropy <= 0 else (mean("policy/entropy", batches[-few:]) or 0.0) / entropy,
        "score_trend": None
        if first_score is None or last_score is None or spread <= 0
        else (last_score - first_score) / spread,
        "training_prompts": next((row["prompts/training"] for row in rows if "prompts/training" in row), None),
        "alarms": tuple(row["alarm/name"] for row in rows if "alarm/name" in row),
    }


def _judged(
    workspace: Workspace | None, store: Store, run: PolicyRun, folder: Path, judge: PreferenceModel
) -> Interval | None:
    """Accuracy on judgments of answers by this run's own snapshots; the PM can have learned from none of them."""
    if workspace is None:
        return None
    own = {snapshot.id for snapshot in store.snapshots(kind="policy") if snapshot.run_id == folder.name}
    pairs = [pair for pair in stored_pairs(store) if {pair.chosen_snapshot_id, pair.rejected_snapshot_id} & own]
    if len(pairs) < _LEAST_JUDGED:
        return None
    return pair_accuracy(judge, pairs)


def _size(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _layers(model: Any) -> int:
    return int(getattr(model.config, "num_hidden_layers", 0))
