"""`prefloop eval preference`: models and comparisons of a workspace, or of a file, brought together. No formulas."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np

from prefloop.errors import ConfigError, DataError
from prefloop.evals import (
    PairScores,
    PreferenceDifference,
    PreferenceEvaluation,
    TfidfRegression,
    evaluate_preference,
    preference_differences,
    score_pairs,
)
from prefloop.evals.slices import OF_COLLECTION
from prefloop.loop.assistants import resolve_model
from prefloop.loop.data import evenly, some_stored, split, stored_pairs
from prefloop.loop.held_out import kept_apart
from prefloop.loop.runs import load_preference_model
from prefloop.pair_file import picked
from prefloop.schema import Mode, PreferencePair, Scorer, Tranche
from prefloop.stats.intervals import Ints
from prefloop.store import Store
from prefloop.store.formats import read_comparisons
from prefloop.workspace import Workspace

_MOST_PAIRS = 20_000  # that a TF-IDF regression learns from: its memory grows with them


class Evaluated(NamedTuple):
    """By name of model, all on the same comparisons; `differences` are of every two of them.

    `data` says on which comparisons, `notes` are sentences that a reader must know.
    """

    evaluations: dict[str, PreferenceEvaluation]
    data: str
    notes: tuple[str, ...]
    differences: tuple[PreferenceDifference, ...] = ()


def evaluate_models(
    workspace: Workspace | None,
    store: Store | None,
    models: Sequence[str],
    *,
    held_out_share: float,
    mode: Mode | None = None,
    tranche: Tranche | None = None,
    file: Path | None = None,
    device: str = "auto",
) -> Evaluated:
    """Each model on the same held-out comparisons of the workspace, or on those of `file`; rows go into the store.

    Comparisons that one of the models does not take are left out for all. The TF-IDF regressions beside them are
    trained on the workspace's training split, of the same mode and tranche, one a mode. Model folders and a file need
    neither workspace nor store.

    Errors:
        ConfigError: a model is named twice, or a mode or tranche of a file's comparisons.
        DataError: no comparisons to evaluate on.
    """
    if len(set(models)) < len(models):
        raise ConfigError(f"A model is named twice in {', '.join(models)}; name each once.")
    if file is not None and (mode or tranche):
        raise ConfigError(
            f"{file.name} says nothing of modes and tranches, so {mode or tranche} cannot be chosen of it; leave "
            "--mode and --tranche out."
        )
    notes: list[str] = []
    training: Sequence[PreferencePair] = ()
    groups: list[str] | None = None
    if file is not None:
        held_out: Sequence[PreferencePair]
        held_out, groups, skipped = read_comparisons(file)
        data = file.name
        if skipped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
            notes.append(f"{sum(skipped.values())} rows of {file.name} were left out: {reasons}.")
        if workspace is not None and store is not None:
            training = split(stored_pairs(store, folder=workspace.runs), held_out_share).training
    elif workspace is not None and store is not None:
        pairs = some_stored(store, "comparisons to evaluate on", mode, tranche, folder=workspace.runs)
        training, held_out = split(pairs, held_out_share)
        data = " ".join([f"held-out {held_out_share:g}", *(part.value for part in (mode, tranche) if part)])
        notes += _trained_on_some(workspace, store, models, held_out_share)
        if not held_out:
            raise DataError(
                f"{len(training)} comparisons leave none to evaluate on at --held-out-share {held_out_share:g}; "
                "raise it."
            )
    else:
        raise ConfigError("There is neither a workspace nor a file of comparisons to evaluate on; give one of them.")
    words = None
    try:
        words = word_regressions(training)
        if file is not None:  # whose comparisons say nothing of their mode
            words = {None: words[None]}
    except DataError as error:
        notes.append(f"{error} So nothing is known of a TF-IDF regression here.")
    scores = {name: score_pairs(load_preference_model(workspace, store, name, device), held_out) for name in models}
    common = common_places(scores)
    if len(common) < max(len(one.kept) for one in scores.values()):
        refused = ", ".join(f"{name} {one.refused}" for name, one in scores.items())
        notes.append(
            f"All models are evaluated on the {len(common)} of {len(held_out)} comparisons that each of them takes; "
            f"longer than their windows are: {refused}."
        )
    evaluations = {
        name: evaluate_preference(
            one.among(common),
            held_out,
            words=words,
            groups=groups,
            unstated=() if file is None else OF_COLLECTION,
            store=store,
            model_id=name,
            data=data,
        )
        for name, one in scores.items()
    }
    kinds = None if groups is None else [groups[place] for place in common]
    differences = preference_differences(evaluations, picked(held_out, common), groups=kinds)
    if store is not None:
        store.add_eval_results([row for one in differences for row in one.results(data)])
    return Evaluated(evaluations, data, tuple(notes), differences)


def common_places(scores: Mapping[str, PairScores]) -> Ints:
    """Places of the pairs that every model takes."""
    return reduce(np.intersect1d, (one.kept for one in scores.values()))


def word_regressions(training: Sequence[PreferencePair]) -> dict[Mode | None, Scorer]:
    """One of all pairs, and one for each mode that has enough of them; of many pairs an even sample is taken."""
    taken = evenly(training, _MOST_PAIRS)
    regressions: dict[Mode | None, Scorer] = {None: TfidfRegression(taken)}
    for mode in Mode:
        with contextlib.suppress(DataError):  # too few pairs of this mode: that of all stands in
            regressions[mode] = TfidfRegression([pair for pair in taken if pair.mode == mode])
    return regressions


def _trained_on_some(workspace: Workspace, store: Store, models: Sequence[str], held_out_share: float) -> list[str]:
    """A sentence for each model that kept fewer conversations apart than are evaluated on now."""
    notes = []
    for name in models:
        apart = kept_apart(workspace, store, resolve_model(workspace, store, Path(name)))
        if apart is not None and apart.share < held_out_share:
            then = "train one that holds some out to compare"
            if apart.share:
                then = f"evaluate with --held-out-share {apart.share:g}"
            notes.append(f"{name} {apart} and is evaluated on {held_out_share:g} of them, so it has seen some; {then}.")
    return notes
