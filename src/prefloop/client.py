"""Reaching served models over HTTP: a Responder for any OpenAI-compatible server, and a Scorer for our own.

Whatever a server does (refuse, freeze, send rubbish, die in mid-sentence) becomes one `error` event with a sentence
that says what happened; nothing but cancellation comes out of a stream as an exception. Knows no torch, no store and
no page.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp
import httpx

from prefloop.errors import ConfigError, ModelError, NotFoundError, UnavailableError
from prefloop.schema import FinishReason, Message, ResponderEvent, ResponderRequest

__all__ = ["HttpScorer", "OpenAIResponder", "api_root", "refusal", "trusts_environment"]

_FINISH_REASONS: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
_LONGEST_LINE_BYTES = 1 << 20
_READ_TO_END_SECONDS = 0.1
_KEEP_ALIVE_SECONDS = 4.0  # servers close a connection that is idle for five seconds or more
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class OpenAIResponder:
    """`schema.Responder` over an OpenAI-compatible server: ours, vLLM, SGLang, llama.cpp or a hosted one.

    Use it within one event loop and close it there (`aclose`, or `async with`).

    Args:
        base_url: the server's address, with or without the final /v1.
        api_key: sent as a bearer token.
        timeout_seconds: the longest silence, before the first token and between two.

    Errors:
        ConfigError: the address is none.
    """

    def __init__(self, base_url: str, api_key: str | None = None, timeout_seconds: float = 60.0) -> None:
        self.base_url = api_root(base_url)
        self.timeout_seconds = timeout_seconds
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._client: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def models(self) -> list[str]:
        """The names that the server lists.

        Errors:
            UnavailableError: no server there, or it answers with something else.
        """
        try:
            async with (
                asyncio.timeout(self.timeout_seconds),
                self._http().get(f"{self.base_url}/models", allow_redirects=False) as response,
            ):
                body = await response.read()
            if response.status != 200:
                raise UnavailableError(f"{self.base_url} refused to list its models: {refusal(response.status, body)}")
            return [str(entry["id"]) for entry in json.loads(body)["data"]]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(self._no_connection(error)) from None
        except (ValueError, TypeError, KeyError):
            raise UnavailableError(
                f"{self.base_url}/models is not an OpenAI-compatible list of models; check the server's address."
            ) from None

    async def stream(self, request: ResponderRequest) -> AsyncIterator[ResponderEvent]:
        """Text as it comes, then one `done` or `error`."""
        reader = _StreamReader()
        try:
            # A limit stands around each wait alone: never around a yield, whose time is the caller's.
            async with asyncio.timeout(self.timeout_seconds):
                response = await self._send(request)
            async with response:  # leaving before the end hangs up
                if response.status != 200:
                    async with asyncio.timeout(self.timeout_seconds):
                        body = await response.read()
                    yield _error(f"The model server refused the request: {refusal(response.status, body)}")
                    return
                clock = asyncio.get_running_loop().time
                patience_seconds = self.timeout_seconds
                while reader.ending is None:
                    asked_at = clock()
                    async with asyncio.timeout(patience_seconds):
                        text = reader.feed(await response.content.readany())
                    # A keep-alive comment is no sign of life: only events give the full patience back.
                    waited_seconds = clock() - asked_at
                    patience_seconds = self.timeout_seconds if reader.took_events else patience_seconds - waited_seconds
                    if text:
                        yield ResponderEvent(kind="delta", text=text)
                await _read_to_end(response)
                yield reader.ending
        except TimeoutError:
            yield _error(f"The model server at {self.base_url} sent nothing for {self.timeout_seconds:g} seconds.")
        except aiohttp.ClientError as error:
            yield _error(self._no_connection(error))

    async def _send(self, request: ResponderRequest) -> aiohttp.ClientResponse:
        return await self._http().post(f"{self.base_url}/chat/completions", json=_body(request), allow_redirects=False)

    def _http(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_SECONDS),
                headers=self._headers,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=trusts_environment(self.base_url),
            )
        return self._client

    def _no_connection(self, error: Exception) -> str:
        reason = str(error) or type(error).__name__
        return f"The model server at {self.base_url} cannot be reached or broke off ({reason}); see whether it runs."


class HttpScorer:
    """`schema.Scorer` over POST /v1/scores of our model server.

    Args:
        base_url: the server's address, with or without the final /v1.
        model: the name of a preference model that it serves.
        timeout_seconds: for one batch.
        batch_conversations: conversations a request.
    """

    def __init__(
        self, base_url: str, model: str, *, timeout_seconds: float = 600.0, batch_conversations: int = 256
    ) -> None:
        self.base_url = api_root(base_url)
        self.model = model
        self._batch = batch_conversations
        self._client = httpx.Client(
            base_url=self.base_url, timeout=timeout_seconds, trust_env=trusts_environment(self.base_url)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        """Raw scores of the last assistant turn of each conversation.

        Errors:
            UnavailableError: the server cannot be reached or answers with something else.
            NotFoundError: it serves no such preference model.
            ModelError: it refused a conversation.
        """
        scores: list[float] = []
        for start in range(0, len(conversations), self._batch):
            scores += self._score(conversations[start : start + self._batch])
        return scores

    def _score(self, conversations: Sequence[Sequence[Message]]) -> list[float]:
        body = {
            "model": self.model,
            "conversations": [[_wire(turn) for turn in conversation] for conversation in conversations],
        }
        try:
            response = self._client.post("/scores", json=body)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"The model server at {self.base_url} cannot be reached ({error or type(error).__name__}); "
                "see whether it runs."
            ) from None
        if response.status_code == 404:
            raise NotFoundError(refusal(response.status_code, response.content))
        if 400 <= response.status_code < 500:
            raise ModelError(refusal(response.status_code, response.content))
        try:
            if response.status_code != 200:
                raise ValueError(response.status_code)
            scores = [float(score) for score in response.json()["scores"]]
            if len(scores) != len(conversations):
                raise ValueError(len(scores))
        except (ValueError, TypeError, KeyError):
            raise UnavailableError(
                f"{self.base_url}/scores did not answer with one score a conversation: "
                f"{refusal(response.status_code, response.content)}"
            ) from None
        return scores


async def _read_to_end(response: aiohttp.ClientResponse) -> None:
    """Takes what follows the ending, usually nothing, so that the connection can be used again."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(_READ_TO_END_SECONDS):
            while await response.content.readany():
                pass


