"""A simulated workforce in a real store, with faults planted in chosen workers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from prefloop.sandbox.judges import Traits
from prefloop.schema import (
    Comparison,
    ComparisonState,
    Conversation,
    Judgment,
    Mode,
    Response,
    ResponseState,
    Tranche,
    TreeMessage,
    Worker,
)
from prefloop.store import ComparisonRecord, Store
from prefloop.store.views import ConversationRecord

BEGIN = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


@dataclass(frozen=True)
class Person:
    """A worker to simulate: how they judge, and how often they open with words they used before."""

    traits: Traits = field(default_factory=lambda: Traits(side_bias=0.0, careless=0.0))
    copies: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What is collected. Every worker opens `conversations`, each of two comparisons."""

    people: Sequence[Person]
    conversations: int = 40
    overlap: float = 0.5
    mode: Mode = Mode.HELPFUL
    length_effect: float = 0.0
    identical: float = 0.0
    seed: int = 0


def fill(store: Store, plan: Plan) -> list[Worker]:
    """Writes a plan into a store and gives its workers, in the plan's order."""
    chance = random.Random(plan.seed)
    workers = [Worker(pseudonym=f"worker-{i + 1}", is_simulated=True) for i in range(len(plan.people))]
    records: list[Worker | ComparisonRecord] = list(workers)
    for number in range(len(workers)):
        used: list[str] = []
        for _ in range(plan.conversations):
            is_copy = bool(used) and chance.random() < plan.people[number].copies
            opening = chance.choice(used) if is_copy else _text(chance, 6)
            used.append(opening)
            records += _conversation(chance, plan, workers, number, opening)
    store.import_records(lambda: iter(records), "test")
    return workers


def _conversation(
    chance: random.Random, plan: Plan, workers: list[Worker], number: int, opening: str
) -> list[ComparisonRecord]:
    conversation = Conversation(mode=plan.mode, worker_id=workers[number].id, created_at=BEGIN)
    path = [TreeMessage(conversation_id=conversation.id, role="user", text=opening)]
    records = []
    for turn in (1, 2):
        words = (chance.randint(3, 30), chance.randint(3, 30))
        gold = [chance.gauss(0, 1) + plan.length_effect * (n - 16.5) for n in words]
        first, second = (_text(chance, n) for n in words)
        if chance.random() < plan.identical:
            second = first
        done = (BEGIN + timedelta(seconds=chance.uniform(1, 3)), BEGIN + timedelta(seconds=chance.uniform(1, 3)))
        comparison = Comparison(
            conversation_id=conversation.id,
            context_message_id=path[-1].id,
            turn=turn,
            response_a=Response(text=first, state=ResponseState.DONE, done_at=done[0]),
            response_b=Response(text=second, state=ResponseState.DONE, done_at=done[1]),
            mode=plan.mode,
            tranche=Tranche.BASE,
            worker_id=workers[number].id,
            state=ComparisonState.JUDGED,
        )
        judges = [number]
        if len(workers) > 1 and chance.random() < plan.overlap:
            judges.append(chance.choice([i for i in range(len(workers)) if i != number]))
        judgments = [_judgment(chance, plan, comparison, workers[i], plan.people[i].traits, gold) for i in judges]
        records.append(
            ComparisonRecord(
                conversation=ConversationRecord(conversation=conversation),
                path=tuple(path),
                comparison=comparison,
                judgments=tuple(judgments),
            )
        )
        answer = TreeMessage(conversation_id=conversation.id, parent_id=path[-1].id, role="assistant", text=first)
        question = TreeMessage(conversation_id=conversation.id, parent_id=answer.id, role="user", text=_text(chance, 5))
        path += [answer, question]
    return records


def _judgment(
    chance: random.Random, plan: Plan, comparison: Comparison, worker: Worker, traits: Traits, gold: list[float]
) -> Judgment:
    grade = traits.grade(chance, gold[0], gold[1], plan.mode)
    clicked = "a" if grade <= 4 else "b"
    other = "b" if clicked == "a" else "a"
    both_done = BEGIN + timedelta(seconds=4)
    return Judgment(
        comparison_id=comparison.id,
        worker_id=worker.id,
        question="more_harmful" if plan.mode is Mode.RED_TEAM else "more_helpful",
        grade=grade,
        clicked=clicked,
        preferred=other if plan.mode is Mode.RED_TEAM else clicked,
        both_done_at=both_done,
        decided_at=both_done + timedelta(seconds=chance.lognormvariate(2.0, 0.5)),
    )


def _text(chance: random.Random, words: int) -> str:
    return " ".join("".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(words))
