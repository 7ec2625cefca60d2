"""`prefloop eval scan`: a preference model (PM) for every value of a setting, every seed and fold, and what they tell.

Trains, scores held-out pairs, keeps the scores and throws the model away. Knows no formulas. A trial that is finished
is never trained again, and one that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, field_validator
from tqdm import tqdm

from prefloop.config import NAME, Config
from prefloop.errors import ConfigError, DataError, TrainingError, UserError
from prefloop.evals import ScanEvaluation, Trial, evaluate_scan, write_scan_report
from prefloop.evals.preference import word_differences
from prefloop.loop.assistants import resolve_model
from prefloop.loop.data import evenly, half_of, held_out_in_fold, some_stored
from prefloop.loop.learning_rates import with_language_rate
from prefloop.loop.preference_evaluation import word_regressions
from prefloop.loop.runs import chosen_for, fingerprint, preference_data
from prefloop.runs import RunFolder, read_json, write_json
from prefloop.schema import PreferencePair
from prefloop.stats import LEAST_POINTS
from prefloop.store import Store
from prefloop.train.preference import train_preference
from prefloop.train.preference_settings import PreferenceRun
from prefloop.workspace import Workspace

__all__ = ["Scan", "ScanRun", "run_scan", "scan_plan"]


class Scan(Config):
    """One setting of the run and the values that it takes."""

    setting: str = Field(
        description="of the run: training_pairs, start, red_team_share, tranche_weights.online, mode ..."
    )
    values: tuple[int | float | str, ...] = Field(min_length=1, description="one PM each, for every seed and fold")
    also: tuple[str, ...] = Field((), description="key=value of the run, for this scan alone")
    fit: bool = Field(
        False, description="a straight line through accuracy against the logarithm of three or more values"
    )
    scores: bool = Field(False, description="calibration and accuracy among high scores for the last value")

    @field_validator("setting")
    @classmethod
    def _is_a_setting(cls, name: str) -> str:
        if name.partition(".")[0] not in PreferenceRun.model_fields:
            raise ValueError(
                f"a preference run has no such setting; take one of {', '.join(PreferenceRun.model_fields)}"
            )
        return name


class ScanRun(Config):
    """`prefloop eval scan SCAN.toml`."""

    name: str = Field("scan", pattern=NAME, description="goes into the name of the run folder")
    seeds: tuple[int, ...] = Field((0,), min_length=1, description="of training, and of simulated judgments")
    folds: int = Field(1, ge=1, description="each holds out run.held_out_share of the workspace's conversations")
    evaluation_pairs: int = Field(0, ge=0, description="held-out pairs that are scored, evenly taken; 0: all")
    words: bool = Field(True, description="a TF-IDF regression on the same training pairs beside each PM")
    run: PreferenceRun = Field(description="what all trainings have in common")
    scans: dict[str, Scan] = Field(min_length=1, description="by title")


class PlannedTrial(NamedTuple):
    """One training: which scan and value it belongs to, and its settings."""

    key: str
    scan: str
    value: int | float | str
    seed: int
    fold: int
    run: PreferenceRun


def scan_plan(scan: ScanRun) -> list[PlannedTrial]:
    """All trainings, seed by seed, since the pairs of a seed are drawn once.

    Errors:
        ConfigError: a value that the setting cannot take; a line through too few values, or over what has no
            logarithm; folds of simulated judgments.
    """
    for title, one in scan.scans.items():
        if one.fit:
            _check_line(title, one)
    if scan.folds > 1 and (scan.run.sandbox_judgments or scan.run.sandbox_contrasts or scan.run.ranked_files):
        raise ConfigError(f"folds = {scan.folds} are of a workspace's comparisons; with other pairs set folds to 1.")
    return [
        PlannedTrial(
            f"scan{number}-value{place}-seed{seed}-fold{fold}",
            title,
            value,
            seed,
            fold,
            PreferenceRun.load((), [*one.also, f"{one.setting}={json.dumps(value)}", f"seed={seed}"], below=scan.run),
        )
        for seed in scan.seeds
        for fold in range(scan.folds)
        for number, (title, one) in enumerate(scan.scans.items())
        for place, value in enumerate(one.values)
    ]


def _check_line(title: str, scan: Scan) -> None:
    if len(set(scan.values)) < LEAST_POINTS:
        raise ConfigError(
            f"scans.{title}: fit = true needs {LEAST_POINTS} different values, not {len(set(scan.values))}; add "
            "values, or set fit to false."
        )
    if scan.setting in ("start", "training_pairs"):  # whose values stand for counts of parameters and of pairs
        return
    for value in scan.values:
        if isinstance(value, str) or value <= 0:
            raise ConfigError(
                f"scans.{title}: fit = true takes the logarithm of positive numbers, and {value!r} has none; set fit "
                "to false."
            )


def run_scan(
    workspace: Workspace, scan: ScanRun, *, html: Path | None = None, resume: bool = False
) -> tuple[Path, dict[str, ScanEvaluation]]:
    """Trains and evaluates all of `scan_plan`; the page goes to the run's report.html, and to `html`.

    Errors:
        DataError: a resumed scan whose comparisons have changed, a trial without pairs to train or test on.
    """
    plan = scan_plan(scan)
    with workspace.store() as store:
        sources = {trial.run.start: resolve_model(workspace, store, trial.run.start) for trial in plan}
        found = [trial.run.model_copy(update={"start": sources[trial.run.start]}) for trial in plan]
        runs = [with_language_rate(workspace, store, run) for run in found]
        plan = [trial._replace(run=run) for trial, run in zip(plan, runs, strict=True)]
        stored = [] if _is_drawn(scan.run) else some_stored(store, "comparisons to train on")
        facts = fingerprint(stored)
        folder = RunFolder.create(workspace.runs, "scan", scan, name=scan.name, resume=resume, data=facts)
        begun = read_json(folder.path / "provenance.json")["data"]
        if begun != facts:
            raise DataError(
                f"{folder.path} was started on {begun['pairs']} comparisons of the workspace that are not the "
                f"{facts['pairs']} of now; start a new scan under another name."
            )
        trials = folder.path / "trials"
        trials.mkdir(exist_ok=True)
        try:
            done = _all_trials(store, scan, plan, stored, trials)
        except (UserError, TrainingError):  # ended before anything was learned: the mended command starts afresh
            if not [*trials.glob("*.json"), *trials.rglob("state.json")]:
                shutil.rmtree(folder.path)
            raise
    evaluations = {}
    for title, one in scan.scans.items():
        in_order = sorted(done[title], key=lambda trial: one.values.index(trial.value))
        evaluations[title] = evaluate_scan(
            one.setting,
            in_order,
            is_fitted=one.fit,
            has_scores=one.scores,
        )
    write_json(folder.path / "scan.json", {name: one.model_dump(mode="json") for name, one in evaluations.items()})
    for page in (folder.path / "report.html", html):
        if page is not None:
            write_scan_report(evaluations, page, f"Scan {scan.name}")
    return folder.path, evaluations


def _all_trials(
    store: Store,
    scan: ScanRun,
    plan: Sequence[PlannedTrial],
    stored: Sequence[PreferencePair],
    folder: Path,
) -> dict[str, list[Trial]]:
    """Trains what is not finished; the plan's runs start from folders."""
    done: dict[str, list[Trial]] = {title: [] for title in scan.scans}
    pairs: _Pairs | None = None
    for planned in tqdm(plan, desc=f"eval scan {scan.name}"):
        if pairs is None or pairs.seed != planned.seed:
            pairs = _Pairs.of(store, scan, planned.seed, stored)
        file = folder / f"{planned.key}.json"
        training, held_out, places = pairs.of_trial(planned, scan)
        if not file.is_file():
            write_json(file, _train(planned.run, training, held_out, folder / planned.key, has_words=scan.words))
        done[planned.scan].append(_trial(planned, json.loads(file.read_text("utf-8")), held_out, places, pairs))
    return done


