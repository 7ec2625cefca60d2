"""One thread that decodes for all requests to one set of weights, and the jobs between it and the web server.

Requests join the running batch when they come and leave it when they end, are cancelled or their client is gone.
Knows token ids and text; knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from prefloop.engine.text_stream import TextStream
from prefloop.errors import PrefloopError, StateError
from prefloop.schema import FinishReason, SamplingSettings

if TYPE_CHECKING:
    from prefloop.models.sampling import BatchDecoder

__all__ = ["DecodingThread", "Job", "Update"]

_log = logging.getLogger(__name__)


class Update(NamedTuple):
    """News of one reply of a job. `finish_reason` is None while it goes on."""

    reply: int
    text: str
    finish_reason: FinishReason | None


class Job:
    """Replies to one prompt. Made and read in an event loop, filled by the decoding thread.

    Args:
        prompt_ids: the rendered context.
        settings: temperature, truncation, length and stop strings.
        keys: one random key a reply (see `models.sampling.row_key`).
        decode: ids -> text.
    """

    def __init__(
        self,
        prompt_ids: Sequence[int],
        settings: SamplingSettings,
        keys: Sequence[int],
        decode: Callable[[Sequence[int]], str],
    ) -> None:
        self.prompt_ids, self.settings, self.keys = prompt_ids, settings, keys
        self.texts = [TextStream(decode, settings.stop) for _ in keys]
        self.ids: list[list[int]] = [[] for _ in keys]
        self.logps: list[list[float]] = [[] for _ in keys]
        self.error: str | None = None
        self.loop = asyncio.get_running_loop()
        self._unfinished = len(keys)
        self._updates: deque[Update] = deque()
        self._news = asyncio.Event()

    @property
    def tokens(self) -> list[int]:
        """Drawn so far, of each reply."""
        return [len(ids) for ids in self.ids]

    async def updates(self) -> AsyncIterator[list[Update]]:
        """All news since the last time, until every reply is finished.

        Errors:
            StateError: the decoding failed.
        """
        while self._unfinished:
            await self._news.wait()
            self._news.clear()
            news = []
            while self._updates:
                news.append(self._updates.popleft())
            self._unfinished -= sum(update.finish_reason is not None for update in news)
            if news:
                yield news
            if self.error is not None:
                raise StateError(self.error)

    def put(self, update: Update) -> None:
        """Called by the decoding thread; `wake` makes the news heard."""
        self._updates.append(update)

    def wake(self) -> None:
        """Called in the job's event loop."""
        self._news.set()


class DecodingThread:
    """Decodes for all jobs at once, until closed.

    Args:
        decoder: used by this thread alone from now on.
        name: for the log.
    """

    def __init__(self, decoder: BatchDecoder, name: str) -> None:
        self._decoder = decoder
        self._condition = threading.Condition()
        self._submitted: deque[Job] = deque()
        self._cancelled: set[Job] = set()
        self._is_closing = False
        self._rows: dict[int, tuple[Job, int]] = {}  # by the decoder's handle
        self._thread = threading.Thread(target=self._run, name=f"decoding {name}", daemon=True)
        self._thread.start()

    @property
    def running_rows(self) -> int:
        """Replies that are waited for."""
        return len(self._rows) + sum(len(job.keys) for job in self._submitted)

    def submit(self, job: Job) -> None:
        """Lets a job join.

        Errors:
            StateError: the thread is closing.
        """
        with self._condition:
            if self._is_closing:
                raise StateError("This model has just been retired; ask for the list of models again.")
            self._submitted.append(job)
            self._condition.notify()

    def cancel(self, job: Job) -> None:
        """Takes a job's rows out of the batch; a finished job is left as it is."""
        with self._condition:
            self._cancelled.add(job)
            self._condition.notify()

    def close(self) -> None:
        """Takes no new jobs; the thread ends with the last running one."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()

    def join(self, timeout_seconds: float | None = None) -> None:
        """Waits for the thread's end."""
        self._thread.join(timeout_seconds)

    def _run(self) -> None:
        while True:
            with self._condition:
                while not (self._submitted or self._cancelled or self._rows or self._is_closing):
                    self._condition.wait()
                submitted, cancelled = list(self._submitted), self._cancelled
                self._submitted.clear()
                self._cancelled = set()
                for job in submitted:
                    self._admit(job)
                if self._is_closing and not self._rows:
                    return
            self._remove(cancelled)
            if self._rows:
                self._step()

    def _admit(self, job: Job) -> None:
        try:
            for reply, key in enumerate(job.keys):
                self._rows[self._decoder.add(job.prompt_ids, job.settings, key)] = (job, reply)
        except PrefloopError as error:
            self._fail({job}, str(error))

    def _remove(self, jobs: set[Job]) -> None:
        if jobs:
            for handle in [handle for handle, (job, _) in self._rows.items() if job in jobs]:
                self._drop(handle)

    def _drop(self, handle: int) -> None:
        self._decoder.remove(handle)
        del self._rows[handle]

    def _step(self) -> None:
        try:
            stepped = self._decoder.step()
        except Exception as error:  # the border of the web requests: out of memory, say, must not end the thread
            _log.exception("decoding failed; all running replies are lost")
            self._decoder.clear()
            jobs = {job for job, _ in self._rows.values()}
            self._rows.clear()
            failure = str(error) if isinstance(error, PrefloopError) else f"{type(error).__name__} while decoding."
            self._fail(jobs, failure)
            return
        touched = set()
        for handle, token, logp, reason in stepped:
            job, reply = self._rows[handle]
            text = job.texts[reply]
            job.ids[reply].append(token)
            job.logps[reply].append(logp)
            piece = "" if reason == "stop" else text.push(token)  # the end token is no text
            if reason is not None:
                piece += text.finish()
            if text.is_stopped:
                reason = "stop"
            if reason is not None:
                self._drop(handle)
            if piece or reason is not None:
                job.put(Update(reply, piece, reason))
                touched.add(job)
        self._wake(touched)

    def _fail(self, jobs: set[Job], reason: str) -> None:
        self._remove(jobs)
        for job in jobs:
            job.error = reason
        self._wake(jobs)

    @staticmethod
    def _wake(jobs: set[Job]) -> None:
        """One call into each event loop, however many jobs have news."""
        for loop in {job.loop for job in jobs}:
            mine = [job for job in jobs if job.loop is loop]
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it everybody who listened
                loop.call_soon_threadsafe(_wake_all, mine)


def _wake_all(jobs: list[Job]) -> None:
    for job in jobs:
        job.wake()
