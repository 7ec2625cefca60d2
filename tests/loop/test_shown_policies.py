"""Policies are evaluated as they are shown, on what nobody trained on; the tiny shipped models, in a workspace."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.loop.data import prompts_of, split, stored_pairs
from prefloop.loop.held_out import held_out
from prefloop.loop.policy_evaluation import best_of, compare_policies
from prefloop.loop.round import create_workspace
from prefloop.loop.runs import estimate_policy_run, run_policy
from prefloop.loop.snapshots import add, register
from prefloop.models.preference import PreferenceModel
from prefloop.sandbox import contrast_pairs, world
from prefloop.sandbox.tiny import EXAMPLE_PROMPT, PMP_MODEL, tiny_model
from prefloop.schema import HELD_OUT_SHARE
from prefloop.store import Store
from prefloop.store.formats import import_file
from prefloop.train.policy_settings import PolicyRun
from prefloop.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """300 pairs of the tiny world, PMs whose runs say what they held out, snapshots that are more than models."""
    torch.set_num_threads(1)
    made, _ = create_workspace(tmp_path_factory.mktemp("shown") / "ws")
    rows = [
        {
            "prompt": [{"role": message.role, "content": message.text} for message in pair.context],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in contrast_pairs(world(), 0, 300)
    ]
    file = made.path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with made.store() as store:
        import_file(store, "trl", file)
        for name, share in (("whole", 0.0), ("twentieth", 0.05), ("tenth", 0.1)):
            pm = PreferenceModel.load(tiny_model(PMP_MODEL))
            with torch.no_grad():
                pm.head.weight.mul_(1 + share)  # other content, another folder
            run = made.runs / f"preference-{name}"
            run.mkdir()
            (run / "config.json").write_text(json.dumps({"held_out_share": share}), encoding="utf-8")
            (run / "metrics.jsonl").touch()
            path = pm.save(run / "model")
            register(made, store, name, path, kind="preference_model", run_id=run.name)
        pm = PreferenceModel.load(tiny_model(PMP_MODEL))
        with torch.no_grad():
            pm.head.weight.fill_(3e38)  # finite, and its scores are not
        register(made, store, "broken", pm.save(made.path / "broken"), kind="preference_model")
        add(made, store, "best4", "base", best_of_k=4, picker="tenth")
        add(made, store, "polite", "base", prompt=EXAMPLE_PROMPT)
    return made


@pytest.fixture
def store(workspace: Workspace) -> Iterator[Store]:
    with workspace.store() as opened:
        yield opened


def compared(workspace: Workspace, store: Store, model: str, *pms: str, **more: Any) -> Any:
    values: dict[str, Any] = {"prompts": 24, "max_response_tokens": 40, "seed": 1, "is_sandbox": False}
    return compare_policies(workspace, store, model, "base", pms, **(values | more))


def test_a_best_of_four_beats_its_own_weights(workspace: Workspace, store: Store) -> None:
    found = compared(workspace, store, "best4", "tenth", is_sandbox=True).evaluation
    assert found.win_rates["tenth"].low > 0.5
    assert found.differences["tenth"].low > 0
    assert found.policy_shown == "the best of 4 by tenth"
    assert (found.kl, found.policy.entropy) == (None, None)
    assert "how likely best4 finds its own replies is not known" in found.kl_note.lower()
    assert found.kl_bound == pytest.approx(math.log(4) - 3 / 4)
    rows = {row.metric: row.value for row in store.eval_results(model_id=store.snapshot("best4").id)}
    assert rows["policy_eval/win_rate"] in (found.win_rates["tenth"], found.win_rates["gold"])
    assert "policy_eval/kl" not in rows


def test_an_example_prompt_moves_a_policy(workspace: Workspace, store: Store) -> None:
    found = compared(workspace, store, "polite", "tenth", is_sandbox=True).evaluation
    assert found.kl is not None
    assert found.kl.value > 0.1  # the policy is its weights behind a prompt, the reference the weights alone
    assert found.logp_accuracy is None
    against = compare_policies(
        workspace, store, "base", "polite", ["tenth"], prompts=8, max_response_tokens=40, seed=1, is_sandbox=True
    ).evaluation
    assert against.kl is None
    assert "its own are given after an example prompt" in against.kl_note


def test_best_of_n_of_what_is_shown(workspace: Workspace, store: Store) -> None:
    values: dict[str, Any] = {"prompts": 12, "samples": 4, "beside": 1, "max_response_tokens": 40, "seed": 1}
    found = best_of(workspace, store, "base", "tenth", [], ["best4"], is_sandbox=True, **values).evaluation
    [beside] = found.policies
    assert beside.differences["tenth"].value > 0  # the best of four against one
    assert beside.kl is None
    assert found.shown == {"best4": "the best of 4 by tenth"}


def test_what_takes_weights_alone_refuses_more(workspace: Workspace, store: Store) -> None:
    run = PolicyRun(
        policy=Path("best4"), preference_model=Path("tenth"), held_out_preference_model=Path("twentieth"), device="cpu"
    )
    with pytest.raises(ConfigError, match=r"'best4' is more than a model .*the best of 4.*made of: 'base'"):
        run_policy(workspace, run)
    with pytest.raises(ConfigError, match="given after an example prompt of"):
        estimate_policy_run(workspace, run.model_copy(update={"policy": Path("polite")}))


def test_pms_judge_what_they_have_not_seen(workspace: Workspace, store: Store) -> None:
    pairs = stored_pairs(store)
    wide, narrow = (split(pairs, share).held_out for share in (HELD_OUT_SHARE, 0.05))
    assert 0 < len(narrow) < len(wide)
    paths = {name: workspace.runs / f"preference-{name}" / "model" for name in ("whole", "twentieth", "tenth")}
    alone = held_out(workspace, store, pairs, {"tenth": paths["tenth"]})
    assert (list(alone.pairs), alone.notes) == (list(wide), ())
    less = held_out(workspace, store, pairs, paths)
    assert list(less.pairs) == list(narrow)
    assert [note.split()[0] for note in less.notes] == ["whole", "twentieth"]
    assert f"may have seen all {len(narrow)} comparisons" in less.notes[0]
    assert f"of {len(wide)} held-out comparisons the {len(narrow)} that it has not seen" in less.notes[1]

    found = compared(workspace, store, "base", "twentieth", prompts=300)
    assert found.evaluation.logp_accuracy.pairs == len(narrow)
    assert found.evaluation.prompts == len({pair.context for pair in narrow})
    assert len(found.notes) == 1


def test_a_broken_pm_and_none_at_all_are_named(workspace: Workspace, store: Store) -> None:
    with pytest.raises(ModelError, match=r"The preference model 'broken' gives the score (-?inf|nan)"):
        compared(workspace, store, "base", "tenth", "broken", is_sandbox=True)
    values: dict[str, Any] = {"prompts": 2, "samples": 4, "beside": 1, "max_response_tokens": 8, "seed": 1}
    with pytest.raises(ModelError, match=r"The preference model 'broken' gives the score (-?inf|nan)"):
        best_of(workspace, store, "base", "broken", [], [], is_sandbox=True, **values)
    with pytest.raises(ConfigError, match=r"name a preference model with --pm, .* --sandbox"):
        compared(workspace, store, "base")


def test_a_pm_that_reads_less_than_the_policy(workspace: Workspace, store: Store) -> None:
    contexts = prompts_of(split(stored_pairs(store), HELD_OUT_SHARE).held_out)
    renderer = PreferenceModel.load(tiny_model(PMP_MODEL)).renderer
    lengths = [len(renderer.context_ids(context[-1:])) for context in contexts]
    # a reply has 40 tokens and its end
    for name, tokens in (("short", max(lengths) + 40), ("shorter", min(lengths) + 40)):
        pm = PreferenceModel.load(tiny_model(PMP_MODEL), max_tokens=tokens)
        register(workspace, store, name, pm.save(workspace.path / name), kind="preference_model")
    all_of_them: dict[str, Any] = {"prompts": len(contexts), "max_response_tokens": 40, "seed": 1}
    left_out = lengths.count(max(lengths))
    found = compared(workspace, store, "base", "tenth", "short", **all_of_them)
    [note] = found.notes
    assert note.startswith(f"{left_out} of {len(contexts)} prompts are left out, because short reads")
    assert 0 < found.evaluation.prompts == len(contexts) - left_out
    assert set(found.evaluation.win_rates) == {"tenth", "short"}
    assert sum(part.prompts for part in found.evaluation.modes.values()) == found.evaluation.prompts

    values = {"samples": 4, "beside": 1, "is_sandbox": False, **all_of_them}
    picked = best_of(workspace, store, "base", "short", [], [], **values)
    assert picked.evaluation.prompts == found.evaluation.prompts
    assert picked.notes == (note,)
    with pytest.raises(DataError, match=r"shorter reads \d+ tokens, too few for the last turn of any of the"):
        compared(workspace, store, "base", "shorter", **all_of_them)
    add(workspace, store, "best2", "base", best_of_k=2, picker="short")
    shown = compared(workspace, store, "best2", "tenth", **all_of_them)
    assert shown.notes == (note,)  # the PM that picks has to read them too


def test_gold_watches_a_run_of_the_workspace(workspace: Workspace) -> None:
    run = PolicyRun(
        name="watched",
        policy=Path("base"),
        preference_model=Path("tenth"),
        held_out_preference_model=Path("twentieth"),
        gold=True,
        episodes=16,
        episodes_per_batch=8,
        epochs=1,
        minibatches=1,
        max_response_tokens=16,
        snapshots=1,
        workers=1,
        device="cpu",
    )
    result = run_policy(workspace, run)
    assert result["score_gold"]["n"] > 0
    assert "twentieth" not in str(result["notes"])  # settings are named, which a reader knows
    assert "held_out_preference_model was trained with 0.05" in result["notes"][0]
    rows = [json.loads(line) for line in (Path(result["run"]) / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["episodes"] for row in rows if "eval/score_gold" in row] == [0, 16]


def test_gold_knows_no_other_world(tmp_path: Path) -> None:
    made, _ = create_workspace(tmp_path / "ws")
    pairs = Path(__file__).resolve().parents[1] / "fixtures" / "hh_pairs.jsonl"
    with made.store() as store:
        import_file(store, "hh-rlhf", pairs, "base", "helpful")
        register(made, store, "pm", tiny_model(PMP_MODEL), kind="preference_model")
    run = PolicyRun(policy=Path("base"), preference_model=Path("pm"), held_out_preference_model=Path("pm"), gold=True)
    with pytest.raises(ConfigError, match="knows the tiny world alone, and"):
        run_policy(made, run)
