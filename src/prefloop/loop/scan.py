"""`prefloop eval scan`: a preference model (PM) for every value of a setting, every seed and fold, and what they tell.

Trains, scores held-out pairs, keeps the scores and throws the model away. Knows no formulas. A trial that is finished
is never trained again, and one that was interrupted goes on from its last checkpoint.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_origin

import numpy as np
from pydantic import Field, field_validator
from tqdm import tqdm

from prefloop.config import NAME, Config, Seed
from prefloop.errors import ConfigError, DataError, TrainingError, UserError
from prefloop.evals import ScanEvaluation, ScanFailure, Trial, evaluate_scan, write_scan_report
from prefloop.evals.preference import word_differences
from prefloop.loop.assistants import resolve_model
from prefloop.loop.data import evenly, half_of, held_out_in_fold, place, some_stored
from prefloop.loop.learning_rates import with_language_rate
from prefloop.loop.preference_evaluation import word_regressions
from prefloop.loop.runs import PreferenceData, chosen_for, fingerprint, preference_data, source_of
from prefloop.runs import RunFolder, read_json, write_json
from prefloop.schema import PreferencePair
from prefloop.stats import LEAST_POINTS
from prefloop.store import Store
from prefloop.train.preference import train_preference
from prefloop.train.preference_settings import PreferenceRun
from prefloop.train.threads import own_threads_afterwards, take_threads
from prefloop.workspace import Workspace

__all__ = ["Scan", "ScanRun", "run_scan", "scan_plan"]


_log = logging.getLogger(__name__)

_NO_CHANGE = "it changes nothing that a scan measures; take another setting"
_NOT_SCANNED = {
    "held_out_share": "all values are tested on the same comparisons; for fewer to train on scan training_pairs",
    "seed": "seeds of the scan say it, for all values alike",
    "name": _NO_CHANGE,
    "checkpoint_every_steps": _NO_CHANGE,
    "evaluate_every_steps": _NO_CHANGE,
}


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
        if name in _NOT_SCANNED:
            raise ValueError(_NOT_SCANNED[name])
        if name.partition(".")[0] not in PreferenceRun.model_fields:
            raise ValueError(
                f"a preference run has no such setting; take one of {', '.join(PreferenceRun.model_fields)}"
            )
        return name


class ScanRun(Config):
    """`prefloop eval scan SCAN.toml`."""

    name: str = Field("scan", pattern=NAME, description="goes into the name of the run folder")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="of training, and of simulated judgments")
    folds: int = Field(1, ge=1, description="each holds out run.held_out_share of the workspace's conversations")
    evaluation_pairs: int = Field(0, ge=0, description="held-out pairs that are scored, evenly taken; 0: all")
    words: bool = Field(True, description="a TF-IDF regression on the same training pairs beside each PM")
    run: PreferenceRun = Field(description="what all trainings have in common")
    scans: dict[str, Scan] = Field(min_length=1, description="by title")


class PlannedTrial(NamedTuple):
    """One training: which scan and value it belongs to, and its settings; `base` has those that the scan's share."""

    key: str
    scan: str
    value: int | float | str
    seed: int
    fold: int
    run: PreferenceRun
    base: PreferenceRun


def scan_plan(scan: ScanRun) -> list[PlannedTrial]:
    """All trainings, seed by seed, since the pairs of a seed are drawn once.

    Errors:
        ConfigError: a value that the setting cannot take, or that is there twice; settings that would change nothing;
            a line through too few values, or over what has no logarithm; folds of simulated judgments.
    """
    for title, one in scan.scans.items():
        if any(word.partition("=")[0].strip() == "seed" for word in one.also):
            raise ConfigError(f"scans.{title}: also sets seed, which the seeds of the scan set; take it away.")
        if one.fit:
            _check_line(title, one)
    plan = [
        PlannedTrial(
            f"scan{number}-value{place}-seed{seed}-fold{fold}",
            title,
            value,
            seed,
            fold,
            PreferenceRun.load((), [*one.also, _override(one.setting, value), f"seed={seed}"], below=scan.run),
            PreferenceRun.load((), [*one.also, f"seed={seed}"], below=scan.run),
        )
        for seed in scan.seeds
        for fold in range(scan.folds)
        for number, (title, one) in enumerate(scan.scans.items())
        for place, value in enumerate(one.values)
    ]
    for title, one in scan.scans.items():
        _check_values(title, one, [trial for trial in plan if trial.scan == title][: len(one.values)])
    sources = {source_of(run) for trial in plan for run in (trial.run, trial.base)}
    if scan.folds > 1 and sources != {None}:
        raise ConfigError(f"folds = {scan.folds} are of a workspace's comparisons; with other pairs set folds to 1.")
    return plan


def _override(setting: str, value: int | float | str) -> str:
    """`setting=value`, where a setting that is a list takes a list of the one value."""
    field = PreferenceRun.model_fields.get(setting)
    is_list = field is not None and get_origin(field.annotation) is tuple
    return f"{setting}={json.dumps([value] if is_list else value)}"


