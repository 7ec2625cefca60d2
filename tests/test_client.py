"""The client against servers that answer byte by byte what the test says: whole, cut, frozen, rubbish, gone."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefloop.client import HttpScorer, OpenAIResponder, _StreamReader
from prefloop.errors import ConfigError, ModelError, NotFoundError, UnavailableError
from prefloop.schema import Message, ResponderEvent, ResponderRequest, SamplingSettings

Handler = Callable[[asyncio.StreamWriter], Awaitable[None]]

REQUEST = ResponderRequest(model="m", messages=(Message(role="user", text="Hello ☃"),))
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Server:
    """A socket that gives one kind of answer and keeps what was asked."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self.requests: list[tuple[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.url = ""
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                lines = head.split("\r\n")
                self.headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                body = await reader.readexactly(int(self.headers.get("content-length", 0)))
                self.requests.append((lines[0].rsplit(" ", 1)[0], json.loads(body) if body else None))
                await self._handler(writer)
                if self.headers.get("connection") == "close" or writer.is_closing():
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Server]:
    server = Server(handler)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def sends(*parts: bytes, then: str = "close", pause_seconds: float = 0.0) -> Handler:
    """Writes the parts one by one; afterwards closes, freezes or resets."""

    async def handler(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_seconds)
        if then == "freeze":
            await asyncio.sleep(30)
        elif then == "reset":
            writer.transport.abort()
        elif then == "close":
            writer.close()

    return handler


def answers(status: int, body: Any) -> Handler:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    return sends(head.encode() + raw, then="keep")


def chunk(text: str | None = None, finish_reason: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    body = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]} | more
    return b"data: " + json.dumps(body).encode() + b"\n\n"


WHOLE = (
    b": keep-alive\n\n"
    + b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}\r\n\r\n'
    + chunk("Grüße")
    + chunk(" ☃")
    + chunk(None, "stop")
    + b'data: {"choices":[],"usage":{"completion_tokens":7}}\n\n'
    + b"data: [DONE]\n\n"
)


async def events_of(
    url: str, timeout_seconds: float = 5.0, request: ResponderRequest = REQUEST
) -> list[ResponderEvent]:
    async with OpenAIResponder(url, timeout_seconds=timeout_seconds) as responder:
        return [event async for event in responder.stream(request)]


def text_of(events: Sequence[ResponderEvent]) -> str:
    """The text, after a check that exactly one ending stands at the end."""
    assert [event.kind for event in events[:-1]] == ["delta"] * (len(events) - 1)
    assert events[-1].kind != "delta"
    return "".join(event.text for event in events[:-1])


