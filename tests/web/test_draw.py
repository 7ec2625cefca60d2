"""Snapshots, sides and seeds are drawn by weight, and the order by a fair coin."""

from __future__ import annotations

import random

import pytest

from prefloop.errors import StateError
from prefloop.schema import Mode, SamplingSettings, Snapshot, SnapshotShare, Study, Tranche
from prefloop.web.draw import draw_pair, pending_response

ONE, TWO, THREE = (Snapshot(name=name, hash=name, path=name) for name in ("one", "two", "three"))
KNOWN = {snapshot.id: snapshot for snapshot in (ONE, TWO, THREE)}
DRAWS = 20_000


def a_study(compare: str, *weights: tuple[Snapshot, float]) -> Study:
    shares = tuple(SnapshotShare(snapshot_id=snapshot.id, weight=weight) for snapshot, weight in weights)
    return Study.model_validate(
        {"name": "s", "mode": Mode.HELPFUL, "tranche": Tranche.BASE, "snapshots": shares, "compare": compare}
    )


def shares_of(study: Study) -> dict[tuple[str, str], float]:
    chance = random.Random(3)
    counts: dict[tuple[str, str], int] = {}
    for _ in range(DRAWS):
        first, second = draw_pair(study, KNOWN, chance)
        counts[first.name, second.name] = counts.get((first.name, second.name), 0) + 1
    return {pair: count / DRAWS for pair, count in counts.items()}


def test_any_draws_each_side_alone() -> None:
    shares = shares_of(a_study("any", (ONE, 1.0), (TWO, 3.0)))
    # 1/4 and 3/4 on each side: 1/16, 3/16, 3/16, 9/16; four standard errors of 20,000 draws are at most 0.014
    for pair, expected in {("one", "one"): 1, ("one", "two"): 3, ("two", "one"): 3, ("two", "two"): 9}.items():
        assert shares[pair] == pytest.approx(expected / 16, abs=0.014)


def test_distinct_never_shows_one_twice_and_has_no_favourite_side() -> None:
    shares = shares_of(a_study("distinct", (ONE, 1.0), (TWO, 1.0), (THREE, 8.0)))
    assert all(first != second for first, second in shares)
    for first, second in shares:
        assert shares[first, second] == pytest.approx(shares[second, first], abs=0.014)
    # First three (0.8) then one or two (1/2 each), or one (0.1) then three (8/9), and so on:
    # {one, three} in 0.8 / 2 + 0.1 * 8 / 9 = 0.4889 of the pairs
    assert shares["one", "three"] + shares["three", "one"] == pytest.approx(0.4889, abs=0.015)


def test_too_few_snapshots_are_named() -> None:
    with pytest.raises(StateError, match="has 1 snapshots that can answer and needs 2"):
        draw_pair(a_study("distinct", (ONE, 1.0)), KNOWN, random.Random(0))
    with pytest.raises(StateError, match="has 0 snapshots that can answer and needs 1"):
        draw_pair(a_study("any"), KNOWN, random.Random(0))


def test_a_retired_snapshot_answers_no_more() -> None:
    known = {**KNOWN, ONE.id: ONE.model_copy(update={"state": "retired"})}
    study = a_study("any", (ONE, 100.0), (TWO, 1.0))
    assert {draw_pair(study, known, random.Random(seed))[0].name for seed in range(20)} == {"two"}


def test_a_study_that_sets_sampling_overrides_the_snapshots_own() -> None:
    own, of_study = SamplingSettings(temperature=0.3), SamplingSettings(temperature=0.9)
    snapshot = ONE.model_copy(update={"sampling": own})
    study = a_study("any", (ONE, 1.0))
    assert pending_response(study, snapshot, random.Random(0)).sampling == own
    setting = study.model_copy(update={"sampling": of_study})
    assert pending_response(setting, snapshot, random.Random(0)).sampling == of_study
    seeds = {pending_response(study, snapshot, chance).seed for chance in [random.Random(1)] for _ in range(50)}
    assert len(seeds) == 50
