"""A run whose snapshot could not be kept is refused before it trains."""

from pathlib import Path

import pytest

from prefloop.errors import ConfigError
from prefloop.loop.round import create_workspace
from prefloop.loop.runs import run_language_model, run_policy, run_preference
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
