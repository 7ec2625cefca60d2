"""Through the functions of the commands, in a workspace: distil, generate prompts, evaluate policies, best of n."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prefloop.errors import ConfigError, DataError
from prefloop.loop import distillation
from prefloop.loop.data import split, stored_pairs
from prefloop.loop.distillation import run_distillation
from prefloop.loop.policy_evaluation import best_of, compare_policies, prompts_of_pairs, sandbox_prompts
from prefloop.loop.prompts import run_prompts
from prefloop.loop.round import create_workspace
from prefloop.loop.snapshots import register
from prefloop.sandbox import draw_prompts, world
from prefloop.sandbox.tiny import EXAMPLE_PROMPT, PMP_MODEL, tiny_model
from prefloop.store import Store
from prefloop.store.formats import import_file
from prefloop.train.distill import DistillResult, DistillRun
from prefloop.train.prompts import PromptsRun
from prefloop.workspace import Workspace

PAIRS = Path(__file__).resolve().parents[1] / "fixtures" / "hh_pairs.jsonl"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made, _ = create_workspace(tmp_path_factory.mktemp("policies") / "ws")
    with made.store() as store:
        import_file(store, "hh-rlhf", PAIRS, "base", "helpful")
        register(made, store, "pm", tiny_model(PMP_MODEL), kind="preference_model")
    return made


@pytest.fixture
def store(workspace: Workspace) -> Iterator[Store]:
    with workspace.store() as opened:
        yield opened


def test_a_policy_beside_its_base_in_the_sandbox(workspace: Workspace, store: Store) -> None:
    found = compare_policies(
        workspace, store, "base", "base", ["pm"], prompts=12, max_response_tokens=40, seed=1, is_sandbox=True
    )
    evaluation = found.evaluation
    assert evaluation.prompts == 12
    assert evaluation.win_rates["gold"].value == 0.5  # against itself, with the same seed
    assert set(evaluation.modes) <= {"helpful", "red_team"}
    assert evaluation.people is None
    assert evaluation.logp_accuracy is not None
    assert evaluation.logp_accuracy.policy == evaluation.logp_accuracy.base
    assert set(evaluation.logp_accuracy.ceilings) == {"pm"}
    kept = {row.metric for row in store.eval_results()}
    assert {"policy_eval/entropy", "policy_eval/logp_accuracy", "policy_eval/kl"} <= kept


def test_best_of_n_in_the_sandbox(workspace: Workspace, store: Store) -> None:
    found = best_of(
        workspace,
        store,
        "base",
        "pm",
        [],
        ["base"],
        prompts=6,
        samples=8,
        beside=4,
        max_response_tokens=40,
        seed=1,
        is_sandbox=True,
    ).evaluation
    assert [point.n for point in found.best] == [1, 2, 4, 8]
    scores = [point.scores["pm"].value for point in found.best]
    assert scores == sorted(scores)
    assert found.point(8).scores["pm"].value > found.point(1).scores["pm"].value
    [beside] = found.policies
    assert beside.differences["pm"].value < 0  # one reply is no match for the best of four
    assert beside.kl is not None
    assert abs(beside.kl.value) < 1e-3


def test_prompts_are_held_out(store: Store) -> None:
    known = {pair.context for pair in store.pairs()}
    fresh = sandbox_prompts(store, 20, 0)
    assert not known & set(fresh.contexts)
    assert fresh.gold is not None
    real = prompts_of_pairs(split(stored_pairs(store), 0.5).held_out, 20)
    assert set(real.contexts) <= known
    assert (real.gold, len(set(real.contexts))) == (None, len(real.contexts))
    trained_on = set(draw_prompts(world(), 0, 20))  # what a run with this seed would draw
    assert not trained_on & set(fresh.contexts)


def test_prompts_from_the_tiny_model(workspace: Workspace) -> None:
    made = run_prompts(workspace, PromptsRun(model=Path("base"), count=8, shots=0, most_tries=20))
    lines = [json.loads(line) for line in Path(made["file"]).read_text("utf-8").splitlines()]
    assert made["kept"] == len(lines) == 8
    assert made["candidates"] >= 8
    with pytest.raises(ConfigError, match="exists already"):
        run_prompts(workspace, PromptsRun(model=Path("base"), count=8, shots=0, most_tries=20))


def test_distillation_in_the_sandbox(workspace: Workspace, store: Store) -> None:
    run = DistillRun(
        name="distilled",
        teacher=Path("base"),
        prompt=Path(EXAMPLE_PROMPT),
        sandbox_dialogues=24,
        held_out_texts=8,
        texts_per_step=4,
        learning_rate=1e-3,
        device="cpu",
    )
    result = run_distillation(workspace, run)
    assert result["snapshot"] == "distilled"
    assert store.snapshot("distilled").path != store.snapshot("base").path
    assert result["kl_a_token_after"]["value"] < result["kl_a_token_before"]["value"]
    replies = result["replies"]
    assert abs(replies["prompted"]["kl"]["value"]) < 1e-3  # the teacher is at 0 from itself
    assert replies["teacher"]["kl"]["value"] > 0
    assert set(replies["gold_differences"]) == {"prompted less teacher", "student less prompted"}
    with pytest.raises(ConfigError, match="'distilled' is there already"):
        run_distillation(workspace, run)
    with pytest.raises(DataError, match="4 texts leave none"):
        run_distillation(workspace, run.model_copy(update={"name": "other", "sandbox_dialogues": 4}))
    assert not list(workspace.runs.glob("distill-other-*"))


def test_what_cannot_be_looked_at_is_said_before_the_training(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"role": "user", "text": "please " * 143}, {"role": "assistant", "text": "Certainly."}]
    prompt = tmp_path / "prompt.json"
    prompt.write_text(json.dumps(rows), encoding="utf-8")  # 440 of the window's 512 tokens, a reply has 80
    run = DistillRun(
        name="crowded",
        teacher=Path("base"),
        prompt=prompt,
        sandbox_dialogues=12,
        held_out_texts=4,
        texts_per_step=4,
        device="cpu",
    )
    trained = distillation.train_distillation

    def told_before(*arguments: Any, **more: Any) -> DistillResult:
        assert "cannot be set side by side" in caplog.text
        return trained(*arguments, **more)

    monkeypatch.setattr(distillation, "train_distillation", told_before)
    result = run_distillation(workspace, run)
    assert result["replies"] is None
    assert "which leaves no room for a question" in result["replies_note"]
    assert result["kl_a_token_after"] is not None
