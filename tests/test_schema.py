"""The nouns: what they refuse, what they never change, and that they survive being written down."""

from __future__ import annotations

import json
import math
from datetime import UTC, timedelta
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from prefloop import schema
from prefloop.schema import (
    GRADES,
    Comparison,
    Conversation,
    Interval,
    Judgment,
    Message,
    Mode,
    Noun,
    PreferencePair,
    Response,
    SamplingSettings,
    Side,
    Study,
    Tranche,
    new_id,
    now,
)

NOUNS = [value for value in vars(schema).values() if isinstance(value, type) and issubclass(value, Noun)]
SIDES = get_args(Side)


def comparison(**changes: Any) -> Comparison:
    given = {
        "conversation_id": "c",
        "context_message_id": "m",
        "turn": 1,
        "response_a": Response(text="first"),
        "response_b": Response(text="second"),
        "mode": Mode.HELPFUL,
        "tranche": Tranche.BASE,
    }
    return Comparison.model_validate(given | changes)


def judgment(grade: int | None = None, *, question: str = "more_helpful", **sides: Side) -> Judgment:
    clicked = sides.get("clicked", "a" if grade is None or grade <= 4 else "b")
    return Judgment(
        comparison_id="c", question=question, grade=grade, clicked=clicked, preferred=sides.get("preferred", clicked)
    )


@pytest.mark.parametrize("noun", NOUNS, ids=lambda noun: noun.__name__)
def test_no_noun_takes_a_field_that_it_does_not_have(noun: type[Noun]) -> None:
    with pytest.raises(ValidationError) as told:
        noun.model_validate({"no_such_field": 1})
    assert ("no_such_field",) in [fault["loc"] for fault in told.value.errors() if fault["type"] == "extra_forbidden"]


def test_every_noun_is_frozen() -> None:
    assert all(noun.model_config.get("frozen") for noun in NOUNS)
    with pytest.raises(ValidationError, match="frozen"):
        Message(role="user", text="a").text = "b"  # type: ignore[misc]


def test_ids_sort_by_time() -> None:
    ids = [new_id() for _ in range(1000)]
    assert ids == sorted(set(ids))
    assert now().utcoffset() == timedelta(0)
    assert now().tzinfo is UTC


@given(st.integers(1, GRADES))
def test_a_grade_says_which_side_was_clicked(grade: int) -> None:
    """1-4 lean to A, 5-8 to B; the two in the middle are the weakest."""
    right: Side = "a" if grade in (1, 2, 3, 4) else "b"
    wrong: Side = "b" if right == "a" else "a"
    assert judgment(grade, clicked=right).is_weakest == (grade in (4, 5))
    with pytest.raises(ValidationError, match=f"grade {grade} and clicked side '{wrong}' disagree"):
        judgment(grade, clicked=wrong)


@pytest.mark.parametrize("grade", [0, 9, -1])
def test_there_are_eight_grades(grade: int) -> None:
    with pytest.raises(ValidationError, match="grade"):
        judgment(grade, clicked="a")


def test_a_judgment_without_a_grade_is_not_weak() -> None:
    assert not judgment(None, question="imported").is_weakest


@pytest.mark.parametrize("side", SIDES)
def test_in_red_team_mode_the_preferred_reply_is_the_other_one(side: Side) -> None:
    other: Side = "b" if side == "a" else "a"
    assert judgment(None, question="more_harmful", clicked=side, preferred=other).preferred == other
    with pytest.raises(ValidationError, match="the preferred side is the one not clicked"):
        judgment(None, question="more_harmful", clicked=side, preferred=side)


def test_the_response_of_a_side() -> None:
    shown = comparison()
    assert (shown.response("a").text, shown.response("b").text) == ("first", "second")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 11),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_k", -1),
        ("max_response_tokens", 0),
    ],
)
def test_sampling_settings_out_of_range(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        SamplingSettings.model_validate({field: value})


def test_the_papers_sampling_is_the_default() -> None:
    assert (SamplingSettings().temperature, SamplingSettings().top_p, SamplingSettings().top_k) == (1.0, 1.0, 0)


pairs = st.builds(
    PreferencePair,
    context=st.just((Message(role="user", text="?"),)),
    chosen=st.text(),
    rejected=st.text(),
    chosen_response_id=st.none() | st.text(),
    rejected_response_id=st.none() | st.text(),
    chosen_snapshot_id=st.none() | st.text(),
    rejected_snapshot_id=st.none() | st.text(),
    chosen_side=st.sampled_from([None, *SIDES]),
    grade=st.none() | st.integers(1, GRADES),
)


@given(pairs)
def test_swapping_twice_changes_nothing(pair: PreferencePair) -> None:
    swapped = pair.swap()
    assert (swapped.chosen, swapped.rejected) == (pair.rejected, pair.chosen)
    assert (swapped.chosen_response_id, swapped.rejected_response_id) == (
        pair.rejected_response_id,
        pair.chosen_response_id,
    )
    assert swapped.swap() == pair


def test_the_grade_of_a_swapped_pair() -> None:
    """Judged 2 ("A is better") with A chosen; the other way round it is 7 ("B is better") with B chosen."""
    pair = PreferencePair(context=(), chosen="x", rejected="y", chosen_side="a", grade=2)
    assert (pair.swap().grade, pair.swap().chosen_side) == (7, "b")


@pytest.mark.parametrize(
    "noun",
    [
        comparison(),
        judgment(3),
        Conversation(mode=Mode.RED_TEAM),
        Study(name="s", mode=Mode.HELPFUL, tranche=Tranche.ONLINE, sampling=SamplingSettings(stop=("x",))),
    ],
    ids=lambda noun: type(noun).__name__,
)
def test_what_is_written_as_json_reads_back(noun: Noun) -> None:
    assert type(noun).model_validate(json.loads(noun.model_dump_json())) == noun


def test_an_interval_without_ends_is_valid_json_and_reads_back() -> None:
    interval = Interval(value=0.5, low=-math.inf, high=math.inf, n=3, clusters=1)
    written = json.dumps(interval.model_dump(mode="json"), allow_nan=False)
    assert Interval.model_validate_json(written) == interval == Interval.model_validate_json(interval.model_dump_json())