class _StreamReader:
    """Server-sent events of one chat completion -> text, and at last the ending. Fed with bytes cut anywhere."""

    def __init__(self) -> None:
        self.ending: ResponderEvent | None = None
        self.took_events = False
        self._rest = b""
        self._finish_reason: str | None = None
        self._tokens: int | None = None

    def feed(self, chunk: bytes) -> str:
        """The text in `chunk`, which is empty at the end of the stream; then or before, `ending` is set."""
        self.took_events = False
        parts: list[str] = []
        for line in self._lines(chunk):
            parts.append(self._line(line))
            if self.ending is not None:
                break
        if self.ending is None and not chunk:
            self._end("broke off before the reply was finished")
        if len(self._rest) > _LONGEST_LINE_BYTES and self.ending is None:
            self.ending = _error(f"The model server sent a line of more than {_LONGEST_LINE_BYTES} bytes.")
        return "".join(parts)

    def _lines(self, chunk: bytes) -> Iterator[bytes]:
        lines = (self._rest + (chunk or b"\n")).split(b"\n")
        self._rest = lines.pop()
        return (line.rstrip(b"\r") for line in lines)

    def _line(self, line: bytes) -> str:
        if not line.startswith(b"data:"):
            # Comments, event names and blank lines are part of the protocol; anything else is not a stream.
            if line and not line.startswith((b":", b"event:", b"id:", b"retry:")):
                self.ending = _error(f"The model server sent something that is no event: {line[:80]!r}.")
            return ""
        self.took_events = True
        data = line[5:].strip()
        if data == b"[DONE]":
            self._end("said that it was done without a finish reason")
            return ""
        try:
            return self._event(json.loads(data))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            self.ending = _error(f"The model server sent an event that cannot be read: {data[:80]!r}.")
            return ""

    def _event(self, event: Any) -> str:
        if event.get("error"):
            error = event["error"]
            message = error.get("message") if isinstance(error, dict) else error
            self.ending = _error(f"The model server failed: {message}")
            return ""
        if event.get("usage"):
            self._tokens = int(event["usage"]["completion_tokens"])
        if not event.get("choices"):
            return ""
        choice = event["choices"][0]
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        text = (choice.get("delta") or {}).get("content") or ""
        if not isinstance(text, str):
            raise TypeError(text)
        return _without_surrogates(text)

    def _end(self, otherwise: str) -> None:
        if self._finish_reason is None:
            self.ending = _error(f"The model server {otherwise}.")
        elif self._finish_reason not in _FINISH_REASONS:
            self.ending = _error(f"The model server ended the reply for the reason {self._finish_reason!r}.")
        else:
            self.ending = ResponderEvent(
                kind="done", finish_reason=_FINISH_REASONS[self._finish_reason], tokens=self._tokens
            )


def _body(request: ResponderRequest) -> dict[str, Any]:
    sampling = request.sampling
    body: dict[str, Any] = {
        "model": request.model,
        "messages": [_wire(message) for message in request.messages],
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_response_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if sampling.top_k:  # not OpenAI's own, so only where it is wanted
        body["top_k"] = sampling.top_k
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if request.seed is not None:
        body["seed"] = request.seed
    return body


def _wire(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.text}


def _error(text: str) -> ResponderEvent:
    return ResponderEvent(kind="error", text=_without_surrogates(text), finish_reason="error")


def _without_surrogates(text: str) -> str:
    """JSON can spell halves of characters, which no text may hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def refusal(status: int, body: bytes) -> str:
    """What a server says about a refused request, its status in front where it says nothing of use."""
    try:
        error = json.loads(body)["error"]
        message = error["message"] if isinstance(error, dict) else error
        if isinstance(message, str) and message:
            return message
    except (ValueError, TypeError, KeyError):
        pass
    return f"HTTP {status} {body[:200].decode(errors='replace')!r}"


def api_root(base_url: str) -> str:
    """The address with its final /v1.

    Errors:
        ConfigError: it is none.
    """
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError(f"{base_url!r} is not the address of a server; write for example http://127.0.0.1:8000.")
    root = base_url.rstrip("/")
    return root if root.endswith("/v1") else f"{root}/v1"


def trusts_environment(base_url: str) -> bool:
    """A proxy from the environment is meant for other machines, not for this one."""
    return urlsplit(base_url).hostname not in _LOOPBACK
