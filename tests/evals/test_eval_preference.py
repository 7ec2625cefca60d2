"""Evaluation of preference models: numbers by hand, recovery of what is planted, rows, the page."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from prefloop.errors import DataError
from prefloop.evals import evaluate_preference, fitted_temperature, write_preference_report
from prefloop.models.language import new_llama, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.schema import Message, PreferencePair, Tranche
from prefloop.store import Store


class Numbers:
    """Scores a reply by the number that it is written as, after an optional colon: 'xx:1.5' scores 1.5."""

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        return [float(conversation[-1].text.split(":")[-1]) for conversation in conversations]


def pair(chosen: str, rejected: str, conversation: str, **fields: object) -> PreferencePair:
    context = (Message(role="user", text="which"),)
    return PreferencePair(context=context, chosen=chosen, rejected=rejected, conversation_id=conversation, **fields)


PAIRS = [
    pair("x:2", "1", "one", grade=1, tranche=Tranche.BASE),  # right, chosen longer
    pair("1", "xx:3", "one", grade=8, tranche=Tranche.ONLINE, turn=2),  # wrong by 2, chosen shorter
    pair("1", "1", "two", grade=6, tranche=Tranche.BASE),  # a tie
    pair("x:5", "1", "three", tranche=Tranche.ONLINE, turn=7),  # right, chosen longer
]


def planted(conversations: int, temperature: float, seed: int = 0) -> list[PreferencePair]:
    """Two pairs a conversation whose choices follow 1 / (1 + exp(-difference / temperature))."""
    draw = np.random.default_rng(seed)
    pairs = []
    for number in range(conversations):
        for _ in range(2):
            one, two = draw.normal(size=2) * 2
            if draw.random() > 1 / (1 + math.exp(-(one - two) / temperature)):
                one, two = two, one
            pairs.append(pair(f"{one:.6f}", f"{two:.6f}", str(number)))
    return pairs


def test_numbers_by_hand() -> None:
    evaluation = evaluate_preference(Numbers(), PAIRS)
    assert (evaluation.pairs, evaluation.conversations, evaluation.dropped_pairs) == (4, 3, 0)
    assert evaluation.accuracy.value == 2.5 / 4  # right, wrong, tie, right
    assert evaluation.accuracy.n == 4
    assert evaluation.accuracy.clusters == 3
    # -log sigmoid of 1, -2, 0, 4: 0.313262 + 2.126928 + 0.693147 + 0.018150 = 3.151487
    assert evaluation.loss.value == pytest.approx(3.151487 / 4, abs=1e-6)
    assert evaluation.longer_reply.value == 2.5 / 4  # longer, shorter, equal, longer
    assert evaluation.shorter_reply.value == 1.5 / 4
    assert evaluation.above_length.value == 0.0
    assert {name: value.value for name, value in evaluation.slices["tranche"].items()} == {"base": 0.75, "online": 0.5}
    assert {name: value.value for name, value in evaluation.slices["turn"].items()} == {
        "1": 0.75,
        "2": 0.0,
        "5 and later": 1.0,
    }
    assert {name: value.n for name, value in evaluation.slices["grade"].items()} == {
        "much better": 2,
        "slightly better": 1,
        "no grade": 1,
    }
    # lengths + 1: 4/2 = 2.0, 2/5 = 0.4, 2/2 = 1, 4/2 = 2.0
    assert {name: value.value for name, value in evaluation.slices["chosen reply"].items()} == {
        "under 1/2 as long": 0.0,
        "about as long": 0.5,
        "5/4 to 2 times as long": 1.0,
    }
    # mean score (2+1 + 1+3 + 1+1 + 5+1) / 8 = 15/8; every pair's lower score is 1, so there is one threshold
    assert [(one.threshold, one.accuracy.value) for one in evaluation.above_threshold] == [(1 - 15 / 8, 2.5 / 4)]
    assert evaluation.differences == (1.0, -2.0, 0.0, 4.0)
    assert evaluation.unknown == (
        "No judgment names its worker (imports do not), so the agreement ceiling is unknown.",
    )
    assert evaluation.scores_by_tranche == {"base": (2.0, 1.0, 1.0, 1.0), "online": (1.0, 3.0, 5.0, 1.0)}
    assert [(worst.pair, worst.difference) for worst in evaluation.worst] == [(PAIRS[1], -2.0)]
    assert evaluation.expected_accuracy is None


def test_known_choice_probabilities_by_hand() -> None:
    evaluation = evaluate_preference(Numbers(), PAIRS, choice_probabilities=[0.9, 0.2, 0.7, 0.5])
    assert evaluation.expected_accuracy is not None
    assert evaluation.best_possible is not None
    assert evaluation.share_of_best is not None
    # right 0.9, wrong 1 - 0.2, tie 0.5, right 0.5; best 0.9, 0.8, 0.7, 0.5
    assert evaluation.expected_accuracy.value == pytest.approx((0.9 + 0.8 + 0.5 + 0.5) / 4)
    assert evaluation.best_possible.value == pytest.approx((0.9 + 0.8 + 0.7 + 0.5) / 4)
    assert evaluation.share_of_best.value == pytest.approx(0.7 / 0.9)  # (2.7 - 2) / (2.9 - 2)


def test_swapping_all_pairs_turns_accuracy_round() -> None:
    evaluation = evaluate_preference(Numbers(), [one.swap() for one in PAIRS])
    assert evaluation.accuracy.value == 1 - 2.5 / 4
    assert evaluation.longer_reply.value == 1.5 / 4


def test_planted_temperature_is_found() -> None:
    over = evaluate_preference(Numbers(), planted(1500, temperature=2.0))
    assert over.temperature is not None
    assert over.temperature.low < 2.0 < over.temperature.high
    assert over.temperature.low > 1.5
    assert over.calibration.calibration_error.value > 0.05
    calibrated = evaluate_preference(Numbers(), planted(1500, temperature=1.0))
    assert calibrated.temperature is not None
    assert calibrated.temperature.low < 1.0 < calibrated.temperature.high
    assert calibrated.calibration.calibration_error.value < over.calibration.calibration_error.value


def test_temperature_interval_covers_in_most_worlds() -> None:
    # 95% of 60 worlds are 57; fewer than 51 happens less than once in 600 times.
    covered = 0
    for seed in range(60):
        pairs = planted(120, temperature=1.5, seed=seed)
        differences = [float(one.chosen) - float(one.rejected) for one in pairs]
        found = fitted_temperature(differences, [one.conversation_id for one in pairs])
        assert found is not None
        covered += found.low <= 1.5 <= found.high
    assert covered >= 51


# 32 bits wide, as scores are: 64-bit numbers near 1e-308 would only test where numpy underflows
@given(st.lists(st.floats(-5, 5, width=32, allow_subnormal=False), min_size=2, max_size=20), st.floats(0.1, 10))
def test_temperature_scales_with_the_differences(differences: list[float], factor: float) -> None:
    names = list(range(len(differences)))
    found = fitted_temperature(differences, names)
    scaled = fitted_temperature([factor * value for value in differences], names)
    if found is not None and scaled is not None and found.value < 1e3:  # beyond, the root's own tolerance shows
        assert scaled.value == pytest.approx(factor * found.value, rel=1e-4)
        middle = [value / found.value for value in differences]
        slope = sum(value * expit(-value) for value in middle)
        assert slope == pytest.approx(0, abs=1e-5)  # the mean loss is flat at T


def test_no_temperature_where_none_is_best() -> None:
    assert fitted_temperature([1.0, 2.0], ["a", "b"]) is None  # all right: 0 would be best
    assert fitted_temperature([-1.0, -2.0, 0.5], ["a", "b", "c"]) is None  # no better than chance
    assert fitted_temperature([0.0, 0.0], ["a", "b"]) is None


def test_rows_are_kept(store: Store) -> None:
    evaluation = evaluate_preference(Numbers(), PAIRS, store=store, model_id="pm-1", data="held out")
    rows = store.eval_results(evaluation="preference", model_id="pm-1")
    by_name = {(row.metric, row.data): row.value for row in rows}
    assert by_name["preference_eval/accuracy", "held out"] == evaluation.accuracy
    assert by_name["preference_eval/accuracy", "held out tranche=online"] == evaluation.slices["tranche"]["online"]
    assert len(rows) == len(evaluation.results("pm-1"))


def test_page_and_numbers(tmp_path: Path) -> None:
    pairs = [*planted(50, 1.0), *PAIRS, pair("<script>1:0", "9", "last")]
    evaluation = evaluate_preference(Numbers(), pairs, choice_probabilities=[0.8] * len(pairs))
    path = write_preference_report(evaluation, tmp_path / "report.html", "pm-1", "held out")
    page = path.read_text(encoding="utf-8")
    for words in ("Preference model pm-1", "always the longer reply", "Accuracy by tranche", "fitted temperature"):
        assert words in page
    assert "&lt;script&gt;1:0" in page
    assert "<script>1:0" not in page
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert [section["title"] for section in facts["sections"]] == [
        "Accuracy",
        "Where it is good",
        "Calibration",
        "Scores",
        "Worst errors",
    ]


def test_page_of_a_perfect_model(tmp_path: Path) -> None:
    evaluation = evaluate_preference(Numbers(), [PAIRS[0], PAIRS[3]])
    page = write_preference_report(evaluation, tmp_path / "report.html", "pm").read_text(encoding="utf-8")
    assert "There is none." in page
    assert "No temperature is best" in page


def test_turns_dropped_to_fit_are_counted_and_both_sides_keep_one_context(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["which one is it"] * 20, 300)
    model = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=24, seed=0)
    scorer = PreferenceModel.from_language_model(save_model(model, tokenizer, tmp_path / "lm"), seed=0)
    before = [Message(role="user", text="which one"), Message(role="assistant", text="this one")]
    short = pair("this", "this which one is it this", "one")
    long = short.model_copy(update={"context": (*before, *short.context)})
    room = [
        scorer.encode([*long.context, Message(role="assistant", text=text)]) for text in (long.chosen, long.rejected)
    ]
    assert [one.dropped_turns for one in room] == [0, 2], "alone, the sides would be read in different contexts"
    evaluation = evaluate_preference(scorer, [long, short])
    assert evaluation.dropped_turns == 2
    assert evaluation.differences[0] == evaluation.differences[1]
    page = write_preference_report(evaluation, tmp_path / "report.html", "pm").read_text(encoding="utf-8")
    assert "2 oldest turns" in page
    assert evaluate_preference(Numbers(), PAIRS).dropped_turns is None


def test_pairs_beyond_the_window_are_dropped_and_counted(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["which one is it"] * 20, 300)
    model = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=24, seed=0)
    scorer = PreferenceModel.from_language_model(save_model(model, tokenizer, tmp_path / "lm"), seed=0)
    fits, long = pair("this", "that", "one"), pair("this " * 50, "that", "two")
    evaluation = evaluate_preference(scorer, [fits, long, fits], choice_probabilities=[0.9, 0.1, 0.9])
    assert (evaluation.pairs, evaluation.dropped_pairs, evaluation.dropped_turns) == (2, 1, 0)
    assert evaluation.best_possible is not None
    assert evaluation.best_possible.value == pytest.approx(0.9)  # the probabilities of the kept pairs
    assert evaluation.expected_accuracy is not None
    assert evaluation.expected_accuracy.value == pytest.approx(0.9 if evaluation.accuracy.value == 1 else 0.1)
    with pytest.raises(DataError, match="window"):
        evaluate_preference(scorer, [long])


def test_refusals() -> None:
    with pytest.raises(DataError, match="no pairs"):
        evaluate_preference(Numbers(), [])
    with pytest.raises(DataError, match="3 choice probabilities do not fit 4 pairs"):
        evaluate_preference(Numbers(), PAIRS, choice_probabilities=[0.5] * 3)
    with pytest.raises(DataError, match="not finite"):
        evaluate_preference(Numbers(), [pair("nan", "1", "one")])
