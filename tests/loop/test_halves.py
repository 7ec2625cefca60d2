"""A run's half of the conversations, also where its judgments are simulated."""

from __future__ import annotations

from pathlib import Path

from prefloop.loop.data import half_of
from prefloop.loop.runs import preference_data
from prefloop.store import Store
from prefloop.train.preference_settings import PreferenceRun


def test_simulated_judgments_fall_into_two_halves(sqlite_url: str) -> None:
    run = PreferenceRun(start=Path("unused"), sandbox_judgments=24)
    with Store.open(sqlite_url) as store:
        whole, a, b = (
            list(preference_data(store, run.model_copy(update={"half": half})).training) for half in (None, "a", "b")
        )
    assert len(a) + len(b) == len(whole) == 24
    assert min(len(a), len(b)) > 0
    assert a == [pair for pair in whole if half_of(pair) == "a"]
    assert b == [pair for pair in whole if half_of(pair) == "b"]
