"""One chat request: its prompt, its replies (the best of k where the snapshot says so), and OpenAI's answer shapes.

Knows the registry's assistants and the JSON that clients expect; the decoding thread does the work.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

from prefloop.engine.decoding import Job, Update
from prefloop.engine.registry import Assistant
from prefloop.engine.requests import ApiError, ChatRequest
from prefloop.errors import DataError, StateError
from prefloop.schema import FinishReason, Message

__all__ = ["ChatReply"]

_LONGEST_PAUSE_SECONDS = 0.12
_PAUSE_SECONDS_A_ROW = 0.001  # many streams at once send less often, so that the sending does not cost the decoding


class _Finished(NamedTuple):
    """A reply that is complete."""

    text: str
    finish_reason: FinishReason
    tokens: int


class ChatReply:
    """The answer to a chat request, made by `whole` or by `stream` (one of them, once).

    Errors:
        ApiError: something unsupported is asked for, or the last turn does not fit the model's window.
    """

    def __init__(self, assistant: Assistant, request: ChatRequest) -> None:
        request.refuse_unsupported()
        self._assistant, self._request = assistant, request
        self._n = request.n or 1
        self._k = assistant.snapshot.best_of_k
        self._id = f"chatcmpl-{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._settings = request.sampling(assistant.snapshot.sampling, assistant.own_stop)
        self._messages = [*assistant.snapshot.prompt, *(message.turn() for message in request.messages)]
        # A reply gets the room that it may take, but never more than half of the window: the context needs some too.
        room = assistant.window_tokens - min(self._settings.max_response_tokens, assistant.window_tokens // 2)
        try:
            self._prompt_ids, self.dropped_turns = assistant.renderer.fit(self._messages, room)
        except DataError as error:
            raise ApiError(400, str(error), "messages", "context_length_exceeded") from None
        self._job = self._submit()
        self._sent_tokens: int | None = None  # where not all that was sampled is sent

    async def whole(self) -> dict[str, Any]:
        """A chat.completion object.

        Errors:
            StateError: the decoding failed.
        """
        try:
            replies = await self._finished()
        finally:
            self._assistant.thread.cancel(self._job)
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": reply.text},
                "finish_reason": reply.finish_reason,
                "logprobs": None,
            }
            for index, reply in enumerate(replies)
        ]
        return self._object("chat.completion", choices) | {"usage": self._usage()}

    async def stream(self) -> AsyncIterator[bytes]:
        """Server-sent events of chat.completion.chunk objects, [DONE] at the end; an error event where it failed."""
        try:
            for index in range(self._n):
                yield self._chunk(index, {"role": "assistant", "content": ""})
            async for updates in self._updates():
                for index, text, finish_reason in updates:
                    if text:
                        yield self._chunk(index, {"content": text})
                    if finish_reason is not None:
                        yield self._chunk(index, {}, finish_reason)
                rows = self._assistant.thread.running_rows
                await asyncio.sleep(min(_LONGEST_PAUSE_SECONDS, _PAUSE_SECONDS_A_ROW * rows))
            if self._request.stream_options is not None and self._request.stream_options.include_usage:
                yield _event(self._object("chat.completion.chunk", []) | {"usage": self._usage()})
            yield b"data: [DONE]\n\n"
        except StateError as error:
            yield _event(ApiError(503, str(error)).body())
        finally:
            self._assistant.thread.cancel(self._job)

    def _submit(self) -> Job:
        from prefloop.models.sampling import row_key

        seed = secrets.randbits(63) if self._request.seed is None else self._request.seed
        keys = [row_key(seed, 0, index) for index in range(self._n * self._k)]
        job = Job(self._prompt_ids, self._settings, keys, self._assistant.renderer.decode)
        self._assistant.thread.submit(job)
        return job

    async def _updates(self) -> AsyncIterator[list[Update]]:
        """News of the replies as the client sees them."""
        if self._k == 1:
            async for updates in self._job.updates():
                yield _merged(updates)
        else:
            finished = await self._finished()
            yield [Update(index, reply.text, reply.finish_reason) for index, reply in enumerate(finished)]

    async def _finished(self) -> list[_Finished]:
        texts = [""] * len(self._job.keys)
        reasons: list[FinishReason] = ["error"] * len(self._job.keys)
        async for updates in self._job.updates():
            for reply, text, finish_reason in updates:
                texts[reply] += text
                reasons[reply] = finish_reason or reasons[reply]
        replies = [_Finished(*fields) for fields in zip(texts, reasons, self._job.tokens, strict=True)]
        scorer = self._assistant.scorer
        if scorer is None:
            return replies
        # The PM sees the conversation as the person does, without the example prompt before it.
        context = [message.turn() for message in self._request.messages]
        conversations = [[*context, Message(role="assistant", text=reply.text)] for reply in replies]
        scores = await asyncio.to_thread(scorer.score, conversations)
        groups = [range(start, start + self._k) for start in range(0, len(replies), self._k)]
        best = [replies[max(group, key=scores.__getitem__)] for group in groups]
        self._sent_tokens = sum(reply.tokens for reply in best)
        return best

    def _usage(self) -> dict[str, int]:
        """completion_tokens are those of the replies that are sent, sampled_tokens those of all candidates."""
        sampled = sum(self._job.tokens)
        completion = sampled if self._sent_tokens is None else self._sent_tokens
        return {
            "prompt_tokens": len(self._prompt_ids),
            "completion_tokens": completion,
            "total_tokens": len(self._prompt_ids) + completion,
            "sampled_tokens": sampled,
            "dropped_turns": self.dropped_turns,
        }

    def _object(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": kind,
            "created": self._created,
            "model": self._assistant.snapshot.name,
            "choices": choices,
        }

    def _chunk(self, index: int, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
        return _event(self._object("chat.completion.chunk", [choice]))


def _merged(updates: Iterable[Update]) -> list[Update]:
    """One update a reply: what came since the last sending goes out in one piece."""
    merged: dict[int, Update] = {}
    for update in updates:
        before = merged.get(update.reply)
        text = update.text if before is None else before.text + update.text
        merged[update.reply] = Update(update.reply, text, update.finish_reason)
    return list(merged.values())


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
