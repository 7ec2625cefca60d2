"""Prompts and single-token steps of a Llama on a CPU over a `RowCache`, in fewer and larger operations than its own.

`BatchDecoder` takes this way by itself where `is_lean_model` allows it. Rows of about the same length attend together,
so a short row does not read a long one's slots; prompts run without padding, and their last layer gives keys and
values alone. Under autocast in bfloat16 the products take bfloat16; the stream, norms, attention, keys and values stay
what the weights are, as in `lean`. Knows nothing of drawing tokens and of when rows come and go.

Legend as in `row_cache`: R rows, H heads, K key-value heads, D head width; T prompt tokens in a flat row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention, silu

from prefloop.models.adapters import linear_part
from prefloop.models.lean import LeanLayer, LeanShape, attend, is_lean, lean_layers, rotary, rotate
from prefloop.models.row_cache import RowCache

__all__ = ["LeanDecoder", "is_lean_model"]

_GROUPS = 4  # of rows that attend together
_SMALLEST_GROUP = 8


def is_lean_model(model: Any) -> bool:
    """Whether a `LeanDecoder` gives the model's own logits."""
    return (
        type(model).__name__ == "LlamaForCausalLM"
        and is_lean(model.base_model)
        and linear_part(model.get_output_embeddings()) is not None
    )


class LeanDecoder:
    """The weights of a causal LM laid out for decoding. They are a copy: make a new one after an update.

    Products take the dtype that autocast has while it is made.

    Args:
        model: a causal LM that `is_lean_model`.
    """

    @torch.inference_mode()
    def __init__(self, model: Any) -> None:
        trunk = model.base_model
        self._trunk = trunk
        self._shape = LeanShape.of(trunk)
        self._kept: torch.dtype = trunk.embed_tokens.weight.dtype
        self._dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else self._kept
        self._layers = lean_layers(trunk, self._dtype)
        head = linear_part(model.get_output_embeddings())
        assert head is not None, "is_lean_model looks for it"
        self._head = head.weight.to(self._dtype)
        self._head_bias = None if head.bias is None else head.bias.to(self._dtype)
        self._cos, self._sin = rotary(trunk, torch.arange(trunk.config.max_position_embeddings))

    def prefill(self, prefixes: Sequence[np.ndarray], places: Sequence[Sequence[int]], cache: RowCache) -> None:
        """Computes each prefix once and writes its keys and values to its places in the cache."""
        lengths = [len(prefix) for prefix in prefixes]
        positions = torch.cat([torch.arange(length) for length in lengths])
        cos, sin = self._cos[positions], self._sin[positions]
        stream = embedding(torch.from_numpy(np.concatenate(prefixes)), self._trunk.embed_tokens.weight)
        for index, layer in enumerate(self._layers):
            q, k, v = self._projected(stream, layer, cos, sin)
            queries, keys, values = (torch.split(part, lengths) for part in (q, k, v))
            for rows, key, value in zip(places, keys, values, strict=True):
                cache.write_prompt(index, rows, key.transpose(0, 1), value.transpose(0, 1))
            if index + 1 < len(self._layers):
                mixed = [
                    attend(query, key, value, None, self._shape)
                    for query, key, value in zip(queries, keys, values, strict=True)
                ]
                stream = self._rest(stream, torch.cat(mixed), layer)

    def step(self, inputs: np.ndarray, slots: np.ndarray, cache: RowCache) -> Float[Tensor, "R vocabulary"]:
        """Logits after one more token of each row; `slots` (R,) are its places, keys and values are written there."""
        shape = self._shape
        place = torch.from_numpy(slots)
        mask = cache.begin_step(place, int(slots.max()) + 1)
        assert isinstance(mask, Tensor)  # a lean trunk has one kind of layers
        cos, sin = self._cos[place], self._sin[place]
        groups = _groups(slots)
        stream = embedding(torch.from_numpy(inputs), self._trunk.embed_tokens.weight)
        for index, layer in enumerate(self._layers):
            q, k, v = self._projected(stream, layer, cos, sin)
            keys, values = cache.row_layers[index].update(k[:, :, None], v[:, :, None])
            mixed = [
                scaled_dot_product_attention(
                    q[start:stop, :, None],
                    keys[start:stop, :, :used],
                    values[start:stop, :, :used],
                    attn_mask=mask[start:stop, :, :, :used],
                    scale=shape.scale,
                    enable_gqa=shape.heads != shape.key_heads,
                )
                for start, stop, used in groups
            ]
            stream = self._rest(stream, torch.cat(mixed).flatten(1), layer)
        return linear(self._norm(stream, self._trunk.norm.weight), self._head, self._head_bias)

    def _projected(self, stream: Tensor, layer: LeanLayer, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (tokens, heads, D)."""
        heads, turned = self._shape.heads, self._shape.heads + self._shape.key_heads
        joint = linear(self._norm(stream, layer.attention_norm), layer.qkv, layer.qkv_bias)
        split = joint.view(len(joint), -1, self._shape.width)
        rotated = rotate(split[:, :turned], cos, sin).to(self._kept)
        return rotated[:, :heads], rotated[:, heads:], split[:, turned:].to(self._kept)

    def _rest(self, stream: Tensor, mixed: Tensor, layer: LeanLayer) -> Tensor:
        """Output projection and feed-forward, both added to the stream."""
        stream = stream + linear(mixed.to(self._dtype), layer.output, layer.output_bias)
        gate, up = linear(self._norm(stream, layer.feed_norm), layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
        return stream + linear(silu(gate).mul_(up), layer.down, layer.down_bias)

    def _norm(self, stream: Tensor, weight: Tensor) -> Tensor:
        wide = stream.float()
        size = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = size.square_().div_(wide.shape[-1]).add_(self._shape.epsilon).rsqrt_()
        normed: Tensor = (wide * scale).mul_(weight).to(self._dtype)
        return normed


def _groups(slots: np.ndarray) -> list[tuple[int, int, int]]:
    """(start, stop, slots in use) of neighbouring rows."""
    rows = len(slots)
    size = max(_SMALLEST_GROUP, -(-rows // _GROUPS))
    return [(start, stop, int(slots[start:stop].max()) + 1) for start, stop in pairwise([*range(0, rows, size), rows])]
