"""Runs that are refused or fail before anything was learned: told at once, and nothing is left behind."""

from pathlib import Path

import pytest
import torch

from prefloop.errors import ConfigError, DataError, TrainingError
from prefloop.loop.round import create_workspace
from prefloop.loop.runs import run_language_model, run_policy, run_preference
from prefloop.models.preference import PreferenceModel
from prefloop.sandbox.tiny import PMP_MODEL, tiny_model
from prefloop.train.lm import LanguageRun
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.preference_settings import PreferenceRun


def test_a_taken_name_is_refused_at_once(tmp_path: Path) -> None:
    workspace, base = create_workspace(tmp_path / "ws")
    here = Path(base.name)
    with pytest.raises(ConfigError, match="'base' is there already"):
        run_language_model(workspace, LanguageRun(name=base.name, sandbox_dialogues=10))
    with pytest.raises(ConfigError, match="'base' is there already"):
        run_preference(workspace, PreferenceRun(name=base.name, start=here, sandbox_contrasts=10))
    with pytest.raises(ConfigError, match="'base' is there already"):
        run_policy(
            workspace,
            PolicyRun(name=base.name, policy=here, preference_model=here, held_out_preference_model=here),
        )
    assert not list(workspace.runs.iterdir())


def test_a_run_that_learned_nothing_leaves_no_folder(tmp_path: Path) -> None:
    workspace, _ = create_workspace(tmp_path / "ws")
    long = PreferenceRun(start=Path(PMP_MODEL), sandbox_contrasts=20, max_context_tokens=8)
    for _ in range(2):  # the same command says the same again, and not that the run exists
        with pytest.raises(DataError, match="fits max_context_tokens = 8"):
            run_preference(workspace, long)
    broken = PreferenceModel.load(tiny_model(PMP_MODEL))
    with torch.no_grad():
        broken.head.weight.fill_(3e38)  # finite, and its scores are not
    broken.save(tmp_path / "broken")
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"Step 1 has loss (nan|inf)"):
            run_preference(workspace, PreferenceRun(start=tmp_path / "broken", sandbox_contrasts=20))
    assert not list(workspace.runs.iterdir())
