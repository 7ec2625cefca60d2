"""Ranked answers to one question, for PM pre-training (paper 3.1, A.2): read, and turned into comparisons.

They are nobody's judgments of a study, so they are never stored: a run reads them from their files. JSON lines are
read here, Stack Exchange's XML in `stack_exchange`. Knows no model.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from prefloop.errors import DataError
from prefloop.schema import Message, PreferencePair
from prefloop.store.database import checked_text
from prefloop.store.formats.files import Row, check_exists, field, json_rows, kind_of

GOOD, BAD = "GOOD: ", "BAD: "


class Answer(NamedTuple):
    """A text and how good it is; only the order of scores counts."""

    text: str
    score: float


class RankedQuestion(NamedTuple):
    """A question and two or more answers to it, in any order."""

    id: str
    text: str
    answers: list[Answer]


def read_ranked(path: Path) -> Iterator[RankedQuestion]:
    """The questions of a file with at least two answers: Stack Exchange's Posts.xml (or .xml.gz), else JSON lines.

    A JSON line is {"question": text, "answers": [...]}: texts, best first, or objects of text and score.

    Errors:
        NotFoundError: no such file.
        DataError: a row that cannot be parsed, has the wrong types or a text that is no Unicode (the message names it).
    """
    from prefloop.store.formats.stack_exchange import read_posts

    check_exists(path)
    if path.name.removesuffix(".gz").endswith(".xml"):
        yield from read_posts(path)
        return
    for number, row in enumerate(json_rows(path), start=1):
        question, answers = _text(row, "question"), _answers(row)
        if len(answers) >= 2:
            yield RankedQuestion(f"{path.name}:{number}", question, answers)


def _answers(row: Row) -> list[Answer]:
    given = field(row, "answers", list)
    if all(isinstance(item, str) for item in given):
        return [
            Answer(checked_text(text, f"{row.where} field answers[{place}]"), -place)
            for place, text in enumerate(given)
        ]
    answers = []
    for place, item in enumerate(given):
        inner = Row(f"{row.where} field answers[{place}]", item if isinstance(item, dict) else {})
        if not isinstance(item, dict):
            raise DataError(
                f"{inner.where} is {kind_of(item)} and must be an object with text and score, as the others."
            )
        answers.append(Answer(_text(inner, "text"), _score(inner)))
    return answers


def _text(row: Row, name: str) -> str:
    return checked_text(field(row, name, str), f"{row.where} field {name!r}")


def _score(answer: Row) -> float:
    score = field(answer, "score", int, float)
    try:
        return float(score)
    except OverflowError:
        raise DataError(f"{answer.where} field 'score' is beyond 1e308; give scores of a smaller scale.") from None


def ranked_pairs(
    questions: Iterable[RankedQuestion], *, is_binary: bool = True, most: int = 4, seed: int = 0
) -> Iterator[PreferencePair]:
    """Comparisons of answers with different scores, at most `most` of each question, drawn by `seed`.

    With `is_binary` each ranked A > B becomes two comparisons of one text with itself, "GOOD: A" > "BAD: A" and
    "BAD: B" > "GOOD: B" (Askell et al. 2021, 4.1: what so learns transfers better than from the order itself).
    """
    for question in questions:
        ranked = [
            (one, other) if one.score > other.score else (other, one)
            for one, other in combinations(question.answers, 2)
            if one.score != other.score and one.text.strip() and other.text.strip() and one.text != other.text
        ]
        if len(ranked) > most:
            ranked = random.Random(f"{seed} {question.text}").sample(ranked, most)
        for better, worse in ranked:
            sides = [(better.text, worse.text)]
            if is_binary:
                sides = [(GOOD + better.text, BAD + better.text), (BAD + worse.text, GOOD + worse.text)]
            for chosen, rejected in sides:
                yield PreferencePair(
                    context=(Message(role="user", text=question.text),),
                    chosen=chosen,
                    rejected=rejected,
                    conversation_id=question.id,
                )
