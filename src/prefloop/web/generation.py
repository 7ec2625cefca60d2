"""Runs the two answers of a comparison as a task that no browser connection owns.

Text goes to the broker as it comes, both answers to the store at once when the second is finished (that an answer has
begun, or one alone is whole, is known here and is not worth a write: after a crash it is void all the same). A side
that fails, falls silent or takes too long voids the whole pair: a judgment between an answer and a failure says nothing
about the answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

from prefloop.errors import PrefloopError
from prefloop.schema import (
    Comparison,
    Message,
    Responder,
    ResponderEvent,
    ResponderRequest,
    SamplingSettings,
    Side,
    Snapshot,
    now,
)
from prefloop.store import Answer, Store
from prefloop.web.broker import SIDES, Broker, TurnStream
from prefloop.web.settings import PageSettings
from prefloop.web.store_threads import StoreThreads
from prefloop.web.texts import VOID_MESSAGES

_log = logging.getLogger(__name__)


class _AnswerFailed(Exception):
    """One side cannot be completed."""

    def __init__(self, response_id: str, code: str, reason: str) -> None:
        super().__init__(reason)
        self.response_id, self.code = response_id, code


class _NotStored(Exception):
    """The comparison that is being answered could not be kept."""


class Generation:
    """Starts, follows and stops the turns that are being answered."""

    def __init__(
        self, store: Store, threads: StoreThreads, responder: Responder, broker: Broker, page: PageSettings
    ) -> None:
        self._store, self._threads, self._responder = store, threads, responder
        self._broker, self._page = broker, page
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def open(self, comparison: Comparison) -> TurnStream:
        """The stream of a comparison, before it is stored: whoever finds the row finds its stream."""
        return self._broker.open(comparison.id, comparison.pacing or "synchronised", comparison.worker_id)

    def start(
        self,
        stream: TurnStream,
        comparison: Comparison,
        messages: tuple[Message, ...],
        snapshots: Mapping[Side, Snapshot],
        stored: asyncio.Task[None],
    ) -> None:
        """Begins both answers of a comparison; `messages` is its context, `stored` the commit under way.

        Nothing is written before that commit; where it fails, the answers are dropped.
        """
        names = {side: snapshots[side].name for side in SIDES}
        turn = self._turn(stream, comparison, messages, names, stored)
        task = asyncio.create_task(turn, name=f"turn {comparison.id}")
        self._tasks[comparison.id] = task
        task.add_done_callback(lambda _: self._forget(comparison.id))

    def stop(self, comparison_id: str, reason: str) -> None:
        """Ends a turn that the store has voided already; its readers are told why."""
        stream = self._broker.find(comparison_id)
        if stream is not None:
            stream.void(reason, VOID_MESSAGES.get(reason, VOID_MESSAGES["failed"]))
        task = self._tasks.get(comparison_id)
        if task is not None:
            task.cancel()

    async def close(self) -> None:
        """Cancels every turn; the store voids what is unfinished at the next start."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def _forget(self, comparison_id: str) -> None:
        self._tasks.pop(comparison_id, None)
        self._broker.close(comparison_id)

    async def _turn(
        self,
        stream: TurnStream,
        comparison: Comparison,
        messages: tuple[Message, ...],
        names: Mapping[Side, str],
        stored: asyncio.Task[None],
    ) -> None:
        answers: list[Answer] = []
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._refuse_unstored(stored))
                for side in SIDES:
                    group.create_task(self._answer(stream, comparison, side, names[side], messages, answers))
            await self._threads.run(self._store.finish_responses, answers)
            stream.stored()
        except* _NotStored:
            stream.void("failed", VOID_MESSAGES["failed"])  # the sender was told why; nobody can read this stream
        except* _AnswerFailed as failures:
            failure = failures.exceptions[0]
            assert isinstance(failure, _AnswerFailed)
            with contextlib.suppress(PrefloopError):  # void already: the worker skipped in the same moment
                await asyncio.shield(stored)
                await self._threads.run(self._store.finish_responses, answers)
                await self._threads.run(self._store.fail_response, failure.response_id, str(failure))
            stream.void(failure.code, VOID_MESSAGES[failure.code])
        except* Exception as errors:  # the border of a web request: recorded, and the page goes on
            _log.error("comparison %s failed", comparison.id, exc_info=errors)
            with contextlib.suppress(PrefloopError):
                reason = f"server: {errors.exceptions[0]!r}"
                await asyncio.shield(stored)
                await self._threads.run(self._store.void_comparison, comparison.id, reason, is_our_fault=True)
            stream.void("failed", VOID_MESSAGES["failed"])

    @staticmethod
    async def _refuse_unstored(stored: asyncio.Task[None]) -> None:
        """Whatever the commit failed of: the request that waits for it says so, and nothing was written."""
        await asyncio.wait([stored])
        if error := stored.exception():
            raise _NotStored from error

    async def _answer(
        self,
        stream: TurnStream,
        comparison: Comparison,
        side: Side,
        model: str,
        messages: tuple[Message, ...],
        answers: list[Answer],
    ) -> None:
        """Follows one side to its end and adds it to `answers`."""
        response = comparison.response(side)
        request = ResponderRequest(
            model=model, messages=messages, sampling=response.sampling or SamplingSettings(), seed=response.seed
        )
        parts: list[str] = []
        first_token_at = None
        ending: ResponderEvent | None = None
        try:
            async with contextlib.aclosing(_events(self._responder.stream(request), self._page)) as events:
                async for event in events:
                    if event.kind != "delta":
                        ending = event
                        break
                    if event.text:
                        first_token_at = first_token_at or now()
                        text = storable(event.text)
                        parts.append(text)
                        stream.add(side, text)
                        await asyncio.sleep(self._broker.pause(self._page.flush_seconds))  # readers get no more often
        except TimeoutError:
            raise _AnswerFailed(response.id, "timeout", f"timeout: side {side}") from None
        except PrefloopError as error:
            raise _AnswerFailed(response.id, "failed", f"model: {error}") from error
        done_at, text = now(), "".join(parts)
        if ending is None:
            raise _AnswerFailed(response.id, "failed", "model: the stream ended without a final event")
        if ending.kind == "error":
            raise _AnswerFailed(response.id, "failed", f"model: {ending.text or 'error without a message'}")
        if not text.strip():
            raise _AnswerFailed(response.id, "empty", f"empty: side {side}")
        answers.append(
            Answer(response.id, text, ending.tokens, ending.finish_reason or "stop", first_token_at, done_at)
        )
        stream.complete(side)


async def _events(source: AsyncIterator[ResponderEvent], page: PageSettings) -> AsyncGenerator[ResponderEvent]:
    """The responder's events; TimeoutError after a long silence or when the whole takes too long."""
    loop = asyncio.get_running_loop()
    end = loop.time() + page.answer_timeout_seconds
    try:
        while True:
            async with asyncio.timeout_at(min(end, loop.time() + page.stall_timeout_seconds)):
                event = await anext(source, None)
            if event is None:
                return
            yield event
    finally:
        close: Any = getattr(source, "aclose", None)
        if close is not None:
            await close()


def storable(text: str) -> str:
    """The text without what databases and UTF-8 refuse: NUL and lone surrogates become U+FFFD."""
    return text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
