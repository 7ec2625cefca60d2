"""A deterministic model server for bench_page.py: OpenAI-compatible, 20 tokens a second a stream, hardly any work.

    python benchmarks/page_model.py

Prints its address. The seed of a request decides length and words (`tokens_of`), so that whoever knows the seed knows
the answer. The first token spells the milliseconds that passed between the request's last byte and that token's write:
what the model took, and the page did not.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

TOKENS_PER_SECOND = 20
LEAST_TOKENS, MOST_TOKENS = 60, 140


def tokens_of(seed: int) -> list[str]:
    """All tokens but the first; 60 to 140 of them, 5 seconds on average."""
    count = LEAST_TOKENS + seed % (MOST_TOKENS - LEAST_TOKENS + 1)
    return [f" {'word' if (seed + place) % 7 else 'sentence'}{(seed // 97 + place) % 1000}" for place in range(count)]


class ModelConnection(asyncio.Protocol):
    """One keep-alive connection; requests come one after the other."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def connection_lost(self, error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].split(b":")[1]) if lengths else 0
        if len(body) < length:
            return
        self._buffer = body[length:]
        if head.startswith(b"GET"):
            listed = json.dumps({"data": [{"id": "base"}, {"id": "better"}]}).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            self._transport.write(b"Content-Length: %d\r\n\r\n%s" % (len(listed), listed))
            return
        self._began = time.monotonic()
        self._tokens = tokens_of(int(json.loads(body[:length]).get("seed") or 0))
        self._place = -1
        self._transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self._wait()

    def _wait(self) -> None:
        due = self._began + (self._place + 2) / TOKENS_PER_SECOND
        self._timer = self._loop.call_later(max(0.0, due - time.monotonic()), self._token)

    def _token(self) -> None:
        is_first = self._place < 0
        text = f"{1000 * (time.monotonic() - self._began):.2f}" if is_first else self._tokens[self._place]
        self._place += 1
        self._chunk(b'data: {"choices":[{"index":0,"delta":{"content":"%s"}}]}\n\n' % text.encode())
        if self._place < len(self._tokens):
            self._wait()
            return
        self._chunk(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
        self._chunk(b'data: {"choices":[],"usage":{"completion_tokens":%d}}\n\n' % (len(self._tokens) + 1))
        self._chunk(b"data: [DONE]\n\n")
        self._transport.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self._transport.write(b"%x\r\n%s\r\n" % (len(data), data))


async def serve() -> None:
    """Until killed."""
    server = await asyncio.get_running_loop().create_server(ModelConnection, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    gc.disable()  # no pauses of its own between the page and the clock
    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())
