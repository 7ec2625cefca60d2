"""A key-value cache whose rows are of different lengths and come and go. Knows nothing of sampling.

Every row begins at slot 0 and has its own length, so a row can join or leave while the others go on; what lies
beyond a row's length is hidden by the additive mask that the cache keeps beside its buffers. Buffers are allocated
once and written in place: no concatenation at each step.

Legend: R rows, H key-value heads, L slots, D head width, P prompt tokens of a prefill.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from prefloop.errors import ModelError
from prefloop.models.trie_attention import TRIE

__all__ = ["RowCache"]

_SUPPORTED_ATTENTION = ("sdpa", "eager", TRIE)  # the last is "sdpa" where no tries are given


class _RowLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, each (R, H, L, D); allocated once their widths are known."""

    is_sliding = False  # sliding windows are a matter of the mask: all slots are kept

    def __init__(self, cache: RowCache) -> None:
        self._cache = cache
        self.release()

    def release(self) -> None:
        self.key_rows, self.value_rows = torch.empty(0), torch.empty(0)
        self.is_initialized = False

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, slots = self._cache.row_capacity, self._cache.slot_capacity
        self.key_rows = key_states.new_zeros((rows, key_states.shape[1], slots, key_states.shape[3]))
        self.value_rows = value_states.new_zeros((rows, value_states.shape[1], slots, value_states.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes one token a row, (R, H, 1, D), at the row's own slot; returns all slots in use, (R, H, used, D)."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        index, slots, used = self._cache.row_index, self._cache.write_slots, self._cache.used_slots
        rows = key_states.shape[0]
        self.key_rows[index, :, slots] = key_states[:, :, 0].to(self.key_rows.dtype)  # autocast rounds some of them
        self.value_rows[index, :, slots] = value_states[:, :, 0].to(self.value_rows.dtype)
        return self.key_rows[:rows, :, :used], self.value_rows[:rows, :, :used]

    def get_seq_length(self) -> int:
        return self._cache.used_slots

    def get_max_length(self) -> int:
        return self._cache.slot_capacity

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.used_slots, 0


class RowCache(Cache):
    """Cache of a decoder-only model for single-token steps over rows of mixed lengths.

    Args:
        model: a Hugging Face causal LM with full or sliding-window attention, in "sdpa" or "eager" implementation.

    Errors:
        ModelError: recurrent or chunked layers, or an attention implementation that takes no 4-D mask.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config(decoder=True)
        self._kinds = _mask_kinds(config)
        if config._attn_implementation not in _SUPPORTED_ATTENTION:
            raise ModelError(
                f"Sampling works with the attention implementations sdpa and eager, not with "
                f"{config._attn_implementation!r}; load the model with attn_implementation='sdpa'."
            )
        self.row_capacity = self.slot_capacity = self.used_slots = 0
        self._row_layers = [_RowLayer(self) for _ in range(config.num_hidden_layers)]
        super().__init__(layers=list(self._row_layers))
        self._window: int = getattr(config, "sliding_window", None) or 0
        self._device: torch.device = model.device
        self._dtype: torch.dtype = model.dtype
        self._masks: dict[str, Tensor] = {}  # (R, L), 0 where a row attends and the lowest number elsewhere
        self.clear()

    def clear(self) -> None:
        """Gives all memory back."""
        self.row_capacity = self.slot_capacity = self.used_slots = 0
        self.row_index = self.write_slots = torch.zeros(0, dtype=torch.long, device=self._device)
        self._masks = {kind: self._closed(0, 0) for kind in self._kinds}
        for layer in self._row_layers:
            layer.release()

    def reserve(self, rows: int, slots: int) -> None:
        """Makes room for `rows` rows of `slots` slots, keeping what is there."""
        if rows <= self.row_capacity and slots <= self.slot_capacity:
            return
        old_rows, old_slots = self.row_capacity, self.slot_capacity
        self.row_capacity, self.slot_capacity = max(rows, old_rows), max(slots, old_slots)
        for kind, old in self._masks.items():
            self._masks[kind] = self._closed(self.row_capacity, self.slot_capacity)
            self._masks[kind][:old_rows, :old_slots] = old
        for layer in self._row_layers:
            if layer.is_initialized:
                keys, values = layer.key_rows, layer.value_rows
                layer.lazy_initialization(keys, values)
                layer.key_rows[:old_rows, :, :old_slots] = keys
                layer.value_rows[:old_rows, :, :old_slots] = values

    def open_rows(self, rows: Tensor, lengths: Tensor) -> None:
        """Declares that `rows` (n,) now hold `lengths` (n,) tokens each."""
        slots = torch.arange(self.slot_capacity, device=self._device)
        for kind, mask in self._masks.items():
            seen = slots < lengths[:, None]
            if kind == "sliding_attention":
                seen &= slots > lengths[:, None] - self._window
            mask[rows] = torch.zeros_like(mask[:1]).where(seen, torch.finfo(self._dtype).min)

    def insert(self, rows: Tensor, prefill: Sequence[tuple[Tensor, Tensor]], sources: Tensor) -> None:
        """Copies the rows `sources` (n,) of a prefill's keys and values, each (.., H, P, D), to `rows` (n,)."""
        for layer, (keys, values) in zip(self._row_layers, prefill, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys, values)
            prompt_slots = keys.shape[2]
            layer.key_rows[rows, :, :prompt_slots] = keys[sources].to(layer.key_rows.dtype)
            layer.value_rows[rows, :, :prompt_slots] = values[sources].to(layer.value_rows.dtype)

    @property
    def row_layers(self) -> Sequence[_RowLayer]:
        """Keys and values by layer."""
        return self._row_layers

    def write_prompt(self, layer: int, rows: Sequence[int], keys: Tensor, values: Tensor) -> None:
        """Writes one prompt's keys and values of a layer, each (H, P, D), to all of `rows`."""
        own = self._row_layers[layer]
        if not own.is_initialized:
            own.lazy_initialization(keys[None], values[None])
        for row in rows:
            own.key_rows[row, :, : keys.shape[1]] = keys
            own.value_rows[row, :, : keys.shape[1]] = values

    def copy(self, rows: Tensor, sources: Tensor, slots: int) -> None:
        """Copies the first `slots` slots of the rows `sources` (n,) to `rows` (n,): a prompt that is already here."""
        for layer in self._row_layers:
            layer.key_rows[rows, :, :slots] = layer.key_rows[sources, :, :slots]
            layer.value_rows[rows, :, :slots] = layer.value_rows[sources, :, :slots]

    def move(self, rows: Tensor, sources: Tensor) -> None:
        """Moves whole rows, masks included."""
        if self._row_layers[0].is_initialized:
            self.copy(rows, sources, self.used_slots)
        for mask in self._masks.values():
            mask[rows] = mask[sources]

    def begin_step(self, write_slots: Tensor, used_slots: int) -> Tensor | dict[str, Tensor]:
        """Opens slot `write_slots` (R,) of each row for the next token; returns the mask, (R, 1, 1, used)."""
        rows = write_slots.shape[0]
        if self.row_index.shape[0] != rows:
            self.row_index = torch.arange(rows, device=self._device)
        self.write_slots, self.used_slots = write_slots, used_slots
        views: dict[str, Tensor] = {}
        for kind, mask in self._masks.items():
            mask[self.row_index, write_slots] = 0.0
            if kind == "sliding_attention":
                left = write_slots - self._window
                out = (left >= 0).nonzero().squeeze(1)
                mask[out, left[out]] = torch.finfo(self._dtype).min
            views[kind] = mask[:rows, None, None, :used_slots]
        return views if len(views) > 1 else next(iter(views.values()))

    def _closed(self, rows: int, slots: int) -> Tensor:
        return torch.full((rows, slots), torch.finfo(self._dtype).min, dtype=self._dtype, device=self._device)


def _mask_kinds(config: Any) -> tuple[str, ...]:
    """Which masks the model's layers need: full attention, sliding windows, or both (then it takes a dict of them)."""
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None)
    if not layer_types:
        return ("full_attention",) if window is None else ("sliding_attention",)
    unknown = sorted(set(layer_types) - {"full_attention", "sliding_attention"})
    if unknown:
        raise ModelError(
            f"Layers of type {unknown[0]!r} keep no plain key-value cache, so this model cannot be sampled here; "
            "serve it with vLLM or SGLang and give the server's URL."
        )
    return tuple(sorted(set(layer_types)))
