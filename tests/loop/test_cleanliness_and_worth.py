"""`prefloop eval cleanliness` and `eval worth` by the real command, on a few pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefloop.cli import main
from prefloop.errors import DataError, NotFoundError
from prefloop.evals import Trial, evaluate_scan
from prefloop.loop.round import create_workspace
from prefloop.loop.worth import plan_collection
from prefloop.schema import Message, PreferencePair
from prefloop.store.formats import import_file
from prefloop.workspace import Workspace

PAIRS = Path(__file__).resolve().parents[1] / "fixtures" / "hh_pairs.jsonl"
SETTINGS = """
name = "small"
flipped = [0.3]
folds = 2
gold_prompts = 3
gold_samples = 2
[run]
start = "pmp_sandbox_tiny"
held_out_share = 0.4
pairs_per_step = 8
"""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made, _ = create_workspace(tmp_path_factory.mktemp("cleanliness") / "ws")
    with made.store() as store:
        import_file(store, "hh-rlhf", PAIRS, "base", "helpful")
    return made


def test_every_treatment_is_trained_and_said(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "small.toml"
    file.write_text(SETTINGS, encoding="utf-8")
    arguments = ["eval", "cleanliness", str(file), "--workspace", str(workspace.path), "--json"]
    _succeeds(arguments)
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    names = [one["name"] for one in found["treatments"]]
    flipped = ["30% flipped", "30% flipped, suspected dropped", "30% flipped, suspected count less"]
    assert set(names) == {
        "as they are",
        "as they are, suspected dropped",
        "as they are, suspected count less",
        *flipped,
    }
    by_name = {one["name"]: one for one in found["treatments"]}
    assert by_name["30% flipped"]["flipped_left"] == pytest.approx(0.3, abs=0.05)
    assert by_name["30% flipped"]["beside"] == "as they are"
    assert by_name[flipped[1]]["pairs"] < by_name["30% flipped"]["pairs"]
    assert by_name["as they are"]["gold"]["n"] == 3
    assert len(found["suspicions"]) == 1
    chances = [one["chance_of_label"] for one in found["suspected_pairs"]]
    assert chances == sorted(chances)
    folder = Path(found["run"])
    assert "What each treatment is worth" in (folder / "report.html").read_text(encoding="utf-8")
    trials = {path.name: path.stat().st_mtime_ns for path in (folder / "trials").glob("*.json")}
    _succeeds([*arguments, "--resume"])  # nothing is trained again
    assert {path.name: path.stat().st_mtime_ns for path in (folder / "trials").glob("*.json")} == trials


def test_another_import_of_the_same_pairs_gives_the_same_flips_folds_and_numbers(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, _ = create_workspace(tmp_path / "other")
    with other.store() as store:
        import_file(store, "hh-rlhf", PAIRS, "base", "helpful")
    file = tmp_path / "again.toml"
    file.write_text(SETTINGS.replace("small", "again").replace("gold_prompts = 3", ""), encoding="utf-8")
    found: list[dict[str, Any]] = []
    for one in (workspace, other):
        _succeeds(["eval", "cleanliness", str(file), "--workspace", str(one.path), "--json"])
        found.append(json.loads(capsys.readouterr().out))
    mine, theirs = found
    doubted, again = ([{**pair, "comparison_id": ""} for pair in one.pop("suspected_pairs")] for one in found)
    assert doubted == again
    assert {**mine, "run": ""} == {**theirs, "run": ""}


def _succeeds(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0


def _scan(folder: Path, setting: str = "training_pairs") -> Path:
    share = {"low": 0.5, "high": 0.9, "n": 100, "clusters": 50}
    points = [
        {
            "value": pairs,
            "training_pairs": pairs,
            "parameters": 10,
            "accuracy": {"all": {"value": accuracy, **share}},
            "loss": {"value": 0.6, **share},
            "by_seed": {"0": accuracy},
        }
        for pairs, accuracy in ((250, 0.60), (500, 0.65), (1000, 0.70))
    ]
    scan = {"setting": setting, "seeds": [0], "folds": 1, "points": points}
    folder.mkdir()
    (folder / "scan.json").write_text(json.dumps({"Data": scan}), encoding="utf-8")
    return folder


def test_a_budget_becomes_comparisons_and_accuracy(tmp_path: Path) -> None:
    plan = plan_collection(_scan(tmp_path / "scan"), workers=5, hours=10, per_hour=20, price=12)
    # 50 hours: 1,000 comparisons for 600; twice the data is 0.05 more, so a point costs 120
    assert (plan.hours, plan.comparisons, plan.cost) == (50, 1000, 600)
    expected = plan.curves["Data"]
    assert (expected.comparisons_now, expected.comparisons_then) == (1000, 2000)
    assert expected.gain == pytest.approx(0.05)
    assert expected.accuracy_then.value == pytest.approx(0.75)
    assert expected.cost_per_point == pytest.approx(120)
    assert plan.judgments_to_see == {"55%": 785, "60%": 197, "65%": 88}
    short = plan_collection(tmp_path / "scan", workers=5, hours=10, per_hour=20, price=12, budget=120)
    assert (short.hours, short.comparisons) == (10, 200)
    far = plan_collection(tmp_path / "scan", workers=50, hours=10, per_hour=20, price=12)
    assert "11.0 times what was measured" in far.curves["Data"].note


def test_seeds_with_pairs_of_their_own_make_the_band_wide(tmp_path: Path) -> None:
    folder = _scan(tmp_path / "scan")
    scans = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
    scans["Data"]["seeds"] = [0, 1]
    for place, point in enumerate(scans["Data"]["points"]):
        point["accuracy"]["all"]["clusters"] = 2
        middle = point["by_seed"]["0"]
        point["by_seed"] = {"0": middle + 0.01 * (place - 1), "1": middle - 0.01 * (place - 1)}
    (folder / "scan.json").write_text(json.dumps(scans), encoding="utf-8")
    expected = plan_collection(folder, workers=5, hours=10, per_hour=20, price=12).curves["Data"]
    # with 1,000 pairs more, one doubling beyond the last point, the lines stand at 0.75 +- 0.02: t(1) 0.02 on each side
    assert expected.accuracy_then.high == pytest.approx(0.75 + 12.7062 * 0.02, rel=1e-3)


def test_seeds_that_share_held_out_pairs_have_the_band_of_their_conversations(tmp_path: Path) -> None:
    context = (Message(role="user", text="which"),)
    pairs = [
        PreferencePair(context=context, chosen="yes", rejected="no", conversation_id=str(number))
        for number in range(40)
    ]
    basic = {"fold": 0, "draw": 0, "parameters": 10, "pairs": pairs, "rejected": np.zeros(40)}
    trials = [
        Trial(value=count, seed=seed, training_pairs=count, chosen=np.where(np.arange(40) < right, 1.0, -1.0), **basic)
        for count, right in ((250, 24), (500, 26), (1000, 28))  # 0.60, 0.65, 0.70, exactly on a line
        for seed in (0, 1)
    ]
    scan = evaluate_scan("training_pairs", trials, is_fitted=True)
    assert scan.fit is not None
    (tmp_path / "scan.json").write_text(json.dumps({"Data": scan.model_dump(mode="json")}), encoding="utf-8")
    expected = plan_collection(tmp_path, workers=5, hours=10, per_hour=20, price=12).curves["Data"]
    last = scan.fit.band[-1].y
    assert (expected.accuracy_now.value, expected.accuracy_now.n) == (pytest.approx(last.value), 240)
    assert expected.accuracy_now.high - expected.accuracy_now.low == pytest.approx(last.high - last.low, rel=0.1)
    now, then = expected.accuracy_now, expected.accuracy_then
    assert then.high - then.low > now.high - now.low > 0.2  # points as if independent would have a band of 0
    assert expected.note == ""


def test_the_band_of_an_older_scan_is_said_to_be_too_narrow(tmp_path: Path) -> None:
    expected = plan_collection(_scan(tmp_path / "scan"), workers=5, hours=10, per_hour=20, price=12).curves["Data"]
    assert "too narrow; scan again with --resume" in expected.note


def test_seeds_of_which_a_training_failed_are_left_out(tmp_path: Path) -> None:
    folder = _scan(tmp_path / "scan")
    scans = json.loads((folder / "scan.json").read_text(encoding="utf-8"))
    scans["Data"]["seeds"] = [0, 1, 2]
    for place, point in enumerate(scans["Data"]["points"]):
        point["accuracy"]["all"]["clusters"] = 2 + (place < 2)
        point["by_seed"] |= {"1": point["by_seed"]["0"]} | ({"2": 0.9} if place < 2 else {})
    (folder / "scan.json").write_text(json.dumps(scans), encoding="utf-8")
    plan = plan_collection(folder, workers=5, hours=10, per_hour=20, price=12)
    assert plan.curves["Data"].gain == pytest.approx(0.05)  # both whole seeds rise by 0.05 with each doubling
    scans["Data"]["points"][0] |= {"by_seed": {"0": 0.6}}
    (folder / "scan.json").write_text(json.dumps(scans), encoding="utf-8")
    with pytest.raises(DataError, match="Of 3 seeds 1 have a model at every value"):
        plan_collection(folder, 5, 10, 20, 12)
    scans["Data"] |= {"points": [], "failed": [{"value": 250, "seed": 0, "fold": 0, "reason": "Step 1 has loss nan"}]}
    (folder / "scan.json").write_text(json.dumps(scans), encoding="utf-8")
    with pytest.raises(DataError, match="no curve to plan by: its 1 trainings failed"):
        plan_collection(folder, 5, 10, 20, 12)


def test_a_plan_without_a_curve_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no .*scan\.json"):
        plan_collection(tmp_path, 1, 1, 1, 1)
    with pytest.raises(DataError, match="no scan over training_pairs"):
        plan_collection(_scan(tmp_path / "mode", "mode"), 1, 1, 1, 1)
