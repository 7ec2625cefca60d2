"""Elo from judged pairs: by hand, what is left out, and the intervals' clusters."""

from __future__ import annotations

import math

import pytest

from prefloop.errors import DataError
from prefloop.evals.elo import evaluate_elo
from prefloop.schema import Message, PreferencePair


def pair(winner: str | None, loser: str | None, number: int = 0, **more: object) -> PreferencePair:
    facts = {"conversation_id": f"c{number}", "worker_id": f"w{number % 3}", "grade": 2} | more
    return PreferencePair(
        context=(Message(role="user", text="hello"),),
        chosen="one",
        rejected="other",
        chosen_snapshot_id=winner,
        rejected_snapshot_id=loser,
        **facts,  # type: ignore[arg-type]
    )


def judgments(new_wins: int, base_wins: int) -> list[PreferencePair]:
    wins = [("new", "base")] * new_wins + [("base", "new")] * base_wins
    return [pair(*sides, number) for number, sides in enumerate(wins)]


def test_by_hand() -> None:
    found = evaluate_elo(judgments(30, 10), "base")
    # wins 3 to 1: a lead of 400 * log10(3) = 190.85 points
    rating = found.table.ratings["new"]
    assert rating.value == pytest.approx(400 * math.log10(3), abs=1e-3)
    assert 0 < rating.low < rating.value < rating.high
    assert found.table.ratings["base"].value == 0
    assert found.judgments == 40
    assert found.dropped == {}


def test_swapping_every_judgment_turns_the_sign() -> None:
    pairs = judgments(25, 15)
    forward = evaluate_elo(pairs, "base").table.ratings["new"].value
    backward = evaluate_elo([p.swap() for p in pairs], "base").table.ratings["new"].value
    assert backward == pytest.approx(-forward)


def test_what_says_nothing_is_left_out_and_counted() -> None:
    noise = [
        pair("base", "new", 90, grade=4),
        pair("base", "new", 91, grade=5),
        pair("new", "new", 92),
        pair(None, "new", 93),
        pair("base", None, 94),
    ]
    found = evaluate_elo([*judgments(30, 10), *noise], "base")
    assert found.table == evaluate_elo(judgments(30, 10), "base").table
    assert found.dropped == {"weakest grade": 2, "the same snapshot": 1, "no snapshot": 2}


def test_a_pair_without_a_grade_counts() -> None:
    assert evaluate_elo([p.model_copy(update={"grade": None}) for p in judgments(3, 2)], "base").judgments == 5


def test_clusters_are_conversations_or_workers() -> None:
    by_conversation, by_worker = (
        evaluate_elo(judgments(30, 10), "base", cluster_by=label).table.ratings["new"]  # type: ignore[arg-type]
        for label in ("conversation", "worker")
    )
    assert by_conversation.value == by_worker.value
    assert by_conversation.clusters == 40
    assert by_worker.clusters == 3
    nobody = [p.model_copy(update={"worker_id": None}) for p in judgments(30, 10)]
    assert evaluate_elo(nobody, "base", cluster_by="worker").table.ratings["new"].clusters == 40


def test_results_are_rows_of_the_store() -> None:
    rows = evaluate_elo(judgments(30, 10), "base").results("round 1")
    assert {row.model_id for row in rows} == {"new", "base"}
    assert {row.metric for row in rows} == {"elo/rating"}
    assert rows[0].data == "round 1 anchor=base clusters=conversation"


def test_nothing_to_rate() -> None:
    with pytest.raises(DataError, match=r"No judgment compares two snapshots \(1 weakest grade\)"):
        evaluate_elo([pair("new", "base", grade=4)], "base")
    with pytest.raises(DataError, match="there were none"):
        evaluate_elo([], "base")
    with pytest.raises(DataError, match="anchor"):
        evaluate_elo(judgments(2, 2), "nobody")
