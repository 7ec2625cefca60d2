"""Checks as a worker meets them: like any second opinion. Knows the store's checks; knows nothing of routes."""

from __future__ import annotations

from typing import Any

from prefloop.schema import Message, Worker
from prefloop.store import Check, Store
from prefloop.web.broker import TurnStream, finished_stream
from prefloop.web.judging import InputDevice
from prefloop.web.phases import Shown
from prefloop.web.problems import Problem
from prefloop.web.store_threads import StoreThreads


class Checks:
    """Shows checks and keeps what is answered."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store, self._run, self._recall = store, threads.run, threads.recall_longer

    async def due(self, worker: Worker, shown: Shown) -> Check | None:
        """The check that stands before the worker's next task."""
        settings, study = shown.phases.checks, shown.study
        if study.state != "open":
            return None
        wants_some = settings.gold_share > 0 or settings.repeat_share > 0
        if not wants_some and not await self._recall(self._store.has_check_items, study.id):
            return None
        return await self._run(self._store.next_check, study.id, worker.id, settings)

    async def find(self, worker: Worker, id: str) -> Check:
        """One of the worker's checks, or NotFoundError."""
        return await self._run(self._store.check, id, worker.id)

    async def messages(self, check: Check) -> list[Message]:
        """What both answers answer, root first."""
        if check.item_id is not None:
            return list((await self._run(self._store.check_item, check.item_id)).messages)
        comparison = await self._run(self._store.comparison, str(check.comparison_id))
        turns = await self._run(self._store.path, comparison.context_message_id)
        return [Message(role=turn.role, text=turn.text) for turn in turns]

    async def answers(self, check: Check) -> tuple[str, str]:
        """Both texts in the order shown."""
        if check.item_id is not None:
            item = await self._run(self._store.check_item, check.item_id)
            pair = (item.answer_a, item.answer_b)
        else:
            comparison = await self._run(self._store.comparison, str(check.comparison_id))
            pair = (comparison.response_a.text, comparison.response_b.text)
        return (pair[1], pair[0]) if check.is_swapped else pair

    async def stream(self, worker: Worker, id: str) -> TurnStream:
        """Both answers as a turn's events."""
        a, b = await self.answers(await self.find(worker, id))
        return finished_stream({"a": a, "b": b}, None)

    async def judge(self, worker: Worker, id: str, grade: int, device: InputDevice, revises: str | None) -> None:
        """Keeps a grade."""
        check = await self.find(worker, id)
        if revises is not None:
            raise Problem(409, "too_late", "The judgment of this pair stays as it is.")
        await self._run(self._store.add_check_answer, check.id, grade, device)

    async def skip(self, worker: Worker, id: str) -> None:
        """Passes on a check."""
        check = await self.find(worker, id)
        await self._run(self._store.add_check_answer, check.id, None, "api")

    async def state(self, check: Check) -> dict[str, Any]:
        """A check as the worker may know it."""
        a, b = await self.answers(check)
        facts = {"comparison_id": check.id, "conversation_id": "", "state": "judged", "turn": 1, "is_ready": True}
        return {**facts, "answers": {"a": a, "b": b}}