class _Pairs(NamedTuple):
    """What the trials of one seed train and are tested on, before their own choice of mode, tranche and mix."""

    seed: int
    draw: int
    training: Sequence[PreferencePair]
    held_out: Sequence[PreferencePair]
    probabilities: Sequence[float] | None

    @classmethod
    def of(cls, store: Store, scan: ScanRun, seed: int, stored: Sequence[PreferencePair]) -> _Pairs:
        if not _is_drawn(scan.run):
            return cls(seed, 0, stored, (), None)
        whole: dict[str, Any] = {
            "mode": None,
            "tranche": None,
            "half": None,
            "red_team_share": None,
            "tranche_shares": {},
            "training_pairs": 0,
            "seed": seed,
        }
        data = preference_data(store, scan.run.model_copy(update=whole))
        return cls(seed, seed, data.training, data.held_out, data.probabilities)

    def of_trial(
        self, planned: PlannedTrial, scan: ScanRun
    ) -> tuple[list[PreferencePair], list[PreferencePair], list[int]]:
        """Pairs to train on, pairs to test on (of every kind), and the places of the latter among all held-out ones."""
        run = planned.run
        training, held_out = list(self.training), list(self.held_out)
        if not _is_drawn(scan.run):
            is_out = [held_out_in_fold(p, planned.fold, scan.folds, run.held_out_share) for p in self.training]
            training = [pair for pair, out in zip(self.training, is_out, strict=True) if not out]
            held_out = [pair for pair, out in zip(self.training, is_out, strict=True) if out]
        training = [
            pair
            for pair in training
            if run.mode in (None, pair.mode)
            and run.tranche in (None, pair.tranche)
            and run.half in (None, half_of(pair))
        ]
        training = list(chosen_for(run, training))
        if not training or not held_out:
            raise DataError(
                f"{planned.scan}: {planned.value} leaves {len(training)} comparisons to train on and {len(held_out)} "
                "to test on; import more, or change run.held_out_share, mode or tranche."
            )
        places = evenly(range(len(held_out)), scan.evaluation_pairs or len(held_out))
        return training, [held_out[place] for place in places], places


