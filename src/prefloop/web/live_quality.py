"""The data quality report as it is now: worked out in a process of its own, remembered, and shown to researchers.

A report on many judgments takes a minute of processor time, which must not stand between workers and their answers.
Knows when to work one out again; knows nothing of what it says.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from prefloop.config import QualitySettings
from prefloop.errors import PrefloopError


def quality_page(url: str, limits: str) -> str:
    """The page of one report on a database; runs in the other process. `limits` are the settings as JSON."""
    from prefloop.quality import quality_report, report_page
    from prefloop.store import Store

    with Store.open(url) as store:
        return report_page(quality_report(store, limits=QualitySettings.model_validate_json(limits))).html()


def _give_way() -> None:
    """In the other process: whoever answers workers goes first."""
    if hasattr(os, "nice"):
        os.nice(10)


class LiveQuality:
    """The latest page, and at most one process that makes the next.

    Args:
        url: of the database.
        limits: settings of the report.
        seconds: a page older than this is made anew when somebody asks; the old one is shown until then.
    """

    def __init__(self, url: str, limits: QualitySettings, seconds: float) -> None:
        self._url, self._limits, self._seconds = url, limits.model_dump_json(), seconds
        self._pool: ProcessPoolExecutor | None = None
        self._making: asyncio.Task[None] | None = None
        self._made_at = float("-inf")
        self.html: str | None = None
        self.problem = ""

    def ask(self) -> None:
        """Starts a new page unless one is fresh or in the making."""
        is_making = self._making is not None and not self._making.done()
        if not is_making and time.monotonic() - self._made_at > self._seconds:
            self._making = asyncio.get_running_loop().create_task(self._make())

    async def _make(self) -> None:
        if self._pool is None:
            spawn = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_give_way)
        try:
            made = asyncio.get_running_loop().run_in_executor(self._pool, quality_page, self._url, self._limits)
            self.html, self.problem = await made, ""
        except PrefloopError as error:
            self.problem = str(error)
        except BrokenProcessPool:  # killed from outside, for its memory say
            self._pool = None
            self.problem = "The process that works the report out was ended; see the machine's memory."
        self._made_at = time.monotonic()

    def close(self) -> None:
        """Waits for nothing: a page in the making is given up."""
        if self._making is not None:
            self._making.cancel()
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