def _check_values(title: str, scan: Scan, trials: Sequence[PlannedTrial]) -> None:
    """`trials`: of the scan's values at one seed, in their order."""
    for number, one in enumerate(trials):
        for before in trials[:number]:
            if before.run == one.run:
                raise ConfigError(
                    f"scans.{title}: values {before.value!r} and {one.value!r} are the same {scan.setting}; give each "
                    "one once."
                )
        if scan.setting.startswith("ranked_") and source_of(one.run) != "ranked_files":
            raise ConfigError(f"scans.{title}: {scan.setting} is of ranked answers; set run.ranked_files.")


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


@own_threads_afterwards()
def run_scan(
    workspace: Workspace, scan: ScanRun, *, html: Path | None = None, resume: bool = False
) -> tuple[Path, dict[str, ScanEvaluation]]:
    """Trains and evaluates all of `scan_plan`; the page goes to the run's report.html, and to `html`.

    Errors:
        DataError: a resumed scan whose comparisons have changed, a trial without pairs to train or test on.
        TrainingError: every training diverged; one that did beside others that did not is noted and left out.
    """
    plan = scan_plan(scan)
    with workspace.store() as store:
        sources = {trial.run.start: resolve_model(workspace, store, trial.run.start) for trial in plan}
        found = [trial.run.model_copy(update={"start": sources[trial.run.start]}) for trial in plan]
        runs = [with_language_rate(workspace, store, run) for run in found]
        plan = [trial._replace(run=run) for trial, run in zip(plan, runs, strict=True)]
        is_stored = any(source_of(run) is None for trial in plan for run in (trial.run, trial.base))
        stored = some_stored(store, "comparisons to train and test on") if is_stored else []
        facts = fingerprint(stored)
        folder = RunFolder.create(workspace.runs, "scan", scan, name=scan.name, resume=resume, data=facts)
        begun = read_json(folder.path / "provenance.json")["data"]
        if begun != facts:
            raise DataError(
                f"{folder.path} was started on {begun['pairs']} comparisons of the workspace that are not the "
                f"{facts['pairs']} of now; start a new scan under another name."
            )
        take_threads(folder)  # judgments that it draws must be those that it began with
        trials = folder.path / "trials"
        trials.mkdir(exist_ok=True)
        try:
            done, failed = _all_trials(store, scan, plan, stored, trials)
        except (UserError, TrainingError):  # ended before anything was learned: the mended command starts afresh
            if not [*trials.glob("*.json"), *trials.rglob("state.json")]:
                shutil.rmtree(folder.path)
            raise
    if not any(done.values()):
        shutil.rmtree(folder.path)  # nothing was learned: the mended command starts afresh
        reason = next(one.reason for failures in failed.values() for one in failures)
        raise TrainingError(
            f"All {len(plan)} trainings of the scan failed (the first: {reason}); lower learning_rate and scan again."
        )
    evaluations = {}
    for title, one in scan.scans.items():
        in_order = sorted(done[title], key=lambda trial: one.values.index(trial.value))
        evaluations[title] = evaluate_scan(
            one.setting,
            in_order,
            failed[title],
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
) -> tuple[dict[str, list[Trial]], dict[str, list[ScanFailure]]]:
    """Trains what is not finished, and what failed is not tried again; the plan's runs start from folders."""
    done: dict[str, list[Trial]] = {title: [] for title in scan.scans}
    failed: dict[str, list[ScanFailure]] = {title: [] for title in scan.scans}
    pairs: _Pairs | None = None
    for planned in tqdm(plan, desc=f"eval scan {scan.name}"):
        if pairs is None or pairs.seed != planned.seed:
            pairs = _Pairs(store, scan, planned.seed, stored)
        file = folder / f"{planned.key}.json"
        tested = pairs.of_trial(planned)
        if not file.is_file():
            write_json(file, _train(planned.run, tested, folder / planned.key, has_words=scan.words))
        found = read_json(file, "delete it to train that one again")
        if "failed" in found:
            reason = found["failed"]
            failed[planned.scan].append(
                ScanFailure(value=planned.value, seed=planned.seed, fold=planned.fold, reason=reason)
            )
            where = f"seed {planned.seed}, fold {planned.fold}"
            _log.warning("%s: %s (%s) failed and is left out. %s", planned.scan, planned.value, where, reason)
        else:
            done[planned.scan].append(_trial(planned, found, tested))
    return done, failed


class _Tested(NamedTuple):
    """What one trial trains on and is tested on; a `draw` has held-out pairs of its own."""

    training: Sequence[PreferencePair]
    held_out: Sequence[PreferencePair]
    probabilities: Sequence[float] | None
    draw: int