async def test_a_whole_reply_and_what_was_asked() -> None:
    request = REQUEST.model_copy(
        update={"sampling": SamplingSettings(temperature=0.5, top_p=0.9, max_response_tokens=9, stop=("x",)), "seed": 3}
    )
    async with serving(sends(SSE + WHOLE)) as server, OpenAIResponder(server.url + "/", api_key="key") as responder:
        events = [event async for event in responder.stream(request)]
    assert text_of(events) == "Grüße ☃"
    assert events[-1] == ResponderEvent(kind="done", finish_reason="stop", tokens=7)
    assert len(events) == 2, "what arrives together is one delta"
    assert server.headers["authorization"] == "bearer key"
    ((path, body),) = server.requests
    assert path == "POST /v1/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hello ☃"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "max_tokens": 9,
        "stop": ["x"],
        "seed": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize(
    ("handler", "text", "sentence"),
    [
        (sends(SSE + chunk("half")), "half", "broke off before the reply was finished"),
        (sends(SSE), "", "broke off before the reply was finished"),
        (sends(SSE + chunk("half"), then="reset"), "half", "broke off"),
        (sends(SSE + chunk("half"), then="freeze"), "half", "sent nothing for 0.3 seconds"),
        (sends(then="freeze"), "", "sent nothing for 0.3 seconds"),
        (sends(SSE, *[b": alive\n\n"] * 30, pause_seconds=0.1), "", "sent nothing for 0.3 seconds"),
        (sends(SSE[:20], *[b"X-A: b\r\n"] * 30, pause_seconds=0.1), "", "sent nothing for 0.3 seconds"),
        (sends(SSE + chunk("a") + b"data: [DONE]\n\n"), "a", "done without a finish reason"),
        (sends(SSE + chunk("a") + b"data: {rubbish\n\n"), "a", "an event that cannot be read: b'{rubbish'"),
        (sends(SSE + b"data: [1]\n\n"), "", "an event that cannot be read"),
        (sends(SSE + b'data: {"choices": 5}\n\n'), "", "an event that cannot be read"),
        (sends(SSE + b"data: " + b"[" * 100_000 + b"\n\n"), "", "an event that cannot be read"),
        (sends(SSE + b"<html>hello</html>\n"), "", "something that is no event: b'<html>hello</html>'"),
        (sends(SSE + b"\xff" * 3_000_000), "", "a line of more than 1048576 bytes"),
        (sends(b"\x00\x01\x02 rubbish"), "", "cannot be reached or broke off"),
        (sends(SSE.replace(b"Connection", b"Content-Encoding: gzip\r\nConnection") + b"no gzip"), "", "broke off"),
        (sends(SSE + chunk("a") + b'data: {"error": {"message": "out of memory"}}\n\n'), "a", "failed: out of memory"),
        (sends(SSE + chunk("a", "content_filter") + b"data: [DONE]\n\n"), "a", "for the reason 'content_filter'"),
        (answers(404, {"error": {"message": "There is no model."}}), "", "refused the request: There is no model."),
        (answers(500, b"<h1>Oh</h1>"), "", "HTTP 500 '<h1>Oh</h1>'"),
        (answers(422, {"detail": "no"}), "", "HTTP 422"),
        (answers(302, b""), "", "HTTP 302"),
        (answers(200, {"choices": []}), "", "something that is no event"),
    ],
)
async def test_every_fault_is_one_error_event(handler: Handler, text: str, sentence: str) -> None:
    async with serving(handler) as server:
        events = await events_of(server.url, timeout_seconds=0.3)
    assert text_of(events) == text
    assert events[-1].kind == events[-1].finish_reason == "error"
    assert sentence in events[-1].text


async def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    (event,) = await events_of(url)
    assert event.kind == "error"
    assert f"{port}/v1 cannot be reached" in event.text
    async with OpenAIResponder(url) as responder:
        with pytest.raises(UnavailableError, match=r"cannot be reached .*see whether it runs"):
            await responder.models()
    with HttpScorer(url, "pm") as scorer, pytest.raises(UnavailableError, match="cannot be reached"):
        scorer.score([[Message(role="assistant", text="x")]])


