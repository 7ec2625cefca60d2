"""Many workers at once, good and bad ones: nothing that was acknowledged is lost, nothing is collected twice."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fake_server import FakeResponder, a_study

from prefloop.schema import ComparisonState
from prefloop.store.comparisons import overlap_draw

OVERLAP = 0.5
KINDS = {"honest": 26, "lazy": 6, "side_biased": 6, "fast": 6, "dropping_out": 6}


@dataclass
class Ledger:
    """What the server acknowledged, as the workers remember it."""

    judgments: list[tuple[str, str, int]] = field(default_factory=list)  # (judgment, comparison, grade)
    refused: Counter[int] = field(default_factory=Counter)
    reviews: int = 0
    dropped: int = 0


async def _works(worker: Any, kind: str, chance: random.Random, ledger: Ledger) -> None:
    """Two tasks of one worker: a second opinion where there is one, else a conversation of two turns."""
    await worker.http.post(f"/study/{worker.study.id}/consent")
    await worker.http.post(f"/study/{worker.study.id}/agree")
    for _ in range(2):
        task = (await worker.get(f"/api/next?study_id={worker.study.id}")).json()
        if task["kind"] == "review":
            ledger.reviews += 1
            await worker.read(task)
            await _judges(worker, task["comparison_id"], kind, chance, ledger)
            continue
        conversation = await worker.begin()
        for turn in range(2):
            order = "[fail] " if chance.random() < 0.15 else ""
            started = await worker.send(conversation, f"{order}Question {turn}")
            if kind == "dropping_out" and turn == 1:
                ledger.dropped += 1
                return  # the browser is closed in the middle of a turn
            if kind == "fast":
                await _judges(worker, started["comparison_id"], kind, chance, ledger)
            if (await worker.read(started))[-1][0] == "void":
                answer = await worker.judge(started["comparison_id"], 1)  # a page that does not know it yet
                ledger.refused[answer.status_code] += 1
                await worker.post(f"/api/conversations/{conversation}/end")
                break
            await _judges(worker, started["comparison_id"], kind, chance, ledger)


async def _judges(worker: Any, comparison_id: str, kind: str, chance: random.Random, ledger: Ledger) -> None:
    grade = {"lazy": 4, "side_biased": 1}.get(kind) or chance.randint(1, 8)
    answer = await worker.judge(comparison_id, grade)
    if answer.status_code == 201:
        ledger.judgments.append((answer.json()["judgment_id"], comparison_id, grade))
    else:
        ledger.refused[answer.status_code] += 1


async def test_fifty_workers_lose_and_over_collect_nothing(open_room: Callable[..., Any]) -> None:
    ledger = Ledger()
    async with open_room(FakeResponder(pause_seconds=0.001, words=6)) as room:
        study = a_study(room.store, overlap=OVERLAP)
        kinds = [kind for kind, count in KINDS.items() for _ in range(count)]
        assert len(kinds) == 50
        random.Random(3).shuffle(kinds)
        workers = [await room.worker(study) for _ in kinds]
        async with asyncio.TaskGroup() as group:
            for number, (worker, kind) in enumerate(zip(workers, kinds, strict=True)):
                group.create_task(_works(worker, kind, random.Random(number), ledger))
        records = list(room.store.records(study_id=study.id))
        progress = room.store.progress(study.id)

    kept = {j.id: (record.comparison.id, j.grade) for record in records for j in record.judgments}
    assert kept == {id: (comparison, grade) for id, comparison, grade in ledger.judgments}
    assert len(ledger.judgments) == len(kept) > 60
    assert ledger.reviews > 0
    assert ledger.dropped > 0
    assert ledger.refused[409] > 0  # judged too early, or void; nothing else was refused
    assert set(ledger.refused) == {409}
    for record in records:
        judges = [j.worker_id for j in record.judgments]
        assert len(judges) == len(set(judges))
        assert len(judges) <= (2 if overlap_draw(record.comparison.id) < OVERLAP else 1)
        assert bool(judges) == (record.comparison.state is ComparisonState.JUDGED)
        if record.comparison.state is ComparisonState.VOID:
            assert judges == []
        elif judges:
            assert record.comparison.response_a.state == record.comparison.response_b.state == "done"
    assert progress.judgments == len(ledger.judgments)


async def test_eight_workers_race_for_the_last_second_opinion(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store, overlap=1.0)
        author, *others = [await room.worker(study) for _ in range(9)]
        comparison = await author.turn(await author.begin())
        await author.judge(comparison)
        task = f"/api/next?study_id={study.id}"
        offers = await asyncio.gather(*(other.get(task) for other in others))
        assert sorted(offer.json()["kind"] for offer in offers) == ["conversation"] * 7 + ["review"]
        answers = await asyncio.gather(*(other.judge(comparison) for other in others))
        assert sorted(answer.status_code for answer in answers) == [201] + [404] * 7
        assert len(room.store.judgments(comparison)) == 2


async def test_two_browsers_race_for_the_last_place_of_a_link(open_room: Callable[..., Any]) -> None:
    async with open_room() as room:
        study = a_study(room.store)
        token = room.store.add_invitation(study.id, uses=3)
        answers = await asyncio.gather(*(room.http().get(f"/join/{token}") for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [303, 303, 303, 409, 409]
        assert len(room.store.workers()) == 3
