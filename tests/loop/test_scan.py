"""`prefloop eval scan` by the real command: folds, transfer, simulated judgments, interruption, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prefloop.cli import main
from prefloop.errors import ConfigError
from prefloop.loop.data import held_out_in_fold, some_of, split, stored_pairs
from prefloop.loop.round import create_workspace
from prefloop.loop.scan import ScanRun, scan_plan
from prefloop.store.formats import import_file
from prefloop.workspace import Workspace

PAIRS = Path(__file__).resolve().parents[1] / "fixtures" / "hh_pairs.jsonl"

TRANSFER = """
name = "transfer"
folds = 2
[run]
start = "pmp_sandbox_tiny"
held_out_share = 0.5
pairs_per_step = 8
[scans.Transfer]
setting = "mode"
values = ["helpful", "red_team"]
"""

CURVES = """
name = "curves"
seeds = [3, 4]
evaluation_pairs = 12
words = false
[run]
start = "pmp_sandbox_tiny"
sandbox_judgments = 40
pairs_per_step = 8
[scans."Data size"]
setting = "training_pairs"
values = [4, 8, 16]
fit = true
scores = true
[scans.Mix]
setting = "red_team_share"
values = [0.0, 0.5]
also = ["mix_pairs=8"]
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made, _ = create_workspace(tmp_path_factory.mktemp("scan") / "ws")
    turned = made.path / "turned.jsonl"  # the same openings asked by a red team: other words, sides turned round
    rows = [json.loads(line) for line in PAIRS.read_text(encoding="utf-8").splitlines()]
    swapped = [{side: row[other].replace("Human: ", "Human: Now: ") for side, other in SIDES.items()} for row in rows]
    turned.write_text("".join(json.dumps(row) + "\n" for row in swapped), encoding="utf-8")
    with made.store() as store:
        assert import_file(store, "hh-rlhf", PAIRS, "base", "helpful").imported == 24
        assert import_file(store, "hh-rlhf", turned, "base", "red_team").imported == 24
    return made


SIDES = {"chosen": "rejected", "rejected": "chosen"}


def run(workspace: Workspace, capsys: pytest.CaptureFixture[str], text: str, *words: str, code: int = 0) -> Any:
    file = workspace.path / "scan.toml"
    file.write_text(text, encoding="utf-8")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["eval", "scan", str(file), "--workspace", str(workspace.path), "--json", *words])
    printed = capsys.readouterr()
    assert ended.value.code == code, printed.err
    return json.loads(printed.out) if code == 0 else printed.err


def test_folds_test_every_conversation_once_and_resume(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    first = run(workspace, capsys, TRANSFER, "--html", str(page))
    helpful, red_team = first["scans"]["Transfer"]["points"]
    assert helpful["accuracy"]["all"]["n"] == red_team["accuracy"]["all"]["n"] == 48
    assert helpful["accuracy"]["red_team"]["n"] == 24
    assert helpful["training_pairs"] == 12  # half of 24, mean of both folds
    assert page.is_file()
    folder = Path(first["run"])
    trials = sorted((folder / "trials").iterdir())
    assert [file.suffix for file in trials] == [".json"] * 4, "models are not kept"

    again = "exists already; go on with --resume"
    assert again in run(workspace, capsys, TRANSFER, code=2)
    trials[2].unlink()
    kept = {file: file.stat().st_mtime_ns for file in trials if file.exists()}
    assert run(workspace, capsys, TRANSFER, "--resume") == first
    assert kept == {file: file.stat().st_mtime_ns for file in kept}, "finished trials are not trained again"

    more = workspace.path / "more.jsonl"
    more.write_text(
        '{"chosen": "\\n\\nHuman: new\\n\\nAssistant: a", "rejected": "\\n\\nHuman: new\\n\\nAssistant: b"}\n'
    )
    with workspace.store() as store:
        assert import_file(store, "hh-rlhf", more, "base", "helpful").imported == 1
    assert "are not the 49 of now" in run(workspace, capsys, TRANSFER, "--resume", code=2)


def test_simulated_judgments_have_a_curve_a_line_and_a_mix(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(workspace, capsys, CURVES)
    size, mix = result["scans"]["Data size"], result["scans"]["Mix"]
    assert [point["training_pairs"] for point in size["points"]] == [4, 8, 16]
    assert size["points"][0]["accuracy"]["all"]["clusters"] == 2  # seeds
    assert size["fit"]["line"]["slope"]["clusters"] == 2
    assert size["fit"]["over"] == "seeds"
    assert size["calibration"]["accuracy"]["n"] == 24
    assert [point["training_pairs"] for point in mix["points"]] == [8, 8]
    assert (Path(result["run"]) / "report.html").is_file()


def test_dry_run_lists_the_trainings(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    planned = run(workspace, capsys, CURVES.replace('"curves"', '"planned"'), "--dry-run")["trainings"]
    assert len(planned) == 10
    assert planned[0] == {"scan": "Data size", "value": 4, "seed": 3, "fold": 0}
    assert not list(workspace.runs.glob("scan-planned-*"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('setting = "mode"', 'setting = "moood"', "no such setting"),
        ('"red_team"]', '"red"]', "mode = 'red' is wrong"),
        ("folds = 2", "folds = 0", "folds"),
        ("[run]", "[run]\nsandbox_judgments = 4", "set folds to 1"),
        ('values = ["helpful", "red_team"]', "values = []", "values"),
        (
            "[scans.Transfer]",
            "[scans.Transfer]\nfit = true",
            "fit = true needs 3 different values, not 2",
        ),
        ("held_out_share = 0.5", "held_out_share = 0.0", "leaves"),
    ],
)
def test_what_cannot_be_scanned_is_said_at_once(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    text = TRANSFER.replace('name = "transfer"', 'name = "refused"').replace(old, new)
    assert said in run(workspace, capsys, text, code=2)
    assert not list(workspace.runs.glob("scan-refused-*"))


def test_one_fold_is_the_ordinary_split_and_windows_go_round(workspace: Workspace) -> None:
    with workspace.store() as store:
        pairs = stored_pairs(store)
    assert [p for p in pairs if held_out_in_fold(p, 0, 1, 0.3)] == split(pairs, 0.3).held_out
    for share, times in ((0.2, {1}), (0.3, {1, 2})):
        tested = {sum(held_out_in_fold(p, fold, 5, share) for fold in range(5)) for p in pairs}
        assert tested == times


def test_fewer_pairs_are_part_of_the_more(workspace: Workspace) -> None:
    with workspace.store() as store:
        pairs = stored_pairs(store)
    few, many = some_of(pairs, 5, seed=1), some_of(pairs, 12, seed=1)
    assert (len(few), len(many)) == (5, 12)
    assert all(pair in many for pair in few)
    assert few != some_of(pairs, 5, seed=2)
    assert some_of(pairs, 0) == some_of(pairs, 1000) == pairs


def test_values_are_checked_before_anything_is_trained() -> None:
    scan = ScanRun.load_values(
        {
            "run": {"start": "pmp_sandbox_tiny"},
            "scans": {"x": {"setting": "learning_rate", "values": [1e-3, -1.0]}},
        }
    )
    with pytest.raises(ConfigError, match="learning_rate"):
        scan_plan(scan)
