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
from prefloop.loop.scan import ScanRun, _Pairs, _unseen, scan_plan
from prefloop.schema import Message, PreferencePair, split_place
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

MODES = 'setting = "mode"\nvalues = ["helpful", "red_team"]'

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
        ('"red_team"]', '"helpful"]', "values 'helpful' and 'helpful' are the same mode"),
        (MODES, 'setting = "training_pairs"\nvalues = [8, 16, 8.0]', "values 8 and 8.0 are the same training_pairs"),
        (MODES, 'setting = "seed"\nvalues = [1, 2]', "seeds of the scan say it"),
        (MODES, MODES + '\nalso = ["seed = 3"]', "also sets seed, which the seeds of the scan set"),
        (MODES, 'setting = "held_out_share"\nvalues = [0.1, 0.2]', "all values are tested on the same comparisons"),
        (MODES, 'setting = "evaluate_every_steps"\nvalues = [1, 2]', "changes nothing that a scan measures"),
        (MODES, 'setting = "ranked_binary"\nvalues = [0, 1]', "is of ranked answers; set run.ranked_files"),
        (MODES, 'setting = "sandbox_judgments"\nvalues = [0, 40]', "set folds to 1"),
        (
            MODES,
            'setting = "sandbox_judgments"\nvalues = [0, 40]\nalso = ["sandbox_contrasts=9"]',
            "sandbox_contrasts and sandbox_judgments are set, and a run has one source",
        ),
    ],
)
def test_what_cannot_be_scanned_is_said_at_once(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], old: str, new: str, said: str
) -> None:
    text = TRANSFER.replace('name = "transfer"', 'name = "refused"').replace(old, new)
    assert said in run(workspace, capsys, text, code=2)
    assert not list(workspace.runs.glob("scan-refused-*"))


RANKED = """
name = "ranked"
words = false
[run]
start = "pmp_sandbox_tiny"
held_out_share = 0.3
pairs_per_step = 8
ranked_files = ["FILE"]
ranked_binary = false
[scans."Per question"]
setting = "ranked_pairs_per_question"
values = [1, 3]
[scans.Form]
setting = "ranked_binary"
values = [0, 1]
[scans.Files]
setting = "ranked_files"
values = ["FILE", "OTHER"]
"""


def test_settings_of_the_data_are_those_of_the_value(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    files = {"FILE": workspace.path / "ranked.jsonl", "OTHER": workspace.path / "other.jsonl"}
    openings: dict[str, list[str]] = {"FILE": [f"what is {n}" for n in range(12)], "OTHER": ["what is 3", "who is it"]}
    for name, file in files.items():
        rows = [{"question": one, "answers": ["a number", "no idea", "go away"]} for one in openings[name]]
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text = RANKED
    for name, file in files.items():
        text = text.replace(name, str(file))
    counts, scans = {}, run(workspace, capsys, text)["scans"]
    for title, scan in scans.items():
        counts[title] = [point["training_pairs"] for point in scan["points"]]
        tested = {point["accuracy"]["all"]["n"] for point in scan["points"]}
        assert len(tested) == 1, "all values are tested on the same pairs"
    learned = sum(split_place(one) < 0.7 for one in openings["FILE"])  # questions that are not held out
    assert 0 < learned < 12
    assert tested == {3 * (12 - learned)}
    assert counts["Per question"] == [learned, 3 * learned]
    assert counts["Form"] == [3 * learned, 6 * learned]  # A > B becomes two
    assert counts["Files"] == [3 * learned, 3 * sum(split_place(one) < 0.7 for one in openings["OTHER"])]


def test_simulated_judgments_beside_the_workspaces(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    text = TRANSFER.replace('"transfer"', '"judged"').replace("folds = 2", "words = false")
    text = text.replace(MODES, 'setting = "sandbox_judgments"\nvalues = [0, 30, 50]')
    points = run(workspace, capsys, text)["scans"]["Transfer"]["points"]
    with workspace.store() as store:
        training, held_out = split(stored_pairs(store), 0.5)
    assert [point["training_pairs"] for point in points] == [len(training), 30, 50]
    assert {point["accuracy"]["all"]["n"] for point in points} == {len(held_out)}


def test_nothing_that_is_tested_is_trained_on(workspace: Workspace) -> None:
    scan = ScanRun.load_values(
        {
            "run": {"start": "pmp_sandbox_tiny", "sandbox_judgments": 20},
            "scans": {"x": {"setting": "sandbox_judgments", "values": [20, 0, 30]}},
        }
    )
    plan = scan_plan(scan)
    with workspace.store() as store:
        pairs = _Pairs(store, scan, 0, stored_pairs(store))
        same, workspaces, more = (pairs.of_trial(trial) for trial in plan)
        assert same.held_out == workspaces.held_out == more.held_out
        assert [len(one.training) for one in (same, more)] == [20, 30]
    opening, reply, later = (
        Message(role=role, text=text) for role, text in (("user", "hi"), ("assistant", "hello"), ("user", "and now"))
    )
    first = PreferencePair(context=(opening,), chosen="a", rejected="b")
    second = first.model_copy(update={"context": (opening, reply, later)})
    other = first.model_copy(update={"context": (later,)})
    given = [first, second, other]
    assert _unseen(plan[2].run, plan[2].base, given, [first]) == [second, other]  # contexts are drawn one by one
    assert _unseen(plan[1].run, plan[1].base, given, [first]) == [other]  # conversations are held out whole


def test_a_value_that_diverges_is_noted_and_left_out(
    workspace: Workspace, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    page = tmp_path / "page.html"
    text = TRANSFER.replace('"transfer"', '"rates"').replace("folds = 2", "seeds = [0, 1]\nwords = false")
    text = text.replace(MODES, 'setting = "learning_rate"\nvalues = [1e38, 1e-4]\nalso = ["warmup_steps=0"]')
    result = run(workspace, capsys, text, "--html", str(page))
    scan = result["scans"]["Transfer"]
    assert [point["value"] for point in scan["points"]] == [1e-4]
    assert [(one["value"], one["seed"], one["fold"]) for one in scan["failed"]] == [(1e38, 0, 0), (1e38, 1, 0)]
    for one in scan["failed"]:
        assert one["reason"].startswith(("Step 2 has loss", "Step 3 has loss"))
        assert one["reason"] in page.read_text(encoding="utf-8")
        assert f"Transfer: 1e+38 (seed {one['seed']}, fold 0) failed and is left out. {one['reason']}" in caplog.text
    assert "2 of 4 trainings failed" in page.read_text(encoding="utf-8")
    trials = sorted((Path(result["run"]) / "trials").iterdir())
    assert [file.suffix for file in trials] == [".json"] * 4
    kept = [file.stat().st_mtime_ns for file in trials]
    assert run(workspace, capsys, text, "--resume") == result
    assert kept == [file.stat().st_mtime_ns for file in trials], "what failed is not trained again"


def test_a_scan_of_which_nothing_is_left_says_so(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    text = TRANSFER.replace('"transfer"', '"lost"').replace("folds = 2", "words = false")
    text = text.replace("held_out_share", "warmup_steps = 0\nlearning_rate = 1e38\nheld_out_share")
    said = run(workspace, capsys, text, code=2)
    assert "All 2 trainings of the scan failed (the first: Step" in said
    assert not list(workspace.runs.glob("scan-lost-*"))


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
