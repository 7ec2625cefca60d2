"""The synchronous store from asynchronous code: every call runs in a thread of its own pool.

The pool is wide because a writing call waits for the group commit that it shares with the others; with few threads
few could share. Sessions, studies and snapshots, which every request reads and which hardly change, are remembered
for a moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
_MAX_REMEMBERED = 10_000
_QUICK_SECONDS = 0.25
_KEPT_TIMES = 20
_LONGEST_KEPT_SECONDS = 600.0


class StoreThreads:
    """Runs store methods: `await threads.run(store.comparison, comparison_id)`."""

    def __init__(self, threads: int = 32, cache_seconds: float = 2.0) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store")
        self._cache_seconds = cache_seconds
        self._remembered: dict[Hashable, tuple[float, Any]] = {}
        self._counting: dict[Hashable, asyncio.Future[Any]] = {}

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call; its errors come through unchanged."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: call(*args, **kwargs))

    async def recall(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call, not asked again for `cache_seconds`. For what hardly changes."""
        return await self._recalled(self._cache_seconds, call, *args, **kwargs)

    async def recall_longer(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The same for ten times as long. For what changes through this process, which then forgets it."""
        return await self._recalled(10 * self._cache_seconds, call, *args, **kwargs)

    async def _recalled(self, seconds: float, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        entry = (call, args)
        known = self._remembered.get(entry)
        if known is not None and known[0] > time.monotonic():
            value: T = known[1]
            return value
        value = await self.run(call, *args, **kwargs)
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[entry] = (time.monotonic() + seconds, value)
        return value

    async def count(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of a count, for a page that asks again and again.

        Those who ask together share one answer. One that took long is kept for twenty times as long, so that watching
        a study of a million judgments takes a twentieth of a core at most.
        """
        entry = (call, args)
        under_way = self._counting.get(entry)
        if under_way is None:
            under_way = asyncio.ensure_future(self._counted(entry, call, *args, **kwargs))
            self._counting[entry] = under_way
        value: T = await asyncio.shield(under_way)
        return value

    async def _counted(self, entry: Hashable, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        keep_seconds = 0.0
        try:
            begun = time.monotonic()
            value = await self._recalled(self._cache_seconds, call, *args, **kwargs)
            seconds = time.monotonic() - begun
            if seconds > _QUICK_SECONDS:
                keep_seconds = min(_KEPT_TIMES * seconds, _LONGEST_KEPT_SECONDS)
            return value
        finally:
            asyncio.get_running_loop().call_later(keep_seconds, self._counting.pop, entry, None)

    def forget(self) -> None:
        """Drops everything remembered, after a change that must be seen at once."""
        self._remembered.clear()

    def close(self) -> None:
        """Waits for the calls under way."""
        self._pool.shutdown(wait=True)
