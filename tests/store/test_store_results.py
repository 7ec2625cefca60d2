"""Scores, rounds, evaluation results and the log."""

from __future__ import annotations

from typing import Any

import pytest

from prefloop.errors import DataError, StateError
from prefloop.schema import EvalResult, Interval, Round, Score
from prefloop.store import Store


def test_scores_are_kept_once(scene: Any) -> None:
    a, b = scene.done().response_a.id, scene.done().response_b.id
    first = [
        Score(response_id=a, preference_model_id="pm", value=0.1),
        Score(response_id=b, preference_model_id="pm", value=-2.5),
    ]
    assert scene.store.add_scores(first) == 2
    assert scene.store.add_scores([first[0].model_copy(update={"value": 9.0})]) == 0
    assert scene.store.scores("pm") == {a: 0.1, b: -2.5}
    assert scene.store.scores("other") == {}


def test_a_score_must_be_a_number_of_a_known_response(scene: Any) -> None:
    response = scene.done().response_a.id
    with pytest.raises(DataError, match="diverged"):
        scene.store.add_scores([Score(response_id=response, preference_model_id="pm", value=float("nan"))])
    with pytest.raises(StateError, match="refused"):
        scene.store.add_scores([Score(response_id="none", preference_model_id="pm", value=1.0)])
    assert scene.store.scores("pm") == {}


def test_a_round_keeps_every_version(store: Store) -> None:
    assert store.round() is None
    first = store.save_round(Round(number=1, facts={"pm": {"accuracy": 0.5}}))
    later = store.save_round(first.model_copy(update={"step": "policy", "facts": {"b": [1, None], "a": "é"}}))
    second = store.save_round(Round(number=2))
    assert store.round() == second
    assert store.round(1) == later
    assert store.round(3) is None
    assert [e.payload["step"] for e in store.events()] == ["created", "policy", "created"]


def test_evaluation_results_come_back_by_what_they_are(store: Store) -> None:
    def result(evaluation: str, model: str, metric: str) -> EvalResult:
        interval = Interval(value=0.7, low=0.6, high=0.8, n=100, clusters=20)
        return EvalResult(evaluation=evaluation, model_id=model, metric=metric, value=interval, data="held out")

    kept = [
        result("preference", "pm", "pm/accuracy"),
        result("elo", "new", "elo/rating"),
        result("elo", "base", "elo/rating"),
    ]
    store.add_eval_results(kept)
    assert store.eval_results() == kept
    assert store.eval_results("elo") == kept[1:]
    assert store.eval_results(model_id="base", metric="elo/rating") == kept[2:]
    broken = kept[0].model_copy(update={"id": "x", "value": Interval(value=0.0, low=float("nan"), high=1.0, n=0)})
    with pytest.raises(DataError, match="not a number"):
        store.add_eval_results([broken])


def test_the_log_takes_what_no_other_write_would(store: Store) -> None:
    store.log("ada", "page.opened", "study", {"seconds": 1.5})
    store.log("ada", "page.closed", "study")
    assert [(e.actor, e.verb, e.payload) for e in store.events()] == [
        ("ada", "page.opened", {"seconds": 1.5}),
        ("ada", "page.closed", {}),
    ]
