"""A model server that speaks the OpenAI protocol over real sockets until it is told to misbehave.

The last message of a request says what goes wrong, and with which of the two answers: "[rubbish 2]" sends rubbish in
the middle of the second one that is asked for. `python rogue_server.py PORT` answers slowly until it is killed or
stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from collections import Counter

PIECES = 12
FAULTS = {
    "refused": "an answer that is no stream",
    "page": "a web page instead of a stream",
    "silent": "accepts and never answers",
    "frozen": "stops in the middle",
    "pings": "sends nothing but comments from the middle on",
    "killed": "breaks the connection in the middle",
    "closed": "ends the stream in the middle",
    "rubbish": "bytes that are no events",
    "json": "events that are no JSON",
    "types": "events of another shape",
    "endless": "a line that does not end",
    "error": "an error event",
}


class RogueServer:
    """Serves on `port` inside of a running loop."""

    def __init__(self, pause_seconds: float = 0.0) -> None:
        self.pause_seconds = pause_seconds
        self.port = 0
        self._asked: Counter[str] = Counter()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> RogueServer:
        await self.start(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def start(self, port: int) -> None:
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            await self._serve(reader, writer)
        finally:
            if task.cancelling():
                writer.transport.abort()
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(re.search(r"content-length: (\d+)", head, re.IGNORECASE)[1])  # type: ignore[index]
            order = json.loads(await reader.readexactly(length))["messages"][-1]["content"]
            self._asked[order] += 1
            wanted = re.search(r"\[(\w+) ([12])\]", order)
            is_wrong = wanted is not None and (self._asked[order] - 1) % 2 + 1 == int(wanted[2])
            await self._answer(writer, wanted[1] if wanted and is_wrong else "")

    async def _answer(self, writer: asyncio.StreamWriter, fault: str) -> None:
        if fault == "silent":
            await asyncio.sleep(3600)
        if fault == "refused":
            writer.write(b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\n\r\nboom")
            return
        if fault == "page":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><script>alert(1)</script></html>")
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for piece in range(PIECES):
            if piece == PIECES // 2 and fault:
                await self._misbehave(writer, fault)
                return
            self._event(writer, {"choices": [{"index": 0, "delta": {"content": f" word{piece}"}}]})
            await writer.drain()
            await asyncio.sleep(self.pause_seconds)
        self._event(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()

    async def _misbehave(self, writer: asyncio.StreamWriter, fault: str) -> None:
        if fault == "frozen":
            await asyncio.sleep(3600)
        while fault == "pings":
            writer.write(b": still here\n\n")
            await writer.drain()
            await asyncio.sleep(0.05)
        if fault == "killed":
            writer.transport.abort()
            return
        rubbish = {
            "rubbish": bytes(range(256)) * 20 + b"\n\n",
            "json": b"data: {choices: none}\n\n",
            "types": b'data: {"choices": [{"delta": {"content": {"a": [1]}}}]}\n\n',
            "endless": b"data: " + b"x" * (2 << 20),
            "error": b'data: {"error": {"message": "CUDA out of memory"}}\n\n',
            "closed": b"",
        }
        writer.write(rubbish[fault])
        await writer.drain()

    @staticmethod
    def _event(writer: asyncio.StreamWriter, event: dict[str, object]) -> None:
        writer.write(f"data: {json.dumps(event)}\n\n".encode())


async def main(port: int) -> None:
    await RogueServer(pause_seconds=0.15).start(port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