class _Pairs:
    """What the trials of one seed train and are tested on. Pairs that are drawn are so once for the same settings.

    Whatever the values of a scan say of the data, all are tested on the held-out pairs of its base, of every kind, and
    none trains on those.
    """

    def __init__(self, store: Store, scan: ScanRun, seed: int, stored: Sequence[PreferencePair]) -> None:
        self.seed = seed
        self._store, self._scan, self._stored = store, scan, stored
        self._drawn: dict[tuple[Any, ...], PreferenceData] = {}

    def of_trial(self, planned: PlannedTrial) -> _Tested:
        """The pairs of a trial.

        Errors:
            DataError: none to train on, or none to test on.
        """
        run, base = planned.run, planned.base
        training, _, _ = self._of(run, planned.fold)
        _, held_out, probabilities = self._of(base, planned.fold)
        if _data_settings(run) != _data_settings(base):
            training = _unseen(run, base, training, held_out)
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
        places = evenly(range(len(held_out)), self._scan.evaluation_pairs or len(held_out))
        return _Tested(
            training,
            [held_out[place] for place in places],
            None if probabilities is None else [probabilities[place] for place in places],
            self.seed if source_of(base) else 0,
        )

    def _of(self, run: PreferenceRun, fold: int) -> PreferenceData:
        """Both sides before a trial's own choice of mode, tranche and mix."""
        if source_of(run) is None:
            is_out = [held_out_in_fold(pair, fold, self._scan.folds, run.held_out_share) for pair in self._stored]
            training = [pair for pair, out in zip(self._stored, is_out, strict=True) if not out]
            return PreferenceData(training, [pair for pair, out in zip(self._stored, is_out, strict=True) if out])
        key = _data_settings(run)
        if key not in self._drawn:
            whole: dict[str, Any] = {
                "mode": None,
                "tranche": None,
                "half": None,
                "red_team_share": None,
                "tranche_shares": {},
                "training_pairs": 0,
            }
            self._drawn[key] = preference_data(self._store, run.model_copy(update=whole))
        return self._drawn[key]


def _data_settings(run: PreferenceRun) -> tuple[Any, ...]:
    """What decides which pairs there are, before a choice among them."""
    source = source_of(run)
    return (source, run.held_out_share, *(getattr(run, name) for name in _SOURCE_SETTINGS.get(source or "", ())))


_SOURCE_SETTINGS = {
    "ranked_files": ("ranked_files", "ranked_binary", "ranked_pairs_per_question"),
    "sandbox_contrasts": ("sandbox_contrasts",),
    "sandbox_judgments": ("sandbox_judgments",),
}


def _unseen(
    run: PreferenceRun,
    base: PreferenceRun,
    training: Sequence[PreferencePair],
    held_out: Sequence[PreferencePair],
) -> list[PreferencePair]:
    """The pairs to train on that do not open like one to test on; simulated judgments are told apart by context."""
    if source_of(run) == source_of(base) == "sandbox_judgments":
        contexts = {pair.context for pair in held_out}
        return [pair for pair in training if pair.context not in contexts]
    openings = {place(pair) for pair in held_out}
    return [pair for pair in training if place(pair) not in openings]


def _train(run: PreferenceRun, tested: _Tested, folder: Path, *, has_words: bool) -> dict[str, Any]:
    """Trains one PM in a folder of its own, which goes when its scores are there, or the reason why there are none."""
    held_out = tested.held_out
    is_begun = RunFolder.exists(folder, "preference", run, run.name)
    own = RunFolder.create(folder, "preference", run, name=run.name, resume=is_begun)
    try:
        trained = train_preference(run, tested.training, own, resume=is_begun)
        scored = trained.model.score_pairs(held_out)
        if not np.isfinite([*scored.chosen, *scored.rejected]).all():
            raise TrainingError("The trained model gives scores that are not finite")
    except TrainingError as error:
        shutil.rmtree(folder)
        return {"failed": str(error).partition(" (")[0]}  # what follows names a checkpoint, which is gone
    if not scored.kept:
        raise trained.model.none_fits(f"{len(held_out)} held-out pairs", "run.max_context_tokens")
    result: dict[str, Any] = {
        "training_pairs": len(tested.training),
        "parameters": sum(parameter.numel() for parameter in trained.model.model.parameters()),
        "held_out": scored.kept,
        "chosen": scored.chosen,
        "rejected": scored.rejected,
        "words": None,
    }
    if has_words:
        result["words"] = word_differences(
            word_regressions(tested.training), [held_out[i] for i in scored.kept]
        ).tolist()
    shutil.rmtree(folder)
    return result


def _trial(planned: PlannedTrial, found: Mapping[str, Any], tested: _Tested) -> Trial:
    known = None
    if tested.probabilities is not None:
        known = np.array([tested.probabilities[place] for place in found["held_out"]])
    return Trial(
        value=planned.value,
        seed=planned.seed,
        fold=planned.fold,
        draw=tested.draw,
        training_pairs=found["training_pairs"],
        parameters=found["parameters"],
        pairs=[tested.held_out[place] for place in found["held_out"]],
        chosen=np.array(found["chosen"]),
        rejected=np.array(found["rejected"]),
        words=None if found["words"] is None else np.array(found["words"]),
        probabilities=known,
    )


def trainings(plan: Sequence[PlannedTrial]) -> Iterator[dict[str, Any]]:
    """One line a training, for `--dry-run`."""
    for one in plan:
        yield {"scan": one.scan, "value": one.value, "seed": one.seed, "fold": one.fold}
