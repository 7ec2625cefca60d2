"""Streams: every reader gets every character once, whenever and from wherever it reads."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fake_server import events_of
from hypothesis import given
from hypothesis import strategies as st

from prefloop.web.broker import HEARTBEAT, NOTHING_YET, Broker, Offsets, TurnStream, Void, finished_stream

SIDES = ("a", "b")


async def read(stream: TurnStream, start: Offsets = NOTHING_YET, **more: Any) -> list[tuple[str, dict[str, Any]]]:
    pieces = [piece async for piece in stream.events(start, flush_seconds=0.0, **more)]
    return events_of(b"".join(pieces).decode())


def text_of(events: list[tuple[str, dict[str, Any]]], side: str, start: int = 0) -> str:
    """The text that the deltas add up to; fails where an offset leaves a gap or repeats."""
    text = ""
    for name, facts in events:
        if name == "delta" and facts["side"] == side:
            assert facts["offset"] == start + len(text)
            text += facts["text"]
    return text


PIECES = st.lists(st.tuples(st.sampled_from(SIDES), st.text(st.characters(codec="utf-8"), min_size=1, max_size=5)))


@given(pieces=PIECES, late=st.integers(0, 20), pacing=st.sampled_from(["synchronised", "raw", "reveal_at_end"]))
def test_every_reader_gets_the_same_text(pieces: list[tuple[str, str]], late: int, pacing: str) -> None:
    async def scene() -> None:
        stream = TurnStream(pacing)
        whole = {side: "".join(text for at, text in pieces if at == side) for side in SIDES}
        early = asyncio.create_task(read(stream))
        for side, text in pieces:
            stream.add(side, text)
            await asyncio.sleep(0)
        start = Offsets(min(late, stream.shown("a")), min(late, stream.shown("b")))
        second = asyncio.create_task(read(stream, start))
        for side in SIDES:
            stream.complete(side)
            await asyncio.sleep(0)
        assert not stream.is_over
        stream.stored()
        first_events, second_events = await early, await second
        for side, at in zip(SIDES, start, strict=True):
            assert text_of(first_events, side) == whole[side]
            assert text_of(second_events, side, at) == whole[side][at:]
        for events in (first_events, second_events):
            assert [name for name, _ in events].count("done") == 2
            assert events[-1] == ("turn_ready", {})

    asyncio.run(scene())


def test_synchronised_no_side_runs_ahead_of_one_that_is_being_written() -> None:
    stream = TurnStream("synchronised")
    stream.add("a", "x" * 50)
    assert (stream.shown("a"), stream.shown("b")) == (0, 0)  # b has not begun
    stream.add("b", "y" * 20)
    assert (stream.shown("a"), stream.shown("b")) == (20, 20)
    stream.complete("a")
    assert (stream.shown("a"), stream.shown("b")) == (20, 20)  # a is whole, and waits for b
    stream.add("b", "y" * 60)
    assert (stream.shown("a"), stream.shown("b")) == (50, 80)  # a is shown whole; b goes on alone


def test_the_longer_side_is_shown_whole_once_the_shorter_is_complete() -> None:
    stream = TurnStream("synchronised")
    stream.add("a", "x" * 50)
    stream.add("b", "y" * 20)
    stream.complete("b")
    assert (stream.shown("a"), stream.shown("b")) == (50, 20)


def test_other_pacings() -> None:
    raw, late = TurnStream("raw"), TurnStream("reveal_at_end")
    for stream in (raw, late):
        stream.add("a", "xxx")
        stream.complete("a")
    assert raw.shown("a") == 3
    assert late.shown("a") == 0
    late.complete("b")
    assert late.shown("a") == 3


async def test_a_void_pair_ends_the_stream_and_the_first_reason_stays() -> None:
    stream = TurnStream()
    reading = asyncio.create_task(read(stream))
    await asyncio.sleep(0)
    stream.void("timeout", "Too long.")
    stream.void("failed", "Something else.")
    assert await reading == [("void", {"reason": "timeout", "message": "Too long."})]
    assert stream.is_over


async def test_a_silent_stream_sends_comments() -> None:
    stream = TurnStream()
    events = stream.events(heartbeat_seconds=0.01)
    assert await anext(events) == HEARTBEAT
    assert await anext(events) == HEARTBEAT
    await events.aclose()


async def test_done_carries_the_rendering() -> None:
    events = await read(finished_stream({"a": "**x**", "b": "<b>"}, None))
    html = {facts["side"]: facts["html"] for name, facts in events if name == "done"}
    assert html == {"a": "<p><strong>x</strong></p>\n", "b": "<p>&lt;b&gt;</p>\n"}


async def test_a_finished_void_pair() -> None:
    assert await read(finished_stream(None, Void("void", "No."))) == [("void", {"reason": "void", "message": "No."})]


@pytest.mark.parametrize(
    ("text", "offsets"),
    [("12-7", (12, 7)), (None, (0, 0)), ("", (0, 0)), ("x-1", (0, 0)), ("-1-5", (0, 0)), ("9" * 30 + "-1", (0, 0))],
)
def test_event_ids(text: str | None, offsets: tuple[int, int]) -> None:
    assert Offsets.parse(text) == offsets


def test_the_broker_forgets() -> None:
    broker = Broker()
    stream = broker.open("x", "raw")
    assert broker.find("x") is stream
    assert broker.open_streams == 1
    broker.close("x")
    broker.close("x")
    assert broker.find("x") is None