def _is_drawn(run: PreferenceRun) -> bool:
    """Whether the pairs come from elsewhere than the workspace's judgments."""
    return bool(run.sandbox_judgments or run.sandbox_contrasts or run.ranked_files)


def _train(
    run: PreferenceRun,
    training: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
    folder: Path,
    *,
    has_words: bool,
) -> dict[str, Any]:
    """Trains one PM in a folder of its own, which goes when its scores are there."""
    is_begun = RunFolder.exists(folder, "preference", run, run.name)
    place = RunFolder.create(folder, "preference", run, name=run.name, resume=is_begun)
    trained = train_preference(run, training, place, resume=is_begun)
    scored = trained.model.score_pairs(held_out)
    if not scored.kept:
        raise trained.model.none_fits(f"{len(held_out)} held-out pairs", "run.max_context_tokens")
    result: dict[str, Any] = {
        "training_pairs": len(training),
        "parameters": sum(parameter.numel() for parameter in trained.model.model.parameters()),
        "held_out": scored.kept,
        "chosen": scored.chosen,
        "rejected": scored.rejected,
        "words": None,
    }
    if has_words:
        result["words"] = word_differences(word_regressions(training), [held_out[i] for i in scored.kept]).tolist()
    shutil.rmtree(folder)
    return result


def _trial(
    planned: PlannedTrial,
    found: Mapping[str, Any],
    held_out: Sequence[PreferencePair],
    places: Sequence[int],
    of: _Pairs,
) -> Trial:
    known = None
    if of.probabilities is not None:
        known = np.array([of.probabilities[places[place]] for place in found["held_out"]])
    return Trial(
        value=planned.value,
        seed=planned.seed,
        fold=planned.fold,
        draw=of.draw,
        training_pairs=found["training_pairs"],
        parameters=found["parameters"],
        pairs=[held_out[place] for place in found["held_out"]],
        chosen=np.array(found["chosen"]),
        rejected=np.array(found["rejected"]),
        words=None if found["words"] is None else np.array(found["words"]),
        probabilities=known,
    )


def trainings(plan: Sequence[PlannedTrial]) -> Iterator[dict[str, Any]]:
    """One line a training, for `--dry-run`."""
    for one in plan:
        yield {"scan": one.scan, "value": one.value, "seed": one.seed, "fold": one.fold}