@pytest.mark.parametrize("address", ["", "nonsense", "ftp://host", "http://", "http://[::1"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a server"):
        OpenAIResponder(address)


async def test_a_slow_reader_is_not_a_slow_server() -> None:
    """The limit is on the server's silence, not on what the caller does between two events."""
    async with serving(sends(SSE, chunk("a"), chunk("b"), chunk(None, "length"), pause_seconds=0.05)) as server:
        events = []
        async with OpenAIResponder(server.url, timeout_seconds=0.3) as responder:
            async for event in responder.stream(REQUEST):
                events.append(event)
                await asyncio.sleep(0.5)
    assert text_of(events) == "ab"
    assert events[-1] == ResponderEvent(kind="done", finish_reason="length")


async def test_cancelling_hangs_up() -> None:
    hung_up = asyncio.Event()

    async def handler(writer: asyncio.StreamWriter) -> None:
        writer.write(SSE + chunk("a"))
        try:
            while True:
                writer.write(chunk("b"))
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            hung_up.set()
            raise

    async with serving(handler) as server, OpenAIResponder(server.url) as responder:
        async with aclosing(responder.stream(REQUEST)) as stream:  # type: ignore[type-var]
            assert (await anext(stream)).kind == "delta"
        await asyncio.wait_for(hung_up.wait(), 10)
        hung_up.clear()

        async def read() -> None:
            async for _ in responder.stream(REQUEST):
                pass

        task = asyncio.create_task(read())
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(hung_up.wait(), 10)


async def test_hundreds_of_streams_share_connections() -> None:
    body = WHOLE
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(body)
    async with serving(sends(head + body, then="keep")) as server, OpenAIResponder(server.url) as responder:

        async def one() -> str:
            return text_of([event async for event in responder.stream(REQUEST)])

        assert await asyncio.gather(*(one() for _ in range(200))) == ["Grüße ☃"] * 200
        connections = server.connections
        for _ in range(20):
            await one()
        assert server.connections == connections, "a finished stream's connection is used again"


async def test_models() -> None:
    listed = {"object": "list", "data": [{"id": "a"}, {"id": "b"}]}
    async with serving(answers(200, listed)) as server, OpenAIResponder(server.url + "/v1") as responder:
        assert await responder.models() == ["a", "b"]
        assert server.requests == [("GET /v1/models", None)]
    for handler, sentence in (
        (answers(200, b"<html>"), "is not an OpenAI-compatible list"),
        (answers(200, {"data": 5}), "is not an OpenAI-compatible list"),
        (answers(401, {"error": {"message": "Who are you?"}}), "refused to list its models: Who are you"),
    ):
        async with serving(handler) as server, OpenAIResponder(server.url) as responder:
            with pytest.raises(UnavailableError, match=sentence):
                await responder.models()


async def test_scores() -> None:
    turns = [Message(role="user", text="q"), Message(role="assistant", text="a")]
    asked: list[Any] = []

    async def handler(writer: asyncio.StreamWriter) -> None:
        scores = [0.5] * len(asked[0].requests[-1][1]["conversations"])
        await answers(200, {"scores": scores})(writer)

    async with serving(handler) as server:
        asked.append(server)
        with HttpScorer(server.url, "pm", batch_conversations=2) as scorer:
            assert await asyncio.to_thread(scorer.score, [turns] * 5) == [0.5] * 5
            assert await asyncio.to_thread(scorer.score, []) == []
    conversation = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert server.requests == [
        ("POST /v1/scores", {"model": "pm", "conversations": [conversation] * count}) for count in (2, 2, 1)
    ]
    for handler, error, sentence in (
        (answers(404, {"error": {"message": "There is no pm."}}), NotFoundError, "There is no pm."),
        (answers(400, {"error": {"message": "Too long."}}), ModelError, "Too long."),
        (answers(503, {"error": {"message": "Busy."}}), UnavailableError, "Busy."),
        (answers(200, {"scores": [1.0, 2.0]}), UnavailableError, "one score a conversation"),
        (answers(200, b"rubbish"), UnavailableError, "one score a conversation"),
    ):
        async with serving(handler) as server:
            with HttpScorer(server.url, "pm") as scorer, pytest.raises(error, match=sentence):
                await asyncio.to_thread(scorer.score, [turns])


@given(st.integers(0, 2**32), st.text(max_size=40))
@settings(max_examples=60)
def test_bytes_may_be_cut_anywhere(seed: int, text: str) -> None:
    raw = WHOLE.replace(chunk(" ☃"), chunk(text))
    rng, reader, got, place = random.Random(seed), _StreamReader(), "", 0
    while place < len(raw):
        size = rng.randint(1, 12)
        got += reader.feed(raw[place : place + size])
        place += size
    assert got == "Grüße" + text
    assert reader.ending == ResponderEvent(kind="done", finish_reason="stop", tokens=7)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([chunk("a"), chunk("b", "stop"), b"data: "]), max_size=8))
def test_no_bytes_make_the_reader_raise(parts: list[bytes]) -> None:
    reader = _StreamReader()
    for part in [*(part for part in parts if part), b""]:
        if reader.ending is None:
            reader.feed(part)
    assert reader.ending is not None


def test_halves_of_characters_become_a_replacement() -> None:
    reader = _StreamReader()
    text = reader.feed(b'data: {"choices":[{"delta":{"content":"a\\ud800b"}}]}\n')
    assert ResponderEvent(kind="delta", text=text).text == "a\ufffdb"
