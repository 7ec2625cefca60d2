"""Sampling from a causal language model, token-level: a running batch that rows join and leave, and the Sampler on it.

`BatchDecoder` is the one decoding loop: PPO and evaluation reach it through `TorchSampler`, the model server drives
it step by step. Knows tensors and token ids; knows no conversations, no server and no training.

What a sample depends on: prompt, settings, seed, the prompt's index and the sample's index, and not on the rows that
happen to share the batch. Float rounding is the exception: matrix products round differently at other batch sizes,
so a draw that falls within about 1e-7 of a boundary may differ. The same arguments on the same machine with the same
number of threads give the same samples bit for bit.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from prefloop.errors import DataError, ModelError
from prefloop.models.lean_decode import LeanDecoder, is_lean_model
from prefloop.models.row_cache import RowCache
from prefloop.models.token_draw import DrawSettings, draw_tokens, row_key, uniforms
from prefloop.render import Renderer
from prefloop.schema import FinishReason, Sample, SamplingSettings

__all__ = ["BatchDecoder", "Stepped", "TorchSampler", "row_key"]


class Stepped(NamedTuple):
    """One token of one row. `finish_reason` is None while the row goes on."""

    row: int
    token: int
    logp: float
    finish_reason: FinishReason | None


@dataclass
class _Row:
    """A row that waits or runs. Its prompt without the last token is its prefix: what the prefill computes."""

    handle: int
    prefix: bytes
    prompt: np.ndarray
    settings: SamplingSettings
    key: int
    limit: int  # tokens that may still be drawn
    needed_slots: int
    drawn: int = 0
    is_alive: bool = True


class BatchDecoder:
    """A batch that decodes one token a row and step; rows join with `add` and leave when finished or removed.

    A prompt is computed once for all rows that begin with it, also for rows that join while another one with the
    same prompt runs. Not thread-safe. The caller switches the model to evaluation mode.

    Args:
        model: a Hugging Face causal LM; its weights may change between steps only when no row runs.
        end_id: the token that ends a reply.
        max_rows: rows that run at once; others wait.
        max_cache_tokens: bound on rows times slots of the cache.
        max_prefill_tokens: bound on one prefill forward, padding included.
        join_rows: waiting rows join once so many places are free (or the batch is empty).
    """

    def __init__(
        self,
        model: Any,
        end_id: int,
        *,
        max_rows: int = 128,
        max_cache_tokens: int = 1 << 20,
        max_prefill_tokens: int = 4096,
        join_rows: int = 1,
    ) -> None:
        if "position_ids" not in inspect.signature(model.forward).parameters:
            raise ModelError(
                f"{type(model).__name__} takes no position ids, so rows of mixed length cannot be sampled here; "
                "serve it with vLLM or SGLang and give the server's URL."
            )
        self.model = model
        self.end_id = end_id
        self.max_rows, self.max_cache_tokens, self.max_prefill_tokens = max_rows, max_cache_tokens, max_prefill_tokens
        self.join_rows = join_rows
        self.window_tokens: int = model.config.get_text_config(decoder=True).max_position_embeddings
        self._device: torch.device = model.device
        self._cache = RowCache(model)
        self._waiting: deque[_Row] = deque()
        self._rows: list[_Row] = []  # by place in the cache; dead ones stay until `_compact`
        self._by_handle: dict[int, _Row] = {}
        self._next_handle = 0
        self._slots = np.zeros(0, dtype=np.int64)  # tokens of each row that are in the cache
        self._inputs = np.zeros(0, dtype=np.int64)  # the token of each row that is fed next
        self._keys = np.zeros(0, dtype=np.uint64)
        self._draw_settings: DrawSettings | None = None
        self._lean: LeanDecoder | None = None

    def __len__(self) -> int:
        """Rows that wait or run."""
        return len(self._by_handle)

    def add(self, prompt_ids: Sequence[int], settings: SamplingSettings, key: int) -> int:
        """Adds a row and returns its handle. `key` (64 bits, see `row_key`) determines its random numbers.

        A reply ends at the end token, at `settings.max_response_tokens` or where the model's window is full. Stop
        strings are the caller's matter, who knows text.

        Errors:
            DataError: an empty prompt, or one that fills the window.
        """
        if not 0 < len(prompt_ids) < self.window_tokens:
            raise DataError(
                f"A prompt of {len(prompt_ids)} tokens cannot be answered: the model's window has "
                f"{self.window_tokens}; give between 1 and {self.window_tokens - 1}."
            )
        prompt = np.asarray(prompt_ids, dtype=np.int64)
        limit = min(settings.max_response_tokens, self.window_tokens - len(prompt))
        row = _Row(self._next_handle, prompt[:-1].tobytes(), prompt, settings, key, limit, len(prompt) + limit)
        self._next_handle += 1
        self._waiting.append(row)
        self._by_handle[row.handle] = row
        return row.handle

    def remove(self, handle: int) -> None:
        """Takes a row out, finished or not; unknown handles are ignored."""
        row = self._by_handle.pop(handle, None)
        if row is not None:
            row.is_alive = False

    def clear(self) -> None:
        """Takes all rows out and gives the cache's memory back."""
        self._by_handle.clear()
        self._waiting.clear()
        self._rows.clear()
        self._slots, self._inputs, self._keys = self._slots[:0], self._inputs[:0], self._keys[:0]
        self._cache.clear()

    @torch.inference_mode()
    def step(self) -> list[Stepped]:
        """Lets waiting rows join, decodes one token of every running row, and drops the finished ones.

        Errors:
            ModelError: a logit is not a finite number; all rows are lost.
        """
        self._compact()
        self._join()
        if not self._rows:
            return []
        rows = self._rows
        slots = torch.from_numpy(self._slots).to(self._device)
        if self._lean is not None:
            with torch.autocast("cpu", enabled=False):  # it knows itself what to round
                logits = self._lean.step(self._inputs, self._slots, self._cache)
        else:
            mask = self._cache.begin_step(slots, int(self._slots.max()) + 1)
            logits = self.model(
                input_ids=torch.from_numpy(self._inputs).to(self._device)[:, None],
                position_ids=slots[:, None],
                attention_mask=mask,
                past_key_values=self._cache,
                use_cache=True,
            ).logits[:, -1]
        counts = np.fromiter((row.drawn for row in rows), dtype=np.int64, count=len(rows))
        uniform = torch.from_numpy(uniforms(self._keys, counts)).to(self._device)
        drawn = draw_tokens(logits, self._settings_of_rows(), uniform)
        tokens, logps = drawn.tokens.cpu().numpy(), drawn.logps.cpu().numpy()
        if not np.isfinite(logps).all():
            self.clear()
            raise ModelError(
                "The model gives logits that are not finite numbers, so nothing can be sampled from it; "
                "go back to an earlier checkpoint."
            )
        stepped = []
        for row, token, logp in zip(rows, tokens.tolist(), logps.tolist(), strict=True):
            if not row.is_alive:
                continue
            row.drawn += 1
            reason: FinishReason | None = None
            if token == self.end_id:
                reason = "stop"
            elif row.drawn >= row.limit:
                reason = "length"
            if reason is not None:
                self.remove(row.handle)
            stepped.append(Stepped(row.handle, token, logp, reason))
        self._inputs = tokens
        self._slots = self._slots + np.fromiter((row.is_alive for row in rows), dtype=np.int64, count=len(rows))
        return stepped

    def _settings_of_rows(self) -> DrawSettings:
        if self._draw_settings is None:
            settings = [row.settings for row in self._rows]
            is_plain = all(s.temperature == 1 and s.top_k == 0 and s.top_p == 1 for s in settings)
            self._draw_settings = DrawSettings(
                torch.tensor([s.temperature for s in settings], dtype=torch.float32, device=self._device),
                torch.tensor([s.top_k for s in settings], dtype=torch.long, device=self._device),
                torch.tensor([s.top_p for s in settings], dtype=torch.float32, device=self._device),
                is_plain,
            )
        return self._draw_settings

    def _compact(self) -> None:
        """Moves running rows into the places of finished ones, where the dead rows cost more than the move."""
        alive = np.fromiter((row.is_alive for row in self._rows), dtype=bool, count=len(self._rows))
        count = int(alive.sum())
        dead = len(alive) - count
        if dead == 0 or (dead * 16 < len(alive) and not self._waiting):
            return
        if count:
            holes = np.flatnonzero(~alive[:count])
            sources = count + np.flatnonzero(alive[count:])
            if len(holes):
                self._cache.move(self._index(holes), self._index(sources))
                for hole, source in zip(holes.tolist(), sources.tolist(), strict=True):
                    self._rows[hole] = self._rows[source]
                for state in (self._slots, self._inputs, self._keys):
                    state[holes] = state[sources]
        del self._rows[count:]
        self._slots, self._inputs, self._keys = self._slots[:count], self._inputs[:count], self._keys[:count]
        self._draw_settings = None

    def _join(self) -> None:
        """Gives free places to waiting rows, first come first served, and computes their prompts."""
        free = self.max_rows - len(self._rows)
        if not self._waiting or (self._rows and free < min(self.join_rows, self.max_rows)):
            return
        joining: list[_Row] = []
        slots = max((row.needed_slots for row in self._rows), default=0)
        while self._waiting and len(joining) < free:
            row = self._waiting[0]
            if not row.is_alive:
                self._waiting.popleft()
                continue
            needed = max(slots, row.needed_slots)
            rows = len(self._rows) + len(joining) + 1
            if rows > 1 and rows * needed > self.max_cache_tokens:
                break
            slots = needed
            joining.append(self._waiting.popleft())
        if not joining:
            return
        if not self._rows:
            self._cache.clear()  # a batch of long rows does not keep its memory
            self._lean = LeanDecoder(self.model) if is_lean_model(self.model) else None  # the weights of now
        joining.sort(key=lambda row: -len(row.prompt))  # neighbours attend together: let them be of one length
        count = len(self._rows)
        known: dict[bytes, int] = {}
        for place, running in enumerate(self._rows):
            known.setdefault(running.prefix, place)
        self._rows += joining
        self._slots = np.concatenate([self._slots, [len(row.prompt) - 1 for row in joining]])
        self._inputs = np.concatenate([self._inputs, [row.prompt[-1] for row in joining]])
        self._keys = np.concatenate([self._keys, np.array([row.key for row in joining], dtype=np.uint64)])
        self._draw_settings = None
        self._cache.reserve(min(self.max_rows, max(len(self._rows), 2 * count)), slots)
        self._cache.open_rows(
            torch.arange(count, len(self._rows), device=self._device), self._index(self._slots[count:])
        )
        places: dict[bytes, list[int]] = {}
        for place, row in enumerate(joining, start=count):
            if row.prefix:
                places.setdefault(row.prefix, []).append(place)
        for prefix in [prefix for prefix in places if prefix in known]:
            targets = self._index(np.array(places.pop(prefix)))
            self._cache.copy(targets, torch.full_like(targets, known[prefix]), len(prefix) // 8)
        self._prefill(places)

    def _prefill(self, places: dict[bytes, list[int]]) -> None:
        """Computes each prefix once, in chunks of similar length, and copies it to its places."""
        ordered = sorted(places, key=len, reverse=True)
        if self._lean is not None:
            with torch.autocast("cpu", enabled=False):
                self._lean_prefill(self._lean, ordered, places)
            return
        while ordered:
            width = len(ordered[0]) // 8
            chunk = ordered[: max(1, self.max_prefill_tokens // width)]
            ordered = ordered[len(chunk) :]
            ids = np.zeros((len(chunk), width), dtype=np.int64)  # what pads on the right is seen by no real token
            for index, prefix in enumerate(chunk):
                ids[index, : len(prefix) // 8] = np.frombuffer(prefix, dtype=np.int64)
            prefill = DynamicCache()
            positions = torch.arange(width, device=self._device).expand(len(chunk), width)
            self.model.base_model(
                input_ids=self._index(ids), position_ids=positions, past_key_values=prefill, use_cache=True
            )
            targets = [place for prefix in chunk for place in places[prefix]]
            sources = [index for index, prefix in enumerate(chunk) for _ in places[prefix]]
            layers = [(keys, values) for keys, values, *_ in prefill]
            self._cache.insert(self._index(np.array(targets)), layers, self._index(np.array(sources)))

    def _lean_prefill(self, lean: LeanDecoder, ordered: list[bytes], places: dict[bytes, list[int]]) -> None:
        """The same without padding, so that a chunk is a number of tokens."""
        chunk: list[bytes] = []
        tokens = 0
        for prefix in [*ordered, b""]:
            if chunk and (not prefix or tokens + len(prefix) // 8 > self.max_prefill_tokens):
                prefixes = [np.frombuffer(one, dtype=np.int64) for one in chunk]
                lean.prefill(prefixes, [places[one] for one in chunk], self._cache)
                chunk, tokens = [], 0
            chunk.append(prefix)
            tokens += len(prefix) // 8

    def _index(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)


class TorchSampler:
    """`schema.Sampler` over a causal LM in this process.

    The model is shared, not copied: after an optimizer step the next `sample` draws from the new weights; say so with
    `load_weights(version)`. Recorded log-probabilities are at the settings' temperature before top-k and top-p (for
    greedy sampling, temperature 0, at temperature 1).

    Args:
        model: a Hugging Face causal LM (Llama, GPT-NeoX, GPT-2, Qwen ...), on any device.
        renderer: of the model's tokenizer; its `end_id` ends a reply.
        version: names the weights.
        max_rows: rows decoded at once; finished ones make room for the next.
        max_cache_tokens: bound on rows times tokens of the key-value cache.
    """

    def __init__(
        self, model: Any, renderer: Renderer, version: str, *, max_rows: int = 128, max_cache_tokens: int = 1 << 20
    ) -> None:
        self.model = model
        self.renderer = renderer
        self._version = version
        self._max_rows, self._max_cache_tokens = max_rows, max_cache_tokens

    @property
    def version(self) -> str:
        """Names the weights in use."""
        return self._version

    def load_weights(self, version: str, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Goes on with other weights: `tensors` by name, or those that the shared model has by now."""
        if tensors is not None:
            self.model.load_state_dict(tensors, strict=True)
        self._version = version

    def sample(
        self, prompt_ids: Sequence[Sequence[int]], n: int, settings: SamplingSettings, seed: int
    ) -> list[list[Sample]]:
        """`n` samples for each prompt; a sample's ids hold the end token where it is what ended the reply.

        With stop strings, a reply ends with the token that completes one.

        Errors:
            DataError: an empty prompt, or one that fills the model's window.
            ModelError: the logits are not finite.
        """
        decoder = BatchDecoder(
            self.model,
            self.renderer.end_id,
            max_rows=self._max_rows,
            max_cache_tokens=self._max_cache_tokens,
            join_rows=max(1, self._max_rows // 8),
        )
        places: dict[int, tuple[int, int]] = {}
        for i, prompt in enumerate(prompt_ids):
            for j in range(n):
                places[decoder.add(prompt, settings, row_key(seed, i, j))] = (i, j)
        ids: dict[int, list[int]] = {handle: [] for handle in places}
        logps: dict[int, list[float]] = {handle: [] for handle in places}
        samples: list[list[Sample]] = [[Sample([], [], "error")] * n for _ in prompt_ids]
        with _evaluating(self.model):
            while len(decoder):
                for handle, token, logp, reason in decoder.step():
                    ids[handle].append(token)
                    logps[handle].append(logp)
                    if reason is None and settings.stop and self._has_stop(ids[handle], settings.stop):
                        reason = "stop"
                        decoder.remove(handle)
                    if reason is not None:
                        i, j = places[handle]
                        samples[i][j] = Sample(ids.pop(handle), logps.pop(handle), reason)
        return samples

    def _has_stop(self, ids: list[int], stop: tuple[str, ...]) -> bool:
        # A token is at least one byte of text, so a stop that the last token completes lies within these last ones.
        tail = ids[-(max(len(s.encode()) for s in stop) + 4) :]
        text = self.renderer.decode(tail)
        return any(s in text for s in stop)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Switches dropout off, and back to what it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
