"""Practice turns with feedback, and care for red-team workers: topics, breaks, how they feel. Knows nothing of HTTP.

A study asks nothing of a program that it does not require: practice is shown by the page and insisted on only where
the study says so; opt-outs, breaks and feelings are offers.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from prefloop.errors import DataError
from prefloop.schema import Conversation, Worker
from prefloop.store import PracticeAnswer, Store
from prefloop.study import PracticeItem
from prefloop.web.phases import Shown
from prefloop.web.problems import Problem
from prefloop.web.store_threads import StoreThreads
from prefloop.web.texts import FEELINGS

_PRACTICE_FIRST = "This study asks everybody to practise first; judge the example."


class PracticeStep(NamedTuple):
    """The practice turn that comes next; `number` counts from 1."""

    item: PracticeItem
    number: int


class Care:
    """What surrounds the tasks of one worker."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store, self._run = store, threads.run

    # ---- practice ----

    async def practice_step(self, worker: Worker, shown: Shown) -> PracticeStep | None:
        """The first practice turn without a grade; None once all have one, or the practice was skipped."""
        if not shown.practice:
            return None
        answers = await self._run(self._store.practice_answers, worker.id, shown.study.id)
        done = {answer.item for answer in answers}
        if "" in done and shown.phases.practice != "require":
            return None
        for number, item in enumerate(shown.practice, start=1):
            if item.id not in done:
                return PracticeStep(item, number)
        return None

    def practice_item(self, shown: Shown, id: str) -> PracticeItem:
        """DataError for an unknown one."""
        for item in shown.practice:
            if item.id == id:
                return item
        known = ", ".join(item.id for item in shown.practice)
        raise DataError(f"{id!r} is no practice turn of this study; use {known or 'none: it has no practice'}.")

    async def practise(self, worker: Worker, shown: Shown, id: str, grade: int) -> bool:
        """Keeps a grade on a practice turn; whether it says what the study says."""
        item = self.practice_item(shown, id)
        answer = PracticeAnswer(
            worker_id=worker.id,
            study_id=shown.study.id,
            item=item.id,
            shown=item.model_dump(mode="json"),
            grade=grade,
            is_right=item.is_right(grade),
        )
        await self._run(self._store.add_practice_answer, answer)
        return item.is_right(grade)

    async def skip_practice(self, worker: Worker, shown: Shown) -> None:
        """Goes on without practice, where the study allows it."""
        if shown.phases.practice == "require":
            raise Problem(409, "practice_first", _PRACTICE_FIRST)
        await self._run(self._store.add_practice_answer, PracticeAnswer(worker_id=worker.id, study_id=shown.study.id))

    async def refuse_without_practice(self, worker: Worker, shown: Shown) -> None:
        """Where the study requires it, nobody works before practising."""
        if shown.phases.practice == "require" and await self.practice_step(worker, shown) is not None:
            raise Problem(409, "practice_first", _PRACTICE_FIRST)

    # ---- care ----

    async def opt_outs(self, worker: Worker, shown: Shown) -> tuple[str, ...]:
        """Topics that the worker does not want to read about."""
        return await self._run(self._store.opt_outs, worker.id, shown.study.id) if shown.cares else ()

    async def set_opt_outs(self, worker: Worker, shown: Shown, topics: list[str]) -> None:
        """Other people's conversations on these topics (or on none that was named) are not shown from now on."""
        for topic in topics:
            _known_topic(shown, topic)
        await self._run(self._store.set_opt_outs, worker.id, shown.study.id, tuple(dict.fromkeys(topics)))

    async def set_topic(self, conversation: Conversation, shown: Shown, topic: str) -> None:
        """What a conversation is about."""
        _known_topic(shown, topic)
        await self._run(self._store.set_topic, conversation.id, topic)

    async def break_due(self, worker: Worker, shown: Shown) -> int | None:
        """Minutes of reading after which a break is offered now; None while it is not."""
        limit = shown.phases.care.break_minutes
        if not shown.cares or limit is None:
            return None
        minutes = await self._run(self._store.exposure_minutes, worker.id, shown.study.id)
        return round(minutes) if minutes >= limit else None

    async def take_break(self, worker: Worker, shown: Shown, kind: Literal["taken", "declined"]) -> None:
        """Keeps what became of the break that was offered."""
        minutes = await self._run(self._store.exposure_minutes, worker.id, shown.study.id)
        await self._run(self._store.add_break, worker.id, shown.study.id, kind, minutes)

    async def feelings_due(self, worker: Worker, shown: Shown, tasks: int) -> list[dict[str, Any]] | None:
        """The questions about how the worker feels, if they are asked after so many tasks."""
        every = shown.phases.care.feelings_every_tasks
        if not shown.cares or every is None or tasks == 0 or tasks % every:
            return None
        if await self._run(self._store.was_asked, worker.id, shown.study.id, tasks):
            return None
        return [question.model_dump(mode="json") for question in FEELINGS]

    async def keep_feelings(self, worker: Worker, shown: Shown, tasks: int, answers: dict[str, int]) -> None:
        """Keeps the answers without the worker; what is left out is 'rather not say'."""
        if await self.feelings_due(worker, shown, tasks) is None:
            raise Problem(409, "not_asked", "Nobody asked how you feel just now; go on.")
        known = {question.id: question for question in FEELINGS}
        for id, point in answers.items():
            if id not in known or not 1 <= point <= known[id].steps:
                raise DataError(f"{id!r} with {point} is no answer here; give 1 to 5 to {', '.join(known)}.")
        said = {id: answers.get(id, 0) for id in known}
        await self._run(self._store.add_feelings, worker.id, shown.study.id, tasks, said)


def _known_topic(shown: Shown, topic: str) -> None:
    ids = [known.id for known in shown.topics]
    if topic not in ids:
        raise DataError(f"{topic!r} is no topic of this study; use {', '.join(ids) or 'none: it has no topics'}.")
