"""Scans: accuracies, intervals, kinds, fits and differences against arithmetic by hand; the page of it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.evals import ScanFailure, Trial, evaluate_scan, write_scan_report
from prefloop.schema import Message, Mode, PreferencePair, Tranche
from prefloop.stats import fitted_line, line_over_runs, linear_fit, run_mean


def pair(number: int, mode: Mode = Mode.HELPFUL, tranche: Tranche = Tranche.BASE) -> PreferencePair:
    opening = Message(role="user", text=f"opening {number}")
    return PreferencePair(context=(opening,), chosen="yes", rejected="no", mode=mode, tranche=tranche)


def trial(differences: list[float], value: float | str = 1, seed: int = 0, **more: object) -> Trial:
    basic: dict[str, object] = {
        "value": value,
        "seed": seed,
        "fold": 0,
        "draw": 0,
        "training_pairs": 100,
        "parameters": 1000,
        "pairs": [pair(number) for number in range(len(differences))],
        "chosen": np.array(differences),
        "rejected": np.zeros(len(differences)),
    }
    return Trial(**(basic | more))  # type: ignore[arg-type]


def test_accuracy_by_kind_of_comparison() -> None:
    pairs = [pair(0), pair(1), pair(2, tranche=Tranche.ONLINE), pair(3, Mode.RED_TEAM)]
    evaluation = evaluate_scan("mode", [trial([1.0, -1.0, 0.0, 2.0], "helpful", pairs=pairs)])
    [point] = evaluation.points
    # right 1, 0, half, 1; red team has one tranche only, so it is no kind beside its mode
    assert {kind: value.value for kind, value in point.accuracy.items()} == {
        "all": 0.625,
        "helpful": 0.5,
        "red_team": 1.0,
        "helpful base": 0.5,
        "helpful online": 0.5,
    }
    assert point.accuracy["all"].n == point.accuracy["all"].clusters == 4
    # ln(1 + e^-1) = 0.3133, ln(1 + e) = 1.3133, ln 2 = 0.6931, ln(1 + e^-2) = 0.1269: mean 0.6117
    assert point.loss.value == pytest.approx(0.6117, abs=1e-4)


def test_seeds_with_pairs_of_their_own_give_students_interval() -> None:
    three = [trial([1.0] * right + [-1.0] * (10 - right), seed=s, draw=s) for s, right in enumerate((6, 7, 8))]
    [point] = evaluate_scan("training_pairs", three).points
    # mean 0.7, deviation 0.1, t(2) = 4.3027: half 4.3027 * 0.1 / sqrt(3) = 0.2484
    accuracy = point.accuracy["all"]
    assert (accuracy.value, accuracy.high) == (pytest.approx(0.7), pytest.approx(0.9484, abs=1e-4))
    assert (accuracy.n, accuracy.clusters) == (30, 3)
    assert point.by_seed == {0: 0.6, 1: 0.7, 2: 0.8}


def test_the_same_pairs_under_several_seeds_are_no_new_pairs() -> None:
    draws = np.random.default_rng(0).normal(0.3, 1, 200).tolist()
    once = evaluate_scan("mode", [trial(draws, "helpful")]).points[0].accuracy["all"]
    thrice = evaluate_scan("mode", [trial(draws, "helpful", seed=s) for s in range(3)]).points[0].accuracy["all"]
    assert thrice.clusters == 200
    assert thrice.high - thrice.low == pytest.approx(once.high - once.low, rel=0.1)


def test_known_chances_replace_the_one_judgment() -> None:
    one = trial([1.0, -1.0], probabilities=np.array([0.9, 0.6]))
    # right with 0.9; wrong about the one judgment, so right with 0.4
    assert evaluate_scan("mode", [one]).points[0].accuracy["all"].value == pytest.approx(0.65)


def test_the_regression_is_compared_pair_by_pair() -> None:
    one = trial([1.0, 1.0, -1.0, 1.0], words=np.array([1.0, -1.0, -1.0, -1.0]))
    [point] = evaluate_scan("mode", [one]).points
    assert point.words["all"].value == 0.25
    assert point.above_words["all"].value == 0.5


def test_a_line_over_the_logarithm() -> None:
    trials = [
        trial([1.0] * right + [-1.0] * (100 - right), value, seed=s, draw=s, training_pairs=value)
        for value, rights in ((100, (60, 62)), (200, (65, 67)), (400, (70, 72)))
        for s, right in enumerate(rights)
    ]
    evaluation = evaluate_scan("training_pairs", trials, is_fitted=True, has_scores=True)
    assert evaluation.fit is not None
    # 5 points of accuracy with each doubling, whatever the seed
    assert evaluation.fit.line.slope.value == pytest.approx(0.05 / math.log(2))
    assert (evaluation.fit.band[0].x, evaluation.fit.band[-1].x) == (pytest.approx(100), pytest.approx(400))
    assert evaluation.fit.band[0].y.value == pytest.approx(0.61)
    assert evaluation.calibration is not None
    assert evaluation.calibration.accuracy.value == pytest.approx(0.71)
    assert (evaluation.fit.over, evaluation.fit.line.slope.clusters) == ("seeds", 2)
    # both seeds' lines are the same but for a shift of 0.02, so the slope is exact and the band is t(1) 0.02 / 2 wide
    assert evaluation.fit.line.slope.high == pytest.approx(evaluation.fit.line.slope.value)
    first = evaluation.fit.band[0].y
    assert first.high - first.value == pytest.approx(12.7062 * 0.01, rel=1e-4)
    for values, said in (((0.0, 1.0, 2.0), "positive numbers, not 0"), ((1.0, 2.0), "3 different x, not 2")):
        without = evaluate_scan("red_team_weight", [trial([1.0], value) for value in values], is_fitted=True)
        assert without.fit is None
        assert said in without.not_fitted
    with pytest.raises(DataError, match="0 trials"):
        evaluate_scan("mode", [])


def test_trainings_that_failed_stand_in_no_number(tmp_path: Path) -> None:
    trials = [
        trial([1.0] * right + [-1.0] * (10 - right), value, seed=seed, draw=seed)
        for value, rights in ((1, (6, 7, 8)), (2, (7, 8)), (4, (8, 9, 9)))
        for seed, right in enumerate(rights)
    ]
    failed = [
        ScanFailure(value=2, seed=2, fold=0, reason="Step 3 has loss nan"),
        *(ScanFailure(value=8, seed=seed, fold=0, reason="Step 1 has loss inf") for seed in range(3)),
    ]
    scan = evaluate_scan("red_team_weight", trials, failed, is_fitted=True, has_scores=True)
    assert [point.value for point in scan.points] == [1, 2, 4]
    assert scan.points[1].by_seed == {0: 0.7, 1: 0.8}
    assert (scan.seeds, scan.whole_seeds, scan.is_over_seeds) == ((0, 1, 2), (0, 1), True)
    assert scan.fit is not None
    # the lines of the two whole seeds: 0.6, 0.7, 0.8 and 0.7, 0.8, 0.9 rise by 0.1 with each doubling
    assert scan.fit.line.slope.value == pytest.approx(0.1 / math.log(2))
    assert scan.fit.line.slope.clusters == 2
    one_left = [one for one in trials if one.seed != 1 or one.value != 2]
    without = evaluate_scan("red_team_weight", one_left, failed, is_fitted=True)
    assert "needs two with a model at every value, and 1 of 3 have one" in without.not_fitted
    none_left = evaluate_scan("red_team_weight", [], failed[1:], is_fitted=True, has_scores=True)
    assert (none_left.points, none_left.is_over_seeds, len(none_left.failed)) == ((), False, 3)
    page = write_scan_report({"lost": none_left, "kept": scan}, tmp_path / "scans.html", "Scans").read_text("utf-8")
    assert "8 preference models. Intervals are 95%, Student" in page
    assert "4 of 12 trainings failed" in page
    assert page.count("Step 1 has loss inf") == 6  # three in each section
    assert page.count("Step 3 has loss nan") == 1


def test_points_that_share_their_pairs_tell_less_than_they_seem_to() -> None:
    """200 worlds without any slope: pairs that are hard for all models move all points of a seed together."""
    covered, pooled = 0, 0
    for world in range(200):
        generator = np.random.default_rng(world)
        trials = []
        for seed in range(3):
            tilt = generator.normal(0, 0.06)  # what this seed's pairs do to the slope
            for place, value in enumerate((100, 200, 400, 800, 1600)):
                right = round(100 * (0.7 + tilt * (place - 2)))
                trials.append(trial([1.0] * right + [-1.0] * (100 - right), value, seed=seed, draw=seed))
        trials.sort(key=lambda one: one.value)
        fit = evaluate_scan("red_team_weight", trials, is_fitted=True).fit
        assert fit is not None
        covered += fit.line.slope.low <= 0 <= fit.line.slope.high
        y = [value for point in evaluate_scan("red_team_weight", trials).points for value in point.by_seed.values()]
        old = linear_fit(np.log([one.value for one in trials]), y).slope
        pooled += old.low <= 0 <= old.high
    # 95% of 200 are 190; fewer than 180 happens less than once in 100 times
    assert covered >= 180
    assert pooled < 160


def test_one_seed_has_a_line_over_its_conversations(tmp_path: Path) -> None:
    growing = [trial([1.0] * right + [-1.0] * (100 - right), value) for value, right in ((1, 60), (2, 65), (4, 70))]
    scan = evaluate_scan("red_team_weight", growing, is_fitted=True)
    fit = scan.fit
    assert fit is not None
    assert fit.over == "conversations"
    assert fit.line.slope.value == pytest.approx(0.05 / math.log(2))
    # of every pair the slope is c . right with c = (-1, 0, 1) / (2 ln 2): 10 pairs of 100 change from wrong to right,
    # mean 0.1 / (2 ln 2), standard error sqrt(0.1 * 0.9 / 100) / (2 ln 2) = 0.0216
    assert fit.line.slope.high - fit.line.slope.low == pytest.approx(2 * 1.984 * 0.0216, rel=0.15)
    assert fit.line.slope.clusters == 100
    page = write_scan_report({"x": scan}, tmp_path / "page.html", "x").read_text(encoding="utf-8")
    assert "resampled conversations" in page


def test_band_of_a_line_and_mean_of_runs() -> None:
    x, y = [0.0, 1.0, 2.0, 3.0], [0.0, 1.5, 1.5, 3.0]
    # mean x 1.5, Sxx 5, slope 4.5 / 5 = 0.9, intercept 0.15; residuals -0.15, 0.45, -0.45, 0.15: sum of squares 0.45,
    # variance 0.225; at the mean t(2) sqrt(0.225 / 4) = 4.3027 * 0.23717, at 0 the band is the intercept's interval
    middle, start = fitted_line(x, y, [1.5, 0.0])
    assert (middle.y.value, middle.y.high) == (pytest.approx(1.5), pytest.approx(1.5 + 1.0205, abs=1e-4))
    assert start.y == linear_fit(x, y).intercept
    with pytest.raises(DataError, match="2 of them"):
        run_mean([0.5], 10)


def test_lines_of_runs_by_hand() -> None:
    # slopes 1 and 2, values at 0: 0 and -1; mean slope 1.5, deviation 0.7071, t(1) = 12.7062: half 12.7062 * 0.5
    line, band = line_over_runs([0.0, 1.0, 2.0], [[0.0, 1.0, 2.0], [-1.0, 1.0, 3.0]], [1.0], n=6)
    assert (line.slope.value, line.slope.high) == (pytest.approx(1.5), pytest.approx(1.5 + 6.3531, abs=1e-4))
    assert (line.intercept.value, line.r_squared) == (pytest.approx(-0.5), pytest.approx(1.0))
    assert (band[0].y.value, band[0].y.low) == (pytest.approx(1.0), pytest.approx(1.0))  # where the lines cross


def test_the_page_has_curves_matrices_and_json(tmp_path: Path) -> None:
    values = ((100, 6), (200, 7), (400, 8))
    growing = [trial([1.0] * r + [-1.0] * (10 - r), v, training_pairs=v) for v, r in values]
    kinds = [pair(0), pair(1, Mode.RED_TEAM)]
    transfer = [
        trial([1.0, -1.0], "helpful", pairs=kinds, words=np.array([1.0, -1.0])),
        trial([-1.0, 1.0], "red_team", pairs=kinds, words=np.array([-1.0, 1.0])),
    ]
    scans = {
        "Data <size>": evaluate_scan("training_pairs", growing, is_fitted=True, has_scores=True),
        "Transfer": evaluate_scan("mode", transfer),
    }
    page = write_scan_report(scans, tmp_path / "scan.html", "A scan")
    text = page.read_text(encoding="utf-8")
    assert "Data &lt;size&gt;" in text
    for words in ("with each doubling", "Calibration at training_pairs 400", "above it", "clustered by conversation"):
        assert words in text
    written = json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    assert [section["title"] for section in written["sections"]] == list(scans)
