"""What stands around a worker's chat tasks: consent, instructions, goal, closing questions, how many tasks, the end.

A study's own texts and lists go before the built-in ones of its mode. The defaults ask nothing of a program that
speaks to the API alone: only what a study sets itself is required there. Knows nothing of HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from prefloop.errors import DataError
from prefloop.schema import Conversation, Mode, Study, Worker
from prefloop.store import Agreement, Store, TaskAnswers
from prefloop.study import HelpLink, PracticeItem, Question, StudyPhases, Tag
from prefloop.web.generation import storable
from prefloop.web.instructions import CONSENT_VERSION, INSTRUCTIONS_VERSION
from prefloop.web.problems import Problem
from prefloop.web.store_threads import StoreThreads
from prefloop.web.texts import FAULTS, HELP_LINKS, MODES, TOPICS, ModeTexts

Stage = Literal["consent", "instructions", "tasks"]
MAX_ANSWER_CHARS = 4000


@dataclass(frozen=True)
class Shown:
    """What a study shows: its own texts and lists where it has them, else the built-in ones of its mode."""

    study: Study
    phases: StudyPhases

    @property
    def texts(self) -> ModeTexts:
        return MODES[self.study.mode]

    @property
    def consent(self) -> str:
        return self.phases.consent or self.texts.consent

    @property
    def consent_version(self) -> str:
        return self.phases.consent_version if self.phases.consent else CONSENT_VERSION

    @property
    def instructions(self) -> str:
        return self.phases.instructions or self.study.instructions or self.texts.instructions

    @property
    def full_instructions(self) -> str:
        return self.phases.full_instructions or self.texts.full_instructions

    @property
    def instructions_version(self) -> str:
        """The version of the texts that the worker has before them."""
        if self.phases.instructions or self.phases.full_instructions:
            return self.phases.instructions_version
        return self.study.instructions_version if self.study.instructions else INSTRUCTIONS_VERSION

    @property
    def asks_goal(self) -> bool:
        return self.study.mode is Mode.RED_TEAM and self.phases.goal != "off"

    @property
    def questions(self) -> tuple[Question, ...]:
        return () if self.phases.closing == "off" else self.phases.questions or self.texts.questions

    @property
    def practice(self) -> tuple[PracticeItem, ...]:
        return () if self.phases.practice == "off" else self.phases.practice_items or self.texts.practice

    @property
    def cares(self) -> bool:
        """Red-team studies look after the people who read harmful texts."""
        return self.study.mode is Mode.RED_TEAM

    @property
    def topics(self) -> tuple[Tag, ...]:
        return (self.phases.care.topics or TOPICS) if self.cares else ()

    @property
    def help_links(self) -> tuple[HelpLink, ...]:
        return self.phases.care.help_links or HELP_LINKS

    @property
    def reasons(self) -> tuple[Tag, ...]:
        return self.phases.reasons or self.texts.reasons

    @property
    def faults(self) -> tuple[Tag, ...]:
        return self.phases.faults or FAULTS


class Phases:
    """Reads and keeps what belongs to the phases of a study."""

    def __init__(self, store: Store, threads: StoreThreads) -> None:
        self._store, self._run, self._recall, self._forget = store, threads.run, threads.recall, threads.forget

    async def shown(self, study: Study) -> Shown:
        """What the study shows now."""
        return Shown(study, await self._recall(self._store.study_phases, study.id))

    async def stage(self, worker: Worker, shown: Shown) -> Stage:
        """What the worker has still to read and agree to; a new version of a text asks again."""
        agreed = await self._agreed(worker, shown.study)
        if ("consent", shown.consent_version) not in agreed:
            return "consent"
        return "tasks" if ("instructions", shown.instructions_version) in agreed else "instructions"

    async def agree(
        self, worker: Worker, shown: Shown, kind: Literal["consent", "instructions"], version: str | None
    ) -> None:
        """Keeps the agreement with the text itself; `version` is the one that was read, None the present one.

        Errors:
            Problem: 409, the text has changed since it was read.
        """
        if kind == "consent":
            current, text = shown.consent_version, shown.consent
        else:
            current, text = shown.instructions_version, f"{shown.instructions}\n\n{shown.full_instructions}"
        if version not in (None, current):
            raise Problem(409, "text_changed", f"The text has changed to version {current}; please read it again.")
        agreement = Agreement(
            worker_id=worker.id, study_id=shown.study.id, kind=kind, version=current, text=storable(text)
        )
        await self._run(self._store.add_agreement, agreement)
        self._forget()

    async def refuse_without_consent(self, worker: Worker, shown: Shown) -> None:
        """Where a study brings its own consent text, nobody works before agreeing to it."""
        if shown.phases.consent and ("consent", shown.consent_version) not in await self._agreed(worker, shown.study):
            raise Problem(409, "consent_first", "This study asks for your consent first; reload the page and read it.")

    async def tasks_done(self, worker: Worker, study: Study) -> int:
        """Conversations of the worker in the study that have ended with a judgment in them."""
        return await self._run(self._store.tasks_done, worker.id, study.id)

    async def answers(self, conversation: Conversation) -> dict[str, TaskAnswers]:
        """The latest answers on a conversation, by kind."""
        return await self._run(self._store.task_answers, conversation.id)

    async def keep_goal(self, worker: Worker, conversation: Conversation, shown: Shown, text: str) -> None:
        """What the attack is after."""
        if not shown.asks_goal:
            raise Problem(409, "no_goal", "This study does not ask for a goal; send a message.")
        goal = _words(text, "goal")
        if not goal:
            raise DataError("The goal is empty; write what you will try, or skip it.")
        await self._keep(
            TaskAnswers(
                conversation_id=conversation.id,
                worker_id=worker.id,
                kind="goal",
                questions=({"id": "goal", "text": shown.texts.goal},),
                answers={"goal": goal},
            )
        )

    async def keep_closing(
        self, worker: Worker, conversation: Conversation, shown: Shown, answers: dict[str, int | str]
    ) -> None:
        """Answers to the closing questions, whole or in part (in part only where they are not required)."""
        known = {question.id: question for question in shown.questions}
        kept: dict[str, int | str] = {}
        for id, value in answers.items():
            if id not in known:
                raise DataError(
                    f"{id!r} is no question of this study; use {', '.join(known) or 'none: it asks nothing'}."
                )
            answer = _answer(known[id], value)
            if answer != "":
                kept[id] = answer
        _refuse_open_ones(shown, kept)
        await self._keep(
            TaskAnswers(
                conversation_id=conversation.id,
                worker_id=worker.id,
                kind="closing",
                questions=tuple(question.model_dump(mode="json") for question in shown.questions),
                answers=kept,
            )
        )

    async def refuse_open_questions(self, conversation: Conversation, shown: Shown) -> None:
        """Where the closing questions are required, no conversation follows before they are answered."""
        if shown.phases.closing == "require" and shown.questions and "closing" not in await self.answers(conversation):
            raise Problem(409, "answer_first", "Please answer the questions about the last conversation first.")

    async def refuse_without_goal(self, conversation: Conversation, shown: Shown) -> None:
        """Where the goal is required, no message goes before it."""
        if shown.asks_goal and shown.phases.goal == "require" and "goal" not in await self.answers(conversation):
            raise Problem(409, "goal_first", "Please say first what you will try to get the assistant to do.")

    async def _keep(self, answers: TaskAnswers) -> None:
        await self._run(self._store.add_task_answers, answers)

    async def _agreed(self, worker: Worker, study: Study) -> set[tuple[str, str]]:
        agreements = await self._recall(self._store.agreements, worker.id, study.id)
        return {(agreement.kind, agreement.version) for agreement in agreements}


def _answer(question: Question, value: Any) -> int | str:
    if question.kind == "text":
        return _words(str(value), question.id)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= question.steps:
        raise DataError(f"The answer to {question.id!r} is {value!r}; it must be from 1 to {question.steps}.")
    return value


def _words(text: str, what: str) -> str:
    text = storable(text).strip()
    if len(text) > MAX_ANSWER_CHARS:
        raise DataError(f"The answer to {what!r} has {len(text)} characters and may have {MAX_ANSWER_CHARS}.")
    return text


def _refuse_open_ones(shown: Shown, kept: dict[str, int | str]) -> None:
    if shown.phases.closing != "require":
        return
    missing = [question.text for question in shown.questions if question.kind == "scale" and question.id not in kept]
    if missing:
        raise DataError(f"{missing[0]!r} has no answer yet; choose one.")
