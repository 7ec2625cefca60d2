"""Learning rates as fractions of the language model's (paper A.2): which rate that was. Knows runs, no training.

A preference model's start is a language model, or a PM that started from one; the runs that made them keep their
settings, so the chain is followed back to the language model's run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError
from prefloop.loop.snapshots import model_path
from prefloop.runs import read_json
from prefloop.store import Store
from prefloop.train.preference_settings import PreferenceRun
from prefloop.workspace import Workspace

__all__ = ["with_language_rate"]


def with_language_rate(workspace: Workspace, store: Store, run: PreferenceRun) -> PreferenceRun:
    """The run with `language_model_learning_rate` filled in where it needs one; its start is a folder already.

    Errors:
        ConfigError: a fraction is asked for, and no run of the workspace tells of what.
    """
    if run.learning_rate_fraction is None or run.language_model_learning_rate is not None:
        return run
    rate = _recorded_rate(workspace, store, run.start)
    if rate is None:
        raise ConfigError(
            f"learning_rate_fraction = {run.learning_rate_fraction:g} is of the language model's learning rate, and no "
            f"run of this workspace says what {run.start.name} was trained with; set language_model_learning_rate."
        )
    return run.model_copy(update={"language_model_learning_rate": rate})


def _recorded_rate(workspace: Workspace, store: Store, start: Path) -> float | None:
    made_by = {
        Path(model_path(workspace, snapshot)).resolve(): workspace.runs / snapshot.run_id
        for snapshot in store.snapshots()
        if snapshot.run_id
    }
    seen: set[Path] = set()
    while (folder := made_by.get(start.resolve(), start.resolve().parent)) not in seen:
        seen.add(folder)
        settings, stage = _settings(folder / "config.json"), _settings(folder / "provenance.json").get("stage")
        if stage == "lm":
            return float(settings["learning_rate"])
        if stage != "preference":
            return None
        if settings.get("language_model_learning_rate") is not None:
            return float(settings["language_model_learning_rate"])
        start = Path(settings["start"])
    return None


def _settings(file: Path) -> dict[str, Any]:
    return read_json(file) if file.is_file() else {}
