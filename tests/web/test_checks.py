"""Checks among the tasks: gold items, calibration items, own pairs with their sides swapped; limits; wider overlap."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from fake_server import a_study, events_of

from prefloop.errors import DataError, StateError
from prefloop.schema import Message, Study
from prefloop.store import CheckItem, Store
from prefloop.study import CheckSettings, StudyPhases

GOOD, BAD = "Boil it for eight minutes.", "Eggs are round."


def error_of(answer: Any) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def an_item(study: Study, pick: Any = "a") -> CheckItem:
    messages = (Message(role="user", text="How long do I boil an egg?"),)
    return CheckItem(study_id=study.id, messages=messages, answer_a=GOOD, answer_b=BAD, pick=pick, by="Ada")


async def next_task(worker: Any) -> dict[str, Any]:
    return dict((await worker.get(f"/api/next?study_id={worker.study.id}")).json())


async def a_task(worker: Any, *grades: int) -> list[str]:
    """One conversation with these grades; its comparisons."""
    conversation = await worker.begin()
    pairs = []
    for grade in grades:
        pairs.append(await worker.turn(conversation))
        assert (await worker.judge(pairs[-1], grade)).status_code == 201
    await worker.post(f"/api/conversations/{conversation}/end")
    return pairs


async def texts_of(worker: Any, task: dict[str, Any]) -> dict[str, str]:
    events = events_of((await worker.get(task["stream_url"])).text)
    texts = {"a": "", "b": ""}
    for name, facts in events:
        if name == "delta":
            texts[facts["side"]] += facts["text"]
    return texts


async def worker_id(worker: Any) -> str:
    return str((await worker.get("/api/me")).json()["worker_id"])


async def test_gold_items_come_at_their_share_and_train_nothing(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(store)
        store.set_study_phases(study.id, StudyPhases(checks=CheckSettings(gold_share=0.5)))
        for _ in range(3):
            store.add_check_item(an_item(study))
        worker, stranger = await room.worker(study), await room.worker(study)
        assert (await next_task(worker))["kind"] == "conversation"  # nothing judged: 0.5 * 0 = 0 are due
        await a_task(worker, 1, 8)
        task = await next_task(worker)  # 0.5 * 2 = 1
        assert (task["kind"], task["state"]["messages"][0]["text"]) == ("review", "How long do I boil an egg?")
        assert await next_task(worker) == task  # until it is answered
        shown = await texts_of(worker, task)
        assert set(shown.values()) == {GOOD, BAD}
        assert (await stranger.get(task["stream_url"])).status_code == 404
        assert error_of(await stranger.judge(task["comparison_id"], 1)) == (404, "not_found")
        assert (await worker.judge(task["comparison_id"], 9)).status_code == 422
        judged = await worker.judge(task["comparison_id"], 1 if shown["a"] == GOOD else 8)
        assert (judged.status_code, judged.json()["next"]) == (201, "next")
        assert (await worker.judge(task["comparison_id"], 1)).status_code == 409
        assert (await next_task(worker))["kind"] == "conversation"
        await a_task(worker, 1, 8)
        task = await next_task(worker)
        shown = await texts_of(worker, task)
        await worker.judge(task["comparison_id"], 8 if shown["a"] == GOOD else 1)
        await a_task(worker, 1, 8)
        task = await next_task(worker)
        assert (await worker.post(f"/api/comparisons/{task['comparison_id']}/skip")).status_code == 200
        await a_task(worker, 1, 8)
        assert (await next_task(worker))["kind"] == "conversation"  # there are three items, all seen
        id = await worker_id(worker)
        counts = store.check_counts(study.id, [id])[id]
        assert (counts.gold, counts.skipped) == ((1, 2), 1)
        assert (counts.repeat.n, counts.calibration.n) == (0, 0)
        known = [text for pair in store.pairs(study_id=study.id) for text in (pair.chosen, pair.rejected)]
        assert len(known) == 16  # eight judged pairs, two texts each
        assert not {GOOD, BAD} & set(known)
        assert len(list(store.judged(study_id=study.id))) == 8


async def test_own_pairs_come_again_with_their_sides_swapped(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(store)
        checks = CheckSettings(repeat_share=0.5, repeat_after=1)
        store.set_study_phases(study.id, StudyPhases(checks=checks))
        same, turned, unsure = [await room.worker(study) for _ in range(3)]
        for worker, first, again in ((same, 2, 7), (turned, 2, 2), (unsure, 2, 4)):
            old, _ = await a_task(worker, first, 8)
            task = await next_task(worker)
            comparison = store.comparison(old)  # the newer one is too fresh
            assert await texts_of(worker, task) == {"a": comparison.response_b.text, "b": comparison.response_a.text}
            await worker.judge(task["comparison_id"], again)
            assert (await next_task(worker))["kind"] == "conversation"
        ids = [await worker_id(worker) for worker in (same, turned, unsure)]
        counts = store.check_counts(study.id, ids)
        assert [counts[id].repeat for id in ids] == [(1, 1), (0, 1), (0, 0)]
        assert store.progress(study.id).judgments == 6


async def test_researchers_judge_a_calibration_item_before_new_workers(
    open_room: Callable[..., Any], store: Store
) -> None:
    async with open_room(store=store) as room:
        study = a_study(store)
        store.set_study_phases(study.id, StudyPhases(checks=CheckSettings(calibration_judges=2)))
        item = store.add_check_item(an_item(study, pick=None))
        worker, old = await room.worker(study), await room.worker(study)
        await a_task(old, 1)
        ada, bob = (store.accept_invitation(store.add_invitation(None, "researcher"))[0] for _ in range(2))
        for count, researcher in enumerate((ada, bob)):
            assert (await next_task(worker))["kind"] == "conversation", count  # not judged by two of them yet
            check = store.show_to_researcher(item.id, researcher.id)
            assert store.show_to_researcher(item.id, researcher.id) == check
            store.add_check_answer(check.id, 8 if check.is_swapped else 1, "pointer")  # the good one, where it stands
            with pytest.raises(StateError, match="judged already"):
                store.add_check_answer(check.id, 1, "pointer")
        assert store.check_picks(study.id)[item.id] == Counter({"a": 2})
        assert (await next_task(old))["kind"] == "conversation"  # only before the first judgment
        task = await next_task(worker)
        shown = await texts_of(worker, task)
        await worker.judge(task["comparison_id"], 2 if shown["a"] == GOOD else 7)
        id = await worker_id(worker)
        assert store.check_counts(study.id, [id])[id].calibration == (1, 1)
        store.end_check_item(item.id, "Ada")
        assert (await next_task(await room.worker(study)))["kind"] == "conversation"


def test_an_item_that_cannot_be_judged_is_refused(store: Store) -> None:
    study = a_study(store)
    with pytest.raises(DataError, match="no message"):
        store.add_check_item(an_item(study).model_copy(update={"messages": ()}))
    with pytest.raises(DataError, match="the same"):
        store.add_check_item(an_item(study).model_copy(update={"answer_b": GOOD}))


async def test_a_worker_rests_after_an_hours_share(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(store)
        store.set_study_phases(study.id, StudyPhases(most_per_hour=3, practice="off"))
        worker = await room.worker(study)
        await a_task(worker, 1, 8)
        conversation = await worker.begin()
        await worker.judge(await worker.turn(conversation), 2)
        sent = await worker.post(f"/api/conversations/{conversation}/messages", {"text": "More"})
        assert error_of(sent) == (409, "too_much")
        assert "60 min" in sent.json()["error"]["message"]
        state = await worker.state()
        assert state["phase"] == "closed"
        assert "rest a little" in state["message"]
        assert (await next_task(worker)) == {"kind": "end"}
        store.set_study_phases(study.id, StudyPhases(most_per_worker=4, practice="off"))
        assert (await worker.state())["phase"] == "write"
        await worker.judge(await worker.turn(conversation, "More"), 2)
        assert (await worker.state())["phase"] == "complete"
        assert (await next_task(worker)) == {"kind": "end"}
        finished = (await worker.post(f"/api/studies/{study.id}/finish")).json()
        assert (finished["phase"], "4 pairs" in finished["message"]) == ("closed", True)
        begun = await worker.post("/api/conversations", {"study_id": study.id})
        assert error_of(begun) == (409, "too_much")
        assert (await (await room.worker(study)).state())["phase"] == "start"


async def test_each_pair_gets_as_many_judges_as_the_study_wants(open_room: Callable[..., Any], store: Store) -> None:
    async with open_room(store=store) as room:
        study = a_study(store, overlap=1.0, overlap_judges=3)
        assert store.study(study.id).overlap_judges == 3
        author = await room.worker(study)
        pairs = await a_task(author, 1, 8)
        others = [await room.worker(study) for _ in range(6)]

        async def reviews(worker: Any) -> None:
            for _ in range(4):
                task = await next_task(worker)
                if task["kind"] == "review":
                    assert (await worker.judge(task["comparison_id"], 3)).status_code == 201

        await asyncio.gather(*map(reviews, others))
        await reviews(await room.worker(study))
        for pair in pairs:
            judges = [judgment.worker_id for judgment in store.judgments(pair)]
            assert len(judges) == len(set(judges)) == 3
