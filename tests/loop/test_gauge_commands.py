"""`prefloop eval optimisation` and `eval diagnosis` on a small run in a workspace, through the real commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.cli import main
from prefloop.errors import DataError
from prefloop.loop import diagnosis
from prefloop.loop.data import keep_pairs, kept_pairs
from prefloop.loop.diagnosis import learned_accuracy
from prefloop.loop.laboratory import Laboratory
from prefloop.loop.optimisation import policy_run
from prefloop.loop.round import create_workspace
from prefloop.models.preference import PreferenceModel
from prefloop.runs import RunFolder
from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model
from prefloop.schema import Message, PreferencePair
from prefloop.train.gauges import evaluated_replies, evaluation_prompts
from prefloop.train.policy_settings import PolicyRun
from prefloop.workspace import Workspace


class Bar(list[int]):
    def set_postfix(self, **_: Any) -> None: ...


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with one short policy run; its PM's own run lies beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    made, _ = create_workspace(tmp_path_factory.mktemp("gauges") / "w")
    laboratory = Laboratory(made.runs, lambda steps, **_: Bar(steps))
    pm = laboratory.preference_model("pm", laboratory.contrasts(0, 60), tiny_model(PMP_MODEL), pairs_per_step=10)
    prompts, evaluation = laboratory.prompts(0, 20, 12)
    run = PolicyRun(
        name="small",
        policy=tiny_model(CHAT_MODEL),
        preference_model=pm,
        held_out_preference_model=tiny_model(PMP_MODEL),
        episodes=32,
        episodes_per_batch=8,
        samples_per_prompt=2,
        epochs=1,
        minibatches=1,
        max_response_tokens=16,
        snapshots=4,
        workers=1,
        device="cpu",
    )
    first = laboratory.policy_run(run, prompts, evaluation)
    assert laboratory.policy_run(run, prompts, evaluation) == first  # finished: not made again
    torch.set_num_threads(before)
    return made


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(words))
    printed = capsys.readouterr()
    return int(ended.value.code or 0), printed.out, printed.err


def test_optimisation_of_a_run_by_name_with_one_pm_more(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--workspace", str(workspace.path), "--json"]
    code, out, _ = command(capsys, "eval", "optimisation", "small", "--pm", PMP_MODEL, *where)
    assert code == 0
    result = json.loads(out)
    (facts,) = result["runs"].values()
    assert facts["snapshots"] == 5
    assert set(facts["scorers"]) == {"train", "held_out", "gold", PMP_MODEL}
    # the same model under two names, read from the kept texts and from the sampled ids
    again, first = (facts["scorers"][name]["rise_at_end"] for name in (PMP_MODEL, "held_out"))
    assert again["value"] == pytest.approx(first["value"], abs=0.1)
    assert first["low"] < first["value"] < first["high"]
    assert Path(result["report"]).is_file()


def test_prompts_that_one_pm_more_cannot_read_are_left_out_of_all_snapshots(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept = PreferenceModel.load(tiny_model(PMP_MODEL))
    run = policy_run(workspace, "small")
    prompts = evaluation_prompts(run)
    replies = evaluated_replies(run)
    lengths = [
        len(kept.encode([prompts[place][-1], Message(role="assistant", text=rows[place].reply)]).ids)
        for place in range(len(prompts))
        for rows in replies.values()
    ]
    short = PreferenceModel.load(tiny_model(PMP_MODEL), max_tokens=max(lengths) - 1).save(tmp_path / "short")
    shorter = PreferenceModel.load(tiny_model(PMP_MODEL), max_tokens=5).save(tmp_path / "shorter")
    where = ["--workspace", str(workspace.path), "--json", "--html", str(tmp_path / "page.html")]
    code, out, err = command(capsys, "eval", "optimisation", "small", "--pm", str(short), *where)
    assert code == 0, err
    (facts,) = json.loads(out)["runs"].values()
    notes = [note for note in facts["notes"] if "left out of all snapshots" in note]
    assert [note.split()[:3] for note in notes] == [["1", "of", "12"]]
    assert str(short) in notes[0]
    assert facts["scorers"][str(short)]["rise_at_end"]["n"] == facts["scorers"]["train"]["rise_at_end"]["n"] == 11
    code, _, err = command(capsys, "eval", "optimisation", "small", "--pm", str(shorter), *where)
    assert code == 2
    assert "reads 5 tokens, and on each of the 12 prompts" in err


def test_diagnosis_of_a_run(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = command(capsys, "eval", "diagnosis", "small", "--workspace", str(workspace.path), "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["run"] == "small"
    page = Path(result["report"])
    facts = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    evidence = facts["evidence"]
    assert evidence["gold"] is None  # nobody asked
    assert evidence["learned"]["n"] == 30  # the second half of one epoch of 60 pairs
    assert evidence["reread"]["n"] == 60
    assert evidence["parameters"]["policy"] > 1_000_000
    assert "judged" in evidence["unknown"]


def test_kept_pairs_that_the_pm_could_not_read_are_counted(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_long_one(folder: Path) -> list[PreferencePair]:
        known = kept_pairs(folder)
        return [known[0].model_copy(update={"chosen": "please " * 600}), *known]

    monkeypatch.setattr(diagnosis, "kept_pairs", with_a_long_one)
    code, out, err = command(capsys, "eval", "diagnosis", "small", "--workspace", str(workspace.path), "--json")
    assert code == 0, err
    page = Path(json.loads(out)["report"])
    evidence = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))["evidence"]
    assert evidence["reread"]["n"] == 60
    assert evidence["unknown"]["pairs too long"].startswith("1 of 61 pairs kept by the PM's run do not fit its window")


def test_a_run_that_is_not_there_is_named(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    for what in ("optimisation", "diagnosis"):
        code, _, err = command(capsys, "eval", what, "nowhere", "--workspace", str(workspace.path))
        assert code == 2
        assert "No run is called 'nowhere'" in err
        assert "policy-small-" in err


def cut(file: Path) -> None:
    """As a full disk leaves it: the end of its last line is missing."""
    file.write_bytes(file.read_bytes()[:-20])


def garbled(file: Path) -> None:
    """A line of no sense in the third place."""
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:2], b"\xff\x00 garbage\n", *lines[2:]]))


def shortened(file: Path) -> None:
    """Without its last line."""
    file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("what", "name", "damage", "said"),
    [
        ("optimisation", "evaluations/episodes-00000008.jsonl", cut, "is damaged in line 12 (Invalid JSON"),
        ("optimisation", "evaluations/episodes-00000008.jsonl", shortened, "holds 11 replies to the 12 prompts of"),
        ("optimisation", "metrics.jsonl", garbled, "is damaged in line 3 ("),
        ("diagnosis", "metrics.jsonl", garbled, "is damaged in line 3 ("),
        ("diagnosis", "evaluations/prompts.jsonl", cut, "is damaged in line 12 (Invalid JSON"),
        ("diagnosis", "config.json", cut, "is damaged in line "),
    ],
)
def test_a_damaged_file_of_a_run_is_named_with_its_line(
    what: str,
    name: str,
    damage: Callable[[Path], None],
    said: str,
    workspace: Workspace,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (run,) = workspace.runs.glob("policy-small-*")
    copied = Path(shutil.copytree(run, tmp_path / run.name))
    damage(copied / name)
    code, _, err = command(capsys, "eval", what, str(copied), "--workspace", str(workspace.path))
    assert code == 2
    assert f"{copied / name} {said}" in err
    assert "put it back from a copy" in err or "delete that line" in err
    assert "Traceback" not in err


def test_accuracy_before_learning_is_read_from_the_first_epoch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"epochs": 2}', encoding="utf-8")
    folder = RunFolder(tmp_path)
    for step, accuracy in enumerate((0.1, 0.2, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0)):
        folder.log({"step": step, "preference/accuracy": accuracy, "preference/pairs": 4})
    found = learned_accuracy(tmp_path)
    assert found is not None
    assert found.value == 5 / 8  # the third and fourth of the first epoch's four steps: 2 and 3 of 4
    assert found.n == 8


def test_some_pairs_stay_beside_a_run(tmp_path: Path) -> None:
    pairs = Laboratory(tmp_path / "laboratory").contrasts(1, 30)
    folder = RunFolder(tmp_path)
    keep_pairs(folder, pairs, most=10)
    assert kept_pairs(tmp_path) == pairs[::3]
    assert kept_pairs(tmp_path / "elsewhere") == []
    odd = pairs[0].model_copy(update={"chosen": "one\u2028two\u0085three"})  # what some take for the end of a line
    keep_pairs(folder, [odd])
    assert kept_pairs(tmp_path) == [odd]
    (file,) = tmp_path.glob("*.jsonl")
    cut(file)
    with pytest.raises(DataError, match=f"{file} is damaged in line 1 .*; delete it to do without those pairs"):
        kept_pairs(tmp_path)


def test_a_shallow_model_is_made_once_and_loads(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path)
    judge = PreferenceModel.load(laboratory.shallow_pre_trained(2))
    assert judge.model.config.num_hidden_layers == 2
    assert len(judge.trunk.layers) == 2
