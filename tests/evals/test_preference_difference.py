"""Differences of two preference models: by hand, narrower than two intervals, on the pairs that both take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from prefloop.errors import DataError
from prefloop.evals import (
    PreferenceEvaluation,
    evaluate_preference,
    preference_differences,
    score_pairs,
    write_preference_reports,
)
from prefloop.schema import Message, Mode, PreferencePair


class Told:
    """Scores a reply by the number that the pair carries for this model: 'two;three' after the colon."""

    def __init__(self, place: int, refuses: str = "nothing") -> None:
        self._place, self._refuses = place, refuses

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        texts = [conversation[-1].text for conversation in conversations]
        if any(self._refuses in text for text in texts):
            raise DataError("It is longer than the window.")
        return [float(text.split(":")[1].split(";")[self._place]) for text in texts]


def pair(number: int, one: float, other: float, mode: Mode = Mode.HELPFUL, words: str = "") -> PreferencePair:
    """A pair whose chosen reply the two models put above the rejected one by `one` and `other`."""
    context = (Message(role="user", text=f"question {number}"),)
    return PreferencePair(context=context, chosen=f"{words}:{one};{other}", rejected=":0;0", mode=mode)


def both(pairs: Sequence[PreferencePair]) -> dict[str, PreferenceEvaluation]:
    return {name: evaluate_preference(Told(place), pairs) for place, name in enumerate(("one", "other"))}


def test_a_difference_by_hand() -> None:
    pairs = [pair(0, 1, -1), pair(1, 2, 2), pair(2, 0, 1, Mode.RED_TEAM), pair(3, -1, -1, Mode.RED_TEAM)]
    [found] = preference_differences(both(pairs), pairs)
    assert (found.one, found.other) == ("one", "other")
    # right: 1, 1, half, 0 against 0, 1, 1, 0
    assert {kind: value.value for kind, value in found.accuracy.items()} == {
        "all": 0.125,
        "helpful base": 0.5,
        "red_team base": -0.25,
    }
    assert (found.accuracy["all"].n, found.accuracy["all"].clusters) == (4, 4)
    # -log sigmoid: of 1 and -1 0.313262 and 1.313262, of 0 and 1 0.693147 and 0.313262; the others are equal
    assert found.loss.value == pytest.approx((0.313262 - 1.313262 + 0.693147 - 0.313262) / 4, abs=1e-6)
    [row] = [row for row in found.results("held-out 0.5") if row.data == "held-out 0.5 less other, helpful base"]
    assert (row.model_id, row.metric) == ("one", "preference_eval/accuracy_difference")


def test_what_both_get_wrong_cancels_out() -> None:
    draw = np.random.default_rng(0).random(400)
    # right together in 60%, one alone in 5%, neither in 35%
    pairs = [pair(n, 1 if u < 0.65 else -1, 1 if u < 0.60 else -1) for n, u in enumerate(draw)]
    evaluations = both(pairs)
    one, other = (evaluation.accuracy for evaluation in evaluations.values())
    assert one.low < other.high, "the two intervals overlap"
    [found] = preference_differences(evaluations, pairs)
    assert 0 < found.accuracy["all"].low < one.value - other.value < found.accuracy["all"].high
    turned = preference_differences(dict(reversed(evaluations.items())), pairs)[0].accuracy["all"]
    assert turned.value == -found.accuracy["all"].value


def test_groups_are_columns_and_every_two_models_a_row() -> None:
    pairs = [pair(0, 1, -1), pair(1, 1, 1)]
    three = both(pairs) | {"third": evaluate_preference(Told(0), pairs)}
    found = preference_differences(three, pairs, groups=["honest", "kind"])
    assert [(one.one, one.other) for one in found] == [("one", "other"), ("one", "third"), ("other", "third")]
    assert {kind: value.value for kind, value in found[0].accuracy.items()} == {"all": 0.5, "honest": 1.0, "kind": 0.0}
    assert preference_differences({"one": three["one"]}, pairs) == ()


def test_only_pairs_that_both_take_are_compared(tmp_path: Path) -> None:
    pairs = [pair(0, 1, -1, words="long"), pair(1, -1, 1), pair(2, 1, -1, words="huge"), pair(3, 1, 1)]
    scores = [score_pairs(Told(0, "huge"), pairs), score_pairs(Told(1, "long"), pairs)]
    assert [one.kept.tolist() for one in scores] == [[0, 1, 3], [1, 2, 3]]
    common = np.array([1, 3])
    found = {name: evaluate_preference(s.among(common), pairs) for name, s in zip("ab", scores, strict=True)}
    assert [(one.pairs, one.accuracy.value, one.dropped_pairs) for one in found.values()] == [(2, 0.5, 1), (2, 1.0, 1)]
    differences = preference_differences(found, [pairs[1], pairs[3]])
    assert differences[0].accuracy["all"].value == -0.5
    page = write_preference_reports(found, tmp_path / "page.html", differences=differences)
    assert "a less b" in page.read_text(encoding="utf-8")
    assert "a less b" in page.with_suffix(".json").read_text(encoding="utf-8")
    with pytest.raises(DataError, match="on 2 pairs and not on these 4"):
        preference_differences(found, pairs)
    with pytest.raises(DataError, match="none that every model takes"):
        evaluate_preference(scores[0].among(np.array([2])), pairs)


def test_what_nobody_stated_makes_no_slice(tmp_path: Path) -> None:
    pairs = [pair(0, 1, -1), pair(1, 1, 1)]
    evaluation = evaluate_preference(Told(0), pairs, unstated=("tranche", "mode", "mode and tranche"))
    assert not {"tranche", "mode", "mode and tranche"} & set(evaluation.slices)
    page = write_preference_reports({"one": evaluation}, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "helpful" not in page
    assert "tranche" not in page
