"""A whole small round through the real processes, killed in collection and in training, and resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import ConfigError, NotFoundError, StateError
from prefloop.loop.round import STEPS, create_workspace, promote, roll_back, run_round, start_round
from prefloop.loop.settings import RoundSettings
from prefloop.loop.snapshots import add, register
from prefloop.loop.steps import Bench, policy
from prefloop.sandbox.tiny import EXAMPLE_PROMPT, PMP_MODEL, tiny_model
from prefloop.schema import Mode
from prefloop.workspace import Workspace

SMALL = {
    "collection": {"helpful_comparisons": 60, "red_team_comparisons": 30, "compared": 24, "workers": 6, "overlap": 0.1},
    "preference": {"pre_training_pairs": 20},
    "policy": {
        "episodes": 128,
        "episodes_per_batch": 32,
        "snapshots": 2,
        "evaluation_prompts": 32,
        "extra_prompts": 100,
        "learning_rate": 1e-3,
    },
    "evaluation": {"pairs": 120, "prompts": 60},
    "seed": 5,
}


def resume(workspace: Workspace) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "prefloop", "round", "resume", "--workspace", str(workspace.path), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)


def wait_until(is_true: Any, process: subprocess.Popen[bytes]) -> None:
    """Until it is, or the process ends (and then the test's own assertions say what is missing)."""
    while process.poll() is None and not is_true():
        time.sleep(0.1)


def judged(workspace: Workspace) -> int:
    with workspace.store() as store:
        return sum(1 for _ in store.judged())


@pytest.mark.slow
def test_a_round_killed_in_collection_and_in_training_ends_whole(tmp_path: Path) -> None:
    workspace, base = create_workspace(tmp_path / "ws")
    with workspace.store() as store:
        start_round(store, RoundSettings.load_values(SMALL))
        with pytest.raises(StateError, match="still running"):
            start_round(store, RoundSettings())

    first = resume(workspace)
    wait_until(lambda: judged(workspace) >= 20, first)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert first.stdout is not None
    first.stdout.close()
    kept = judged(workspace)
    assert kept >= 20

    second = resume(workspace)
    wait_until(lambda: list(workspace.runs.glob("policy-*/checkpoints/step-*")), second)
    os.killpg(second.pid, signal.SIGKILL)
    second.wait()
    assert second.stdout is not None
    second.stdout.close()

    third = resume(workspace)
    output, _ = third.communicate(timeout=900)
    assert third.returncode == 0
    result = json.loads(output)
    assert result["step"] == STEPS[-1][0]
    assert result["state"] == "done"

    with workspace.store() as store:
        done = store.round()
        assert done is not None
        for mode, target in ((Mode.HELPFUL, 60), (Mode.RED_TEAM, 30)):
            study = next(s for s in store.studies() if s.name == f"round1-{mode.value}")
            counts = {state.value: count for state, count in store.progress(study.id).comparisons.items()}
            assert counts["judged"] >= target
            assert study.state == "closed"
        assert {snapshot.kind for snapshot in store.snapshots()} == {"policy", "preference_model"}
        assert {worker.is_simulated for worker in store.workers()} == {True}
        facts = done.facts
        assert 0.5 < facts["pm"]["best_possible"]["value"] <= 1.0
        assert facts["pm"]["accuracy_a"]["value"] <= facts["pm"]["best_possible"]["value"]
        assert facts["policy"]["gold_win_rate"]["n"] == 60
        steps = [row["step"] for row in _metrics(workspace, facts["policy_run"]) if "score/train" in row]
        assert steps == sorted(set(steps))
        assert len(steps) == 128 // 32
        page = (workspace.path / facts["report"]).read_text(encoding="utf-8")
        assert "PM pre-training alone" in page

        start_round(store, RoundSettings.load_values(SMALL | {"collection": {"people": "invited"}}))
        with pytest.raises(StateError, match="People have not judged enough yet"):
            run_round(workspace, store, tell=lambda line: None)
    assert base.id == facts["start_id"]


def test_a_round_says_what_it_does_not_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    workspace, _ = create_workspace(tmp_path / "ws")
    with workspace.store() as store:
        register(workspace, store, "pm", tiny_model(PMP_MODEL), kind="preference_model")
        best, _ = (
            add(workspace, store, name, "base", **more)
            for name, more in (("best4", {"best_of_k": 4, "picker": "pm"}), ("polite", {"prompt": EXAMPLE_PROMPT}))
        )
        with pytest.raises(ConfigError, match=r"'polite' are given after an example prompt of .* start from 'base'\."):
            start_round(store, RoundSettings(), "polite")
        assert store.round() is None
        begun = start_round(store, RoundSettings(), "best4")
        [warning] = caplog.messages
        assert "'best4' that are the best of 4; PPO trains its weights alone" in warning
        told: list[str] = []
        with pytest.raises(KeyError, match="pm_a_id"):  # nothing was collected, so no PM is there yet
            policy(Bench(workspace, store, RoundSettings(), begun, told.append))
        assert told == [warning]
        assert begun.facts["start_id"] == best.id


def _metrics(workspace: Workspace, run: str) -> list[dict[str, Any]]:
    lines = (workspace.path / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_promotion_and_rollback_settle_what_is_served(tmp_path: Path) -> None:
    from prefloop.sandbox.tiny import CHAT_MODEL
    from prefloop.schema import SamplingSettings

    workspace, base = create_workspace(tmp_path / "ws")
    with workspace.store() as store:
        with pytest.raises(NotFoundError, match="no round"):
            promote(workspace, store)
        new = register(workspace, store, "new", tiny_model(CHAT_MODEL), sampling=SamplingSettings(temperature=0.7))
        begun = start_round(store, RoundSettings())
        facts = begun.facts | {"new_id": new.id}
        with pytest.raises(StateError, match="no round with a new snapshot"):
            promote(workspace, store)
        store.save_round(begun.model_copy(update={"facts": facts}))
        with pytest.raises(StateError, match="still running"):
            promote(workspace, store)
        store.save_round(begun.model_copy(update={"facts": facts, "state": "done"}))
        assert promote(workspace, store).state == "promoted"
        assert [s.id for s in store.snapshots(kind="policy", state="deployed")] == [new.id]
        assert roll_back(workspace, store).state == "rolled_back"
        assert [s.id for s in store.snapshots(kind="policy", state="deployed")] == [base.id]
