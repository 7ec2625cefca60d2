"""Partial answers in memory: one `TurnStream` per comparison that is being answered, read by any number of tabs.

A stream's events can be read from any offset, any number of times: whoever connects late, reloads or opens a second
tab gets the same text, without loss and without repetition. Knows nothing of models, of the store and of HTTP.

Events (server-sent events, data is JSON; the id `A-B` holds the characters sent per side, for `Last-Event-ID`):
    delta       side, offset, text    text of that side from that character on (code points)
    done        side, chars, html     the side is complete; `html` is the final rendering
    turn_ready  -                     both sides are stored: a judgment is welcome (last event)
    void        reason, message       the pair does not count (last event)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from prefloop.schema import Pacing, Side
from prefloop.web.markdown import render_markdown

SIDES: tuple[Side, Side] = ("a", "b")
_UNHURRIED_STREAMS = 16
HEARTBEAT = b": still here\n\n"


class Offsets(NamedTuple):
    """Characters of each side that a reader has already."""

    a: int = 0
    b: int = 0

    @classmethod
    def parse(cls, event_id: str | None) -> Offsets:
        """Reads `Last-Event-ID`; anything unreadable begins at the beginning."""
        first, dash, second = (event_id or "").partition("-")
        if dash and first.isdecimal() and second.isdecimal() and len(first) + len(second) < 20:
            return cls(int(first), int(second))
        return cls()


NOTHING_YET = Offsets()


@dataclass(frozen=True)
class Void:
    """Why a pair does not count: a code, and a sentence for the worker."""

    reason: str
    message: str


class TurnStream:
    """The two answers of one comparison while they come in.

    Args:
        pacing: how far a side may be shown; see `shown`.
        worker_id: whose conversation it is.
    """

    def __init__(self, pacing: Pacing = "synchronised", worker_id: str | None = None) -> None:
        self.worker_id = worker_id
        self._pacing = pacing
        self._texts: dict[Side, str] = {"a": "", "b": ""}
        self._complete: set[Side] = set()
        self._is_stored = False
        self._void: Void | None = None
        self._version = 0
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def is_over(self) -> bool:
        """True once nothing more can come."""
        return self._void is not None or self._is_stored

    def add(self, side: Side, text: str) -> None:
        """Appends a piece of an answer."""
        self._texts[side] += text
        self._changed()

    def complete(self, side: Side) -> None:
        """The side's answer is whole."""
        self._complete.add(side)
        self._changed()

    def stored(self) -> None:
        """Both answers are whole and stored."""
        self._is_stored = True
        self._changed()

    def void(self, reason: str, message: str) -> None:
        """The pair does not count; readers are told and the stream ends. The first reason stays."""
        if self._void is None:
            self._void = Void(reason, message)
            self._changed()

    def shown(self, side: Side) -> int:
        """Characters of a side that may be shown now.

        Synchronised: no side runs ahead of the other while that one is still being written, so that speed does not
        give a model away. Reveal at end: nothing until both are complete.
        """
        length = len(self._texts[side])
        unfinished = [other for other in SIDES if other not in self._complete]
        if self._pacing == "raw" or not unfinished:
            return length
        if self._pacing == "reveal_at_end":
            return 0
        return min(length, *(len(self._texts[other]) for other in unfinished))

    async def events(
        self, start: Offsets = NOTHING_YET, flush_seconds: float = 0.04, heartbeat_seconds: float = 15.0
    ) -> AsyncIterator[bytes]:
        """Server-sent events from `start` on, coalesced to one piece per `flush_seconds`, until the stream is over."""
        sent: dict[Side, int] = {"a": start.a, "b": start.b}
        announced: set[Side] = set()
        while True:
            version = self._version
            piece = b"".join(self._news(sent, announced))
            if self._void is not None:
                facts = {"reason": self._void.reason, "message": self._void.message}
                yield piece + _encode("void", facts, sent)
                return
            if self._is_stored and len(announced) == len(SIDES):
                yield piece + _encode("turn_ready", {}, sent)
                return
            if piece:
                yield piece
                await asyncio.sleep(flush_seconds)
            if version == self._version and not await self._change_within(heartbeat_seconds):
                yield HEARTBEAT

    def _news(self, sent: dict[Side, int], announced: set[Side]) -> list[bytes]:
        news: list[bytes] = []
        for side in SIDES:
            shown = self.shown(side)
            if shown > sent[side]:
                delta = {"side": side, "offset": sent[side], "text": self._texts[side][sent[side] : shown]}
                sent[side] = shown
                news.append(_encode("delta", delta, sent))
            text = self._texts[side]
            if side in self._complete and side not in announced and shown == len(text):
                announced.add(side)
                news.append(_encode("done", {"side": side, "chars": len(text), "html": render_markdown(text)}, sent))
        return news

    def _changed(self) -> None:
        self._version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def _change_within(self, seconds: float) -> bool:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True


class Broker:
    """The streams of the comparisons that are being answered in this process."""

    def __init__(self) -> None:
        self._streams: dict[str, TurnStream] = {}

    def open(self, comparison_id: str, pacing: Pacing, worker_id: str | None = None) -> TurnStream:
        """A new stream; it is found under the comparison's id until `close`."""
        stream = self._streams[comparison_id] = TurnStream(pacing, worker_id)
        return stream

    def find(self, comparison_id: str) -> TurnStream | None:
        """The stream, or None when the comparison is not being answered here."""
        return self._streams.get(comparison_id)

    def close(self, comparison_id: str) -> None:
        """Forgets a stream; its readers keep it until they are through."""
        self._streams.pop(comparison_id, None)

    def pause(self, flush_seconds: float) -> float:
        """Seconds between two pieces: longer where many are being answered, so that sending does not cost the rest."""
        return flush_seconds * max(1.0, self.open_streams / _UNHURRIED_STREAMS)

    @property
    def open_streams(self) -> int:
        """How many comparisons are being answered."""
        return len(self._streams)


def finished_stream(texts: dict[Side, str] | None, void: Void | None) -> TurnStream:
    """A stream that is over, made from stored texts: what a late reader gets."""
    stream = TurnStream("raw")
    if void is not None:
        stream.void(void.reason, void.message)
    for side, text in (texts or {}).items():
        stream.add(side, text)
        stream.complete(side)
    if texts:
        stream.stored()
    return stream


def _encode(event: str, data: dict[str, Any], sent: dict[Side, int]) -> bytes:
    return f"id: {sent['a']}-{sent['b']}\nevent: {event}\ndata: {json.dumps(data)}\n\n".encode()
