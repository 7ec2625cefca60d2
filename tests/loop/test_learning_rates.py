"""Fractions of the language model's learning rate: found along the runs that made a start, and used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from prefloop.errors import ConfigError
from prefloop.loop.learning_rates import with_language_rate
from prefloop.loop.round import create_workspace
from prefloop.loop.runs import estimate_preference_run, run_preference
from prefloop.loop.snapshots import model_path, register
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.train.preference_settings import PreferenceRun
from prefloop.workspace import Workspace


def made(workspace: Workspace, name: str, model: str, kind: str, stage: str, **settings: object) -> Path:
    """A snapshot whose run is there with these settings; its folder."""
    run = workspace.runs / f"{stage}-{name}-0123456789ab"
    run.mkdir()
    (run / "config.json").write_text(json.dumps(settings))
    (run / "provenance.json").write_text(json.dumps({"stage": stage}))
    with workspace.store() as store:
        snapshot = register(workspace, store, name, tiny_model(model), kind=kind, run_id=run.name)
        return Path(model_path(workspace, snapshot))


def test_the_rate_is_found_along_the_runs_and_used(tmp_path: Path) -> None:
    workspace, _ = create_workspace(tmp_path / "ws")
    language = made(workspace, "language", CHAT_MODEL, "policy", "lm", learning_rate=0.02)
    pmp = made(workspace, "pmp", PMP_MODEL, "preference_model", "preference", start=str(language))
    with workspace.store() as store:
        run = PreferenceRun(start=pmp, learning_rate_fraction=0.01)
        assert with_language_rate(workspace, store, run).peak_learning_rate == pytest.approx(0.0002)
        told = run.model_copy(update={"language_model_learning_rate": 0.5})
        assert with_language_rate(workspace, store, told).peak_learning_rate == pytest.approx(0.005)
        assert with_language_rate(workspace, store, PreferenceRun(start=pmp)).language_model_learning_rate is None
        with pytest.raises(ConfigError, match=f"says what {PMP_MODEL} was trained with; set language_model_learn"):
            with_language_rate(workspace, store, run.model_copy(update={"start": tiny_model(PMP_MODEL)}))

    run = PreferenceRun(name="fine", start=Path("pmp"), sandbox_contrasts=8, learning_rate_fraction=0.01)
    assert estimate_preference_run(workspace, run)["settings"]["language_model_learning_rate"] == 0.02
    folder = Path(run_preference(workspace, run)["run"])
    assert json.loads((folder / "config.json").read_text())["language_model_learning_rate"] == 0.02
    first = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert first["preference/learning_rate"] == pytest.approx(0.0002 / 6)  # the first of five steps of warm-up
