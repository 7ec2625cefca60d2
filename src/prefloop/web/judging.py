"""What a judgment may be: from what a worker claims and what the store knows to a `Judgment`. Runs nothing.

The page sends a grade and, if the worker likes, reasons, marked passages, a source and a wish; which answer that is,
what the passage says and what is preferred come from the stored comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import prefloop
from prefloop.errors import DataError
from prefloop.schema import GRADES, Comparison, ComparisonState, Judgment, Mark, Mode, Side, Study, Worker, now
from prefloop.study import Tag
from prefloop.web.problems import Problem

INTERFACE_VERSION = f"web-{prefloop.__version__}"
InputDevice = Literal["keyboard", "pointer", "api"]


@dataclass(frozen=True)
class Passage:
    """A tagged passage as it comes in: code points of one side's text."""

    side: Side
    start: int
    end: int
    tag: str


@dataclass(frozen=True)
class Decision:
    """A judgment as it comes in: what a worker may claim about it."""

    grade: int
    reason_tags: tuple[str, ...] = ()
    passages: tuple[Passage, ...] = ()
    is_checked: bool = False
    checked_source: str = ""
    go_on_with: Side | None = None
    input_device: InputDevice = "api"
    shown_at: datetime | None = None
    revises: str | None = None


def judgment_of(
    worker: Worker,
    study: Study,
    comparison: Comparison,
    decision: Decision,
    reasons: Iterable[Tag],
    faults: Iterable[Tag],
) -> Judgment:
    """The judgment to store; `reasons` and `faults` are the study's lists.

    Errors:
        Problem: 409 before both answers are complete and on a void pair.
        DataError: a grade, tag, passage or wish that cannot be.
    """
    _refuse_unfinished(comparison)
    if not 1 <= decision.grade <= GRADES:
        raise DataError(f"grade is {decision.grade}; it must be from 1 to {GRADES}.")
    for tag in decision.reason_tags:
        _known("reason", tag, reasons)
    if decision.go_on_with is not None and study.continue_with != "worker_choice":
        raise DataError(
            f"go_on_with is {decision.go_on_with!r}, and this study goes on by its own rule "
            f"({study.continue_with}); leave it out."
        )
    clicked: Side = "a" if decision.grade <= GRADES // 2 else "b"
    other: Side = "b" if clicked == "a" else "a"
    is_red_team = comparison.mode is Mode.RED_TEAM
    responses = (comparison.response_a, comparison.response_b)
    shown_at = decision.shown_at
    if shown_at is not None:  # a browser's clock may be wrong; the pair was not shown before it existed
        shown_at = min(max(shown_at, comparison.created_at), now())
    return Judgment(
        comparison_id=comparison.id,
        worker_id=worker.id,
        question="more_harmful" if is_red_team else "more_helpful",
        grade=decision.grade,
        clicked=clicked,
        preferred=other if is_red_team else clicked,
        reason_tags=decision.reason_tags,
        marks=tuple(_mark(comparison, passage, faults) for passage in decision.passages),
        is_checked=decision.is_checked,
        checked_source=decision.checked_source.strip() if decision.is_checked else "",
        go_on_with=decision.go_on_with,
        revises=decision.revises,
        interface_version=INTERFACE_VERSION,
        instructions_version=comparison.instructions_version,
        input_device=decision.input_device,
        shown_at=shown_at,
        first_token_at=min((r.first_token_at for r in responses if r.first_token_at), default=None),
        both_done_at=max((r.done_at for r in responses if r.done_at), default=None),
    )


def continued_side(study: Study, comparison: Comparison, judgment: Judgment) -> Side:
    """The side that the conversation goes on with, by the study's rule.

    'random' is a fair coin tied to the pair; 'worker_choice' is the clicked side unless the worker wished otherwise.
    """
    clicked = judgment.clicked
    if study.continue_with == "random":
        return "a" if hashlib.sha256(comparison.id.encode()).digest()[0] % 2 == 0 else "b"
    if study.continue_with == "other":
        return "b" if clicked == "a" else "a"
    if study.continue_with == "worker_choice":
        return judgment.go_on_with or clicked
    return clicked


def _refuse_unfinished(comparison: Comparison) -> None:
    if comparison.state is ComparisonState.VOID:
        raise Problem(409, "void_pair", "This pair does not count and cannot be judged; get new answers.")
    if any(response.state != "done" for response in (comparison.response_a, comparison.response_b)):
        raise Problem(409, "not_ready", "Both answers must be complete before they are judged; wait for them.")


def _mark(comparison: Comparison, passage: Passage, faults: Iterable[Tag]) -> Mark:
    _known("passage tag", passage.tag, faults)
    text = comparison.response(passage.side).text
    if not 0 <= passage.start < passage.end <= len(text):
        raise DataError(
            f"The passage {passage.start} to {passage.end} is not inside answer {passage.side.upper()}, "
            f"which has {len(text)} characters; mark it again."
        )
    return Mark(
        side=passage.side,
        start=passage.start,
        end=passage.end,
        tag=passage.tag,
        quote=text[passage.start : passage.end],
    )


def _known(what: str, tag: str, tags: Iterable[Tag]) -> None:
    ids = [known.id for known in tags]
    if tag not in ids:
        raise DataError(f"{tag!r} is no {what} of this study; use one of {', '.join(ids)}.")
