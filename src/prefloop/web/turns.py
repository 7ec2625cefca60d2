"""A worker's way through a study: conversations, turns, judgments, second opinions. Knows nothing of HTTP.

The store is asked anew at every step, so that a reload, a second tab and a restart of the server all find the same
facts. A comparison goes on (its assistant turn is written) when the next message is sent or the next conversation
begins; until then its judgment may be changed.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefloop.errors import DataError, FullError, NotFoundError
from prefloop.schema import (
    Comparison,
    ComparisonState,
    Conversation,
    Judgment,
    Message,
    Side,
    Snapshot,
    Study,
    TreeMessage,
    Worker,
    now,
)
from prefloop.store import Continuation, PlacesLeft, Store, WorkerReport
from prefloop.web.broker import TurnStream, Void, finished_stream
from prefloop.web.care import Care
from prefloop.web.draw import draw_pair, pacing_of, pending_response
from prefloop.web.generation import Generation, storable
from prefloop.web.judging import INTERFACE_VERSION, Decision, InputDevice, continued_side, judgment_of
from prefloop.web.phases import Phases
from prefloop.web.problems import Problem
from prefloop.web.settings import PageSettings
from prefloop.web.standing import Standing, goes_on_with_edits, stopped_message, void_message
from prefloop.web.store_threads import StoreThreads
from prefloop.web.texts import MOST_JUDGED, PLACES_TAKEN, REST_A_LITTLE, STUDY_FULL, TASKS_DONE


@dataclass(frozen=True)
class Judged:
    """What became of a judgment: `continued` is the side that the conversation will go on with, None in a review."""

    judgment: Judgment
    continued: Side | None
    next: Literal["message", "complete", "next"]


class Turns:
    """Everything that a signed-in worker can do."""

    def __init__(
        self,
        store: Store,
        threads: StoreThreads,
        generation: Generation,
        phases: Phases,
        care: Care,
        page: PageSettings,
    ) -> None:
        self._store, self._run, self._recall = store, threads.run, threads.recall
        self._generation, self._phases, self._care, self._page = generation, phases, care, page
        self._chance = random.Random(page.seed)

    # ---- reading ----

    async def study(self, study_id: str) -> Study:
        """NotFoundError for an unknown one."""
        return await self._recall(self._store.study, study_id)

    async def joined(self, worker: Worker, study_id: str) -> Study:
        """The study, if the worker was invited to it."""
        if not await self._recall(self._store.may_join, worker.id, study_id):
            raise NotFoundError(f"There is no study {study_id!r} among yours; open your invitation link again.")
        return await self.study(study_id)

    async def closed_because(self, study: Study) -> str | None:
        """Why no new conversation can begin, in a sentence; None while it can."""
        if (reason := stopped_message(study)) is not None:
            return reason
        left = await self._places_left(study)
        if left is None or left.free > 0:
            return None
        return STUDY_FULL if left.held == 0 else PLACES_TAKEN

    async def standing(self, worker: Worker, study: Study) -> Standing | None:
        """Where the worker's open conversation stands; None without one."""
        conversation = await self._run(self._store.open_conversation, worker.id, study.id)
        if conversation is None:
            return None
        left = await self._places_left(study)
        facts = await self._run(self._store.standing, conversation.id)
        return Standing(study, facts, is_full=left is not None and left.free == 0)

    async def own_judgment(self, comparison: Comparison) -> Judgment:
        """The latest judgment by the worker whose conversation it is."""
        judgments = await self._run(self._store.judgments, comparison.id)
        return [judgment for judgment in judgments if judgment.worker_id == comparison.worker_id][-1]

    async def edited_text(self, edit: Comparison) -> str:
        """What the worker wrote in an answer's place."""
        return edit.response((await self.own_judgment(edit)).preferred).text

    def undo_seconds(self, judgment: Judgment) -> float:
        """For how much longer it may be changed."""
        return max(0.0, self._page.undo_seconds - (now() - judgment.decided_at).total_seconds())

    async def finished_stream(self, comparison: Comparison) -> TurnStream:
        """The stream of a pair that nobody is writing any more, from what the store holds."""
        responses = (comparison.response_a, comparison.response_b)
        if comparison.state is ComparisonState.OPEN and any(response.state != "done" for response in responses):
            reason = "restarted: the answers were lost"
            await self._run(self._store.void_comparison, comparison.id, reason, is_our_fault=True)
            comparison = await self._run(self._store.comparison, comparison.id)
        if comparison.state is ComparisonState.VOID:
            return finished_stream(None, Void("void", void_message(comparison)))
        return finished_stream({"a": comparison.response_a.text, "b": comparison.response_b.text}, None)

    async def comparison(self, worker: Worker, comparison_id: str) -> Comparison:
        """A pair that this worker may see: one of the own conversations, or one leased for a second opinion."""
        comparison = await self._run(self._store.comparison, comparison_id)
        if comparison.worker_id != worker.id and not await self._holds_lease(worker, comparison):
            raise NotFoundError(f"There is no comparison {comparison_id!r} among yours; reload the page.")
        return comparison

    # ---- conversations ----

    async def begin(self, worker: Worker, study_id: str) -> Conversation:
        """The worker's open conversation in the study; a new one when there is none or the old one is complete."""
        study = await self.joined(worker, study_id)
        standing = await self.standing(worker, study)
        shown = await self._phases.shown(study)
        await self._phases.refuse_without_consent(worker, shown)
        await self._care.refuse_without_practice(worker, shown)
        if standing is not None and standing.phase not in ("complete", "full"):
            return standing.conversation
        reason = await self.closed_because(study)
        if reason is not None:
            raise Problem(409, "study_closed", reason)
        if standing is not None:
            await self._phases.refuse_open_questions(standing.conversation, shown)
            await self._close(standing, "complete")
        await self._refuse_too_fast(worker, study)
        limit = shown.phases.tasks_per_worker
        if limit is not None and await self._phases.tasks_done(worker, study) >= limit:
            raise Problem(409, "tasks_done", TASKS_DONE.format(count=limit))
        conversation = Conversation(mode=study.mode, study_id=study.id, worker_id=worker.id)
        await self._run(self._store.add_conversation, conversation)
        return conversation

    async def finish(self, worker: Worker, study_id: str) -> Study:
        """Ends the worker's complete conversation without beginning another; changes nothing while one is under way."""
        study = await self.joined(worker, study_id)
        standing = await self.standing(worker, study)
        if standing is not None and standing.phase == "complete":
            await self._phases.refuse_open_questions(standing.conversation, await self._phases.shown(study))
            await self._close(standing, "complete")
        return study

    async def pace_refusal(self, worker: Worker, study: Study) -> str | None:
        """Why the worker may begin nothing more for now, in a sentence; None while they may."""
        phases = (await self._phases.shown(study)).phases
        if phases.most_per_worker is None and phases.most_per_hour is None:
            return None
        pace = await self._run(self._store.judging_pace, worker.id, study.id, phases.most_per_hour)
        if phases.most_per_worker is not None and pace.judged >= phases.most_per_worker:
            return MOST_JUDGED.format(count=pace.judged)
        if pace.free_at is not None:
            return REST_A_LITTLE.format(count=phases.most_per_hour, minutes=math.ceil(pace.wait_seconds / 60))
        return None

    async def own_conversation(self, worker: Worker, conversation_id: str) -> tuple[Conversation, Study]:
        """One of the worker's conversations in a study, ended or not."""
        conversation = await self._run(self._store.conversation, conversation_id)
        if conversation.worker_id != worker.id or conversation.study_id is None:
            raise NotFoundError(f"There is no conversation {conversation_id!r} among yours; reload the page.")
        return conversation, await self.study(conversation.study_id)

    async def send(self, worker: Worker, conversation_id: str, text: str) -> Comparison:
        """Adds the worker's message and starts two answers to it."""
        text = storable(text).strip()
        if not text:
            raise DataError("The message is empty; write something first.")
        if len(text) > self._page.max_message_chars:
            raise DataError(f"The message has {len(text)} characters and may have {self._page.max_message_chars}.")
        standing = await self._own(worker, conversation_id)
        if standing.phase != "write":
            raise Problem(409, *_REFUSALS[standing.phase])
        _refuse_while_stopped(standing.study)
        if not standing.messages:
            shown = await self._phases.shown(standing.study)
            await self._phases.refuse_without_goal(standing.conversation, shown)
        await self._refuse_too_fast(worker, standing.study)
        continuation = self._continuation(standing)
        parent = standing.messages[-1] if standing.messages and standing.messages[-1].role == "assistant" else None
        message = TreeMessage(
            conversation_id=conversation_id, parent_id=parent.id if parent else None, role="user", text=text
        )

        context = [*standing.messages, message]
        if continuation is not None:
            context.insert(-1, standing.reply(continuation))

        async def store(comparison: Comparison) -> None:
            await self._run(self._store.add_turn, message, comparison, continuation, self._page.place_seconds)

        return await self._ask(standing, message, context, store)

    async def retry(self, worker: Worker, conversation_id: str) -> Comparison:
        """New answers to the last message, after its pair was voided."""
        standing = await self._own(worker, conversation_id)
        if standing.phase != "void":
            raise Problem(409, "not_void", "New answers are for a pair that does not count; this one does.")
        _refuse_while_stopped(standing.study)

        async def store(comparison: Comparison) -> None:
            await self._run(self._store.add_comparison, comparison, self._page.place_seconds)

        return await self._ask(standing, standing.messages[-1], standing.messages, store)

    async def end(self, worker: Worker, conversation_id: str) -> None:
        """The worker has had enough of this conversation; what is judged stays."""
        standing = await self._own(worker, conversation_id)
        if standing.phase == "answers" and standing.last is not None:
            await self._void(standing.last, "skipped")
        await self._close(standing, "ended by the worker")

    # ---- judging ----

    async def judge(self, worker: Worker, comparison_id: str, decision: Decision) -> Judged:
        """Stores a judgment; refused before both answers are complete, on a void pair, and when it is too late."""
        comparison = await self.comparison(worker, comparison_id)
        study = await self.study(str(comparison.study_id))
        shown = await self._phases.shown(study)
        judgment = judgment_of(worker, study, comparison, decision, shown.reasons, shown.faults)
        if comparison.edit_of is not None:
            raise Problem(409, "an_edit", "An edited answer is not judged; go on with the conversation.")
        if decision.revises is not None:
            await self._check_revision(worker, comparison, decision.revises)
        is_review = comparison.worker_id != worker.id
        await self._run(self._store.add_judgment, judgment, needs_lease=is_review)
        if is_review:
            return Judged(judgment, None, "next")
        is_last = comparison.turn >= study.turns_per_conversation
        return Judged(judgment, continued_side(study, comparison, judgment), "complete" if is_last else "message")

    async def edit(self, worker: Worker, comparison_id: str, side: Side, text: str, device: InputDevice) -> Comparison:
        """Keeps a better answer than the one on `side`, written by the worker, until the conversation goes on."""
        text = storable(text).strip()
        if len(text) > self._page.max_message_chars:
            raise DataError(f"The answer has {len(text)} characters and may have {self._page.max_message_chars}.")
        comparison = await self.comparison(worker, comparison_id)
        study = await self.study(str(comparison.study_id))
        shown = await self._phases.shown(study)
        if not shown.phases.edits:
            raise Problem(409, "no_edits", "This study keeps the answers as they are; go on with the conversation.")
        last = (await self._standing(comparison.conversation_id, study)).last
        if last is None or last.id != comparison.id:
            raise Problem(409, "too_late", "The conversation has gone on; that answer stays as it is.")
        return await self._run(
            self._store.add_edit,
            comparison.id,
            side,
            text,
            worker.id,
            interface_version=INTERFACE_VERSION,
            instructions_version=comparison.instructions_version,
            input_device=device,
        )

    async def report(self, worker: Worker, study_id: str, comparison_id: str | None, kind: Any, text: str) -> None:
        """Keeps what the worker wants the researchers to know."""
        study = await self.joined(worker, study_id)
        if comparison_id is not None:
            await self.comparison(worker, comparison_id)
        report = WorkerReport(
            worker_id=worker.id, study_id=study.id, comparison_id=comparison_id, kind=kind, text=storable(text).strip()
        )
        await self._run(self._store.add_report, report)

    async def skip(self, worker: Worker, comparison_id: str) -> None:
        """Passes on a pair: an own one becomes void, a second opinion goes back to the pool."""
        comparison = await self.comparison(worker, comparison_id)
        if comparison.worker_id != worker.id:
            await self._run(self._store.release_lease, comparison.id, worker.id)
            return
        if comparison.state is not ComparisonState.OPEN:
            raise Problem(409, "not_open", f"This pair is {comparison.state.value} already and cannot be skipped.")
        await self._void(comparison, "skipped")

    async def second_opinion(self, worker: Worker, study: Study) -> Comparison | None:
        """A judged pair of somebody else that needs a second judgment, kept for this worker for a while."""
        if study.state != "open" or study.overlap == 0:
            return None
        await self._phases.refuse_without_consent(worker, await self._phases.shown(study))
        return await self._run(self._store.lease_overlap, study.id, worker.id, self._page.lease_seconds)

    async def context(self, comparison: Comparison) -> list[TreeMessage]:
        """The messages that both responses answer, root first."""
        return await self._run(self._store.path, comparison.context_message_id)

    # ---- inside ----

    async def _refuse_too_fast(self, worker: Worker, study: Study) -> None:
        if (reason := await self.pace_refusal(worker, study)) is not None:
            raise Problem(409, "too_much", reason)

    async def _places_left(self, study: Study) -> PlacesLeft | None:
        if study.target_comparisons is None:
            return None
        return await self._recall(self._store.places_left, study.id, self._page.place_seconds)

    async def _standing(self, conversation_id: str, study: Study) -> Standing:
        return Standing(study, await self._run(self._store.standing, conversation_id))

    async def _own(self, worker: Worker, conversation_id: str) -> Standing:
        facts = await self._run(self._store.standing, conversation_id)
        conversation = facts.conversation
        if conversation.worker_id != worker.id or conversation.study_id is None:
            raise NotFoundError(f"There is no conversation {conversation_id!r} among yours; reload the page.")
        if facts.has_ended:
            raise Problem(409, "conversation_ended", "This conversation has ended; begin a new one.")
        return Standing(await self.study(conversation.study_id), facts)

    @staticmethod
    def _continuation(standing: Standing) -> Continuation | None:
        """What the next message follows, if the last pair is judged and its reply not yet an assistant turn."""
        last = standing.last
        if last is None or last.state is not ComparisonState.JUDGED:
            return None
        side = continued_side(standing.study, last, standing.own_judgment(last))
        edit = standing.edit(last.response(side))
        if edit is None or not goes_on_with_edits(standing.study):
            return Continuation(comparison_id=last.id, side=side)
        return Continuation(comparison_id=edit.id, side=standing.own_judgment(edit).preferred)

    async def _close(self, standing: Standing, reason: str) -> None:
        continuation = self._continuation(standing)
        await self._run(self._store.close_conversation, standing.conversation.id, reason, continuation)

    async def _ask(
        self,
        standing: Standing,
        message: TreeMessage,
        context: Sequence[TreeMessage],
        store: Callable[[Comparison], Coroutine[Any, Any, None]],
    ) -> Comparison:
        """Draws two answers to a message; `context` is all that they answer, root first, `store` keeps the comparison.

        The models are asked while the comparison is being committed: they need longer for a first token than a disk
        for a flush. What they say goes nowhere should the commit fail.
        """
        study = standing.study
        snapshots: dict[str, Snapshot] = {}
        for share in study.snapshots:
            snapshots[share.snapshot_id] = await self._recall(self._store.snapshot, share.snapshot_id)
        first, second = draw_pair(study, snapshots, self._chance)
        shown = await self._phases.shown(study)
        comparison = Comparison(
            conversation_id=standing.conversation.id,
            context_message_id=message.id,
            turn=standing.judged + 1,
            response_a=pending_response(study, first, self._chance),
            response_b=pending_response(study, second, self._chance),
            mode=study.mode,
            tranche=study.tranche,
            study_id=study.id,
            worker_id=standing.conversation.worker_id,
            interface_version=INTERFACE_VERSION,
            instructions_version=shown.instructions_version,
            pacing=pacing_of(shown.phases.pacing, (first, second)),
        )
        drawn: dict[Side, Snapshot] = {"a": first, "b": second}
        stream = self._generation.open(comparison)
        messages = tuple(Message(role=turn.role, text=turn.text) for turn in context)
        stored = asyncio.create_task(store(comparison))
        self._generation.start(stream, comparison, messages, drawn, stored)
        try:
            await asyncio.shield(stored)
        except FullError:
            raise Problem(409, "study_full", STUDY_FULL) from None
        return comparison

    async def _void(self, comparison: Comparison, reason: str) -> None:
        await self._run(self._store.void_comparison, comparison.id, reason)
        self._generation.stop(comparison.id, reason)

    async def _holds_lease(self, worker: Worker, comparison: Comparison) -> bool:
        return await self._run(self._store.holds_lease, comparison.id, worker.id)

    async def _check_revision(self, worker: Worker, comparison: Comparison, judgment_id: str) -> None:
        judgments = [j for j in await self._run(self._store.judgments, comparison.id) if j.worker_id == worker.id]
        if not judgments or judgments[-1].id != judgment_id:
            raise Problem(409, "revised", "Only your latest judgment of a pair can be changed; reload the page.")
        if self.undo_seconds(judgments[-1]) == 0:
            raise Problem(409, "too_late", f"A judgment can be changed for {self._page.undo_seconds:.0f} seconds.")
        if comparison.worker_id == worker.id:
            study = await self.study(str(comparison.study_id))
            standing = await self._standing(comparison.conversation_id, study)
            if standing.last is None or standing.last.id != comparison.id:
                raise Problem(409, "too_late", "The conversation has gone on; that judgment stays as it is.")


_REFUSALS = {
    "answers": ("judge_first", "Judge the two answers first, or skip them."),
    "void": ("void_pair", "The last pair does not count; get new answers or end the conversation."),
    "complete": ("conversation_complete", "This conversation has all its turns; begin the next one."),
}


def _refuse_while_stopped(study: Study) -> None:
    if (reason := stopped_message(study)) is not None:
        raise Problem(409, "study_closed", reason)
