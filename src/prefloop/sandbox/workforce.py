"""A simulated workforce with planted faults, as the columns that the quality report reads. Knows no store, no page.

Workers open conversations on their own topics and judge them; some comparisons get second opinions from others. They
judge like `judges`: u = gold difference / temperature + side bias + logistic noise, and further habits that can be
planted. All columns are drawn at once, so a million judgments take seconds; what the page would have recorded of
times is drawn as well.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefloop.quality import Comparisons, Judgments, Openings, Rows
from prefloop.sandbox.judges import STRENGTHS
from prefloop.schema import GRADES

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
_BEGIN = 1_767_603_600.0  # a Monday morning
_STREAK = 15


@dataclass(frozen=True)
class Habits:
    """One simulated worker; the defaults are those of an honest one on ordinary topics.

    Attributes:
        temperature: of the Bradley-Terry noise, in units of gold.
        careless: share of judgments given at random.
        lazy: share of stretches of 15 judgments that all get the grade of the first.
        side_bias, length_bias, first_bias: added to u for A, per unit of ln(length A / length B), and for the reply
            that was complete first.
        is_flipped: prefers the worse reply as others prefer the better one.
        characters_per_second: pace of reading both replies.
        copies: share of conversations that open with an earlier opening of their own, one word changed.
        topic: multiplies gold differences of the own conversations; hard topics are below 1.
    """

    temperature: float = 1.0
    careless: float = 0.02
    lazy: float = 0.0
    side_bias: float = 0.0
    length_bias: float = 0.0
    first_bias: float = 0.0
    is_flipped: bool = False
    characters_per_second: float = 25.0
    copies: float = 0.0
    topic: float = 1.0


FAULTS: dict[str, Habits] = {
    "lazy": Habits(lazy=0.5),
    "side-biased": Habits(side_bias=1.5),
    "length-biased": Habits(length_bias=2.0),
    "random": Habits(careless=1.0),
    "copying prompts": Habits(copies=0.5),
    "flipped": Habits(is_flipped=True),
    "fast": Habits(characters_per_second=250.0),
}
"""One worker with each fault."""
HARD_TOPICS = Habits(topic=0.15)
"""Honest, on topics where the better reply is hard to see."""


def simulate(
    people: Sequence[Habits], comparisons: int, overlap: float, *, seed: int = 0, are_texts_drawn: bool = True
) -> Rows:
    """What a workforce leaves behind.

    Args:
        people: the workers; codes are their places, ids worker-1, worker-2 ...
        comparisons: of each worker's own, two in a conversation.
        overlap: mean number of second opinions on a comparison.
        seed: of every draw.
        are_texts_drawn: False leaves the openings out.
    """
    draw = np.random.default_rng(seed)
    count, total = len(people), len(people) * comparisons
    author = np.repeat(np.arange(count), comparisons)
    topic = np.array([person.topic for person in people])
    lengths = np.exp(draw.normal(4.8, 0.6, size=(total, 2))).astype(np.int64) + 1
    difference = draw.normal(0, np.sqrt(2), total) * topic[author]
    shorter_first = np.where(lengths[:, 0] < lengths[:, 1], 1, -1)
    first_done = np.where(draw.random(total) < 0.8, shorter_first, -shorter_first)

    more = np.floor(overlap + draw.random(total)).astype(np.int64) if count > 1 else np.zeros(total, dtype=np.int64)
    item = np.concatenate([np.arange(total), np.repeat(np.arange(total), more)])
    other = draw.integers(0, max(count - 1, 1), int(more.sum()))
    worker = np.concatenate([author, other + (other >= author[item[total:]])])
    kept = np.unique(item * count + worker, return_index=True)[1]  # nobody judges a comparison twice
    item, worker = item[kept], worker[kept]
    decided_at = _BEGIN + draw.permutation(len(item)) * 30.0
    order = np.lexsort((decided_at, worker))
    item, worker, decided_at = item[order], worker[order], decided_at[order]

    def habit(name: str) -> Floats:
        values = np.array([float(getattr(person, name)) for person in people])
        return np.asarray(values[worker], dtype=np.float64)

    log_ratio = np.log(lengths[:, 0] / lengths[:, 1])[item]
    u = difference[item] / habit("temperature") + draw.logistic(size=len(item))
    u = np.where(habit("is_flipped") > 0, -u, u)
    u = u + habit("side_bias") + habit("length_bias") * log_ratio + habit("first_bias") * first_done[item]
    strength = sum((np.abs(u) >= limit).astype(np.int64) for limit in STRENGTHS)
    grade = np.where(u > 0, 4 - strength, 5 + strength)
    is_careless = draw.random(len(item)) < habit("careless")
    grade = np.where(is_careless, draw.integers(1, GRADES + 1, len(item)), grade)
    grade = _streaks(grade, worker, habit("lazy"), draw)
    reading = lengths.sum(axis=1)[item] / habit("characters_per_second") * draw.lognormal(0.0, 0.4, len(item)) + 0.3
    likes_a = grade <= GRADES // 2
    conversation = np.arange(total) // 2
    nothing = np.zeros(len(item), dtype=np.int64)
    judgments = Judgments.of(
        {
            "comparison": item,
            "conversation": conversation[item],
            "worker": worker,
            "author": author[item],
            "study": nothing - 1,
            "mode": nothing,
            "tranche": nothing,
            "grade": grade,
            "is_imported": nothing,
            "clicked_a": likes_a,
            "preferred_a": likes_a,
            "length_a": lengths[item, 0],
            "length_b": lengths[item, 1],
            "are_identical": nothing,
            "first_done": first_done[item],
            "decision_seconds": reading * 0.7,
            "reading_seconds": reading,
            "decided_at": decided_at,
            "pair": item,
            "preferred_text": 2 * item + likes_a,
        }
    )
    openings = Openings()
    if are_texts_drawn:
        _open(openings, people, conversation[::2], author[::2], random.Random(seed))
    flat = np.zeros(total, dtype=np.int64)
    return Rows(
        judgments=judgments,
        comparisons=Comparisons.of(
            {
                "conversation": conversation,
                "is_void": flat,
                "are_identical": flat,
                "mode": flat,
                "tranche": flat,
                "study": flat - 1,
                "author": author,
                "opening": np.repeat(openings.code, 2) if are_texts_drawn else flat - 1,
                "turn": np.arange(total) % 2 + 1,
                "context_turns": np.arange(total) % 2 * 2 + 1,
                "length_a": lengths[:, 0],
                "length_b": lengths[:, 1],
            }
        ),
        openings=openings,
        workers=[f"worker-{i + 1}" for i in range(count)],
        states=Counter(judged=total),
    )


def _streaks(
    grade: Ints,
    worker: Ints,
    lazy: Floats,
    draw: np.random.Generator,
) -> Ints:
    """Rows stand in each worker's order of time; in lazy stretches the first grade is given all along."""
    start = np.flatnonzero(np.diff(worker, prepend=-1))
    place = np.arange(len(worker)) - start[np.cumsum(np.diff(worker, prepend=-1) != 0) - 1]
    stretch = np.cumsum(place % _STREAK == 0) - 1
    first = np.flatnonzero(place % _STREAK == 0)
    is_lazy = draw.random(len(first))[stretch] < lazy
    return np.where(is_lazy, grade[first][stretch], grade)


def _open(
    openings: Openings,
    people: Sequence[Habits],
    conversations: Ints,
    authors: Ints,
    chance: random.Random,
) -> None:
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(5000)]
    used: dict[int, list[list[str]]] = {}
    for conversation, author in zip(conversations.tolist(), authors.tolist(), strict=True):
        own = used.setdefault(author, [])
        if own and chance.random() < people[author].copies:
            text = list(chance.choice(own))
            text[chance.randrange(len(text))] = chance.choice(words)
        else:
            text = chance.choices(words, k=24)
        own.append(text)
        openings.add(conversation, author, " ".join(text))
