"""What cleanliness is worth, by hand: changes pair by pair, predictions, suspicion; and how many judgments it takes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.evals import Treated, evaluate_cleanliness, suspicion
from prefloop.schema import Message, PreferencePair
from prefloop.stats import judgments_to_see, worth_of_labels
from prefloop.train.lessons import Lessons


def _pairs(count: int) -> list[PreferencePair]:
    return [
        PreferencePair(
            context=(Message(role="user", text=f"question {i}"),),
            chosen=f"good {i}",
            rejected=f"bad {i}",
            conversation_id=f"c{i}",
        )
        for i in range(count)
    ]


def test_how_many_judgments_show_a_win_rate() -> None:
    # (1.959964 + 0.841621)^2 / 4 = 1.962220; over 0.05^2 = 784.9 and over 0.1^2 = 196.2
    assert judgments_to_see(0.55) == 785
    assert judgments_to_see(0.60) == 197
    assert judgments_to_see(0.45) == 785
    with pytest.raises(DataError, match="one half"):
        judgments_to_see(0.5)


def test_flipped_labels_are_worth_as_many_clean_ones_as_they_inform() -> None:
    # a fifth flipped: (1 - 0.4)^2 = 0.36, so 1,000 pairs count like 360
    assert worth_of_labels(0.05, 1000, 0.2, 1000) == pytest.approx(0.05 * math.log(0.36))
    assert worth_of_labels(0.05, 2000, 0.0, 1000) == pytest.approx(0.05 * math.log(2))
    with pytest.raises(DataError, match="below one half"):
        worth_of_labels(0.05, 1000, 0.5, 1000)


def test_changes_are_taken_pair_by_pair_and_held_against_predictions() -> None:
    held_out = _pairs(100)
    clean = np.where(np.arange(100) < 80, 1.0, -1.0)  # 80 right
    flipped = np.where(np.arange(100) < 70, 1.0, -1.0)  # ten of them lost, none won
    trained = [
        Treated("clean", "clean", 0, 400, 0.0, clean, np.full(5, 2.0)),
        Treated("20% flipped", "clean", 0, 400, 0.2, flipped, np.full(5, 1.5)),
        Treated("20% flipped, dropped", "20% flipped", 0, 360, 0.12, clean),
        Treated("workers weighted", "clean", 0, 400, None, clean),
    ]
    curve = [(100, 0.70), (200, 0.75), (400, 0.80)]  # 0.05 a doubling
    found = evaluate_cleanliness(trained, held_out, curve=curve)
    base, worse, mended, weighted = found.treatments
    assert (base.accuracy.value, worse.accuracy.value) == (0.8, 0.7)
    assert base.change is None
    assert worse.change is not None
    assert worse.change.value == pytest.approx(-0.1)
    assert -0.18 < worse.change.low < -0.1 < worse.change.high < -0.03  # ten of a hundred, not two shares apart
    assert found.curve is not None
    slope = 0.05 / math.log(2)
    assert found.curve.slope.value == pytest.approx(slope)
    assert worse.predicted is not None
    assert mended.predicted is not None
    assert worse.predicted.value == pytest.approx(slope * 2 * math.log(0.6))
    assert worse.predicted.low <= worse.predicted.value <= worse.predicted.high  # of a falling factor the ends change
    assert worse.predicted.low == pytest.approx(found.curve.slope.high * 2 * math.log(0.6))
    # 360 pairs with 12% wrong beside 400 with 20% wrong: ln(360/400) + 2 ln(0.76/0.6)
    assert mended.predicted.value == pytest.approx(slope * (math.log(0.9) + 2 * math.log(0.76 / 0.6)))
    assert mended.change is not None
    assert mended.change.value == pytest.approx(0.1)
    assert weighted.predicted is None
    assert worse.gold_change is not None
    assert worse.gold_change.value == pytest.approx(-0.5)


def test_without_three_sizes_nothing_is_predicted() -> None:
    trained = [Treated(name, "clean", 0, 10, 0.0, np.ones(4)) for name in ("clean", "other")]
    found = evaluate_cleanliness(trained, _pairs(4), curve=[(5, 0.6), (10, 0.7)])
    assert found.curve is None
    assert "three sizes" in found.curve_unknown
    assert found.treatments[1].predicted is None


def test_known_probabilities_are_what_accuracy_is_of() -> None:
    # right on a sure pair (0.9) and wrong on another (0.6): (0.9 + 0.4) / 2
    trained = [Treated("clean", "clean", 0, 10, 0.0, np.array([1.0, -1.0]))]
    found = evaluate_cleanliness(trained, _pairs(2), probabilities=[0.9, 0.6])
    assert found.treatments[0].accuracy.value == pytest.approx(0.65)


def test_suspicion_by_hand() -> None:
    found = suspicion(0.3, [True, True, False, True], [True, False, True, True])
    assert found.precision.value == pytest.approx(2 / 3)
    assert found.recall is not None
    assert found.recall.value == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="None of 2 pairs"):
        suspicion(0.3, [True, False], [False, False])


def test_weights_of_pairs_multiply_and_keep_the_mean() -> None:
    lessons = Lessons.of(_pairs(3), pair_weights=[1.0, 0.0, 3.0])
    assert [pair.chosen for pair in lessons.pairs] == ["good 0", "good 2"]
    assert lessons.weights.tolist() == [0.5, 1.5]
    with pytest.raises(DataError, match="2 weights do not fit 3"):
        Lessons.of(_pairs(3), pair_weights=[1.0, 1.0])
