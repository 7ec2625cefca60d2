"""The forward of a Llama-like trunk over token tries on a CPU, with less work than the general one. Knows no training.

`packed_hidden` takes this way by itself where it can; the general way stays for every other model and for GPUs. Both
give the same hidden states (a test compares them, gradients too). What is saved:

- linear layers run over real tokens alone, in one flat row: no padding to a common length, and the projections that
  read the same input are one product;
- attention goes along the branches of the tries, block by block (`trie_attention`);
- the last layer's queries, output projection and feed-forward run at the places that are read alone;
- norms, rotation and gate are functions with their gradient written out: fewer passes over memory, fewer tensors kept.

Under autocast in bfloat16 the products take bfloat16 and the residual stream, norms and attention stay in float32.

Legend: T tokens in a flat row, tree after tree; H heads, K key-value heads, D head width; read as in `trie`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

from prefloop.models.adapters import linear_part
from prefloop.models.trie_attention import FlatTries, block_attention

__all__ = ["LeanLayer", "LeanShape", "attend", "is_lean", "lean_hidden", "lean_layers", "rotary", "rotate"]

_KINDS = ("llama",)
_ROPES = ("default", "linear", "llama3")  # those whose angles depend on the position alone

_SIZE_STEP = 128
"""In bfloat16 a product of a new size is compiled, and that stays in memory: rows come in such steps."""


def is_lean(trunk: Any) -> bool:
    """Whether this module computes the trunk exactly: Llama's architecture on a CPU.

    A LoRA adapter is added to the weights first, and is exact too; other adapters are not known here.
    """
    config: Any = getattr(trunk, "config", None)
    return (
        type(trunk).__name__ == "LlamaModel"
        and config.model_type in _KINDS
        and config.hidden_act == "silu"
        and trunk.rotary_emb.rope_type in _ROPES
        and not config.attention_dropout
        and trunk.embed_tokens.weight.device.type == "cpu"
        and not getattr(trunk, "gradient_checkpointing", False)
        and all(linear_part(module) is not None for layer in trunk.layers for module in _projections(layer))
    )


def _projections(layer: Any) -> list[Any]:
    """All linear parts of a layer: an adapter puts something else in the place of one."""
    attention, feed = layer.self_attn, layer.mlp
    own = [attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj]
    return [*own, feed.gate_proj, feed.up_proj, feed.down_proj]


class LeanLayer(NamedTuple):
    """The weights of one layer, those that read the same input side by side; biases are None where there are none."""

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    feed_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class LeanShape(NamedTuple):
    """What a layer's attention and norms need to know."""

    heads: int
    key_heads: int
    width: int
    scale: float
    epsilon: float

    @classmethod
    def of(cls, trunk: Any) -> LeanShape:
        attention = trunk.layers[0].self_attn
        config = trunk.config
        width = attention.head_dim
        return cls(
            config.num_attention_heads, config.num_key_value_heads, width, attention.scaling, config.rms_norm_eps
        )


class _Trees(NamedTuple):
    """How the flat row is cut. `flat` are the used places of the packed layout, tree after tree."""

    flat: Int[Tensor, " T"]
    lengths: list[int]
    masks: list[Bool[Tensor, "column column"] | None]  # None: a plain sequence
    tries: FlatTries


def lean_layers(trunk: Any, dtype: torch.dtype) -> list[LeanLayer]:
    """The weights of all layers for products in `dtype`, gradients flow back to the trunk's own."""

    def joined(*modules: Any) -> tuple[Tensor, Tensor | None]:
        parts = [part for module in modules if (part := linear_part(module)) is not None]
        weight = parts[0].weight if len(parts) == 1 else torch.cat([part.weight for part in parts])
        biases = [part.bias for part in parts if part.bias is not None]
        bias = torch.cat(biases).to(dtype) if biases else None
        return weight.to(dtype), bias

    layers = []
    for layer in trunk.layers:
        attention, feed = layer.self_attn, layer.mlp
        layers.append(
            LeanLayer(
                layer.input_layernorm.weight,
                *joined(attention.q_proj, attention.k_proj, attention.v_proj),
                *joined(attention.o_proj),
                layer.post_attention_layernorm.weight,
                *joined(feed.gate_proj, feed.up_proj),
                *joined(feed.down_proj),
            )
        )
    return layers


def rotary(trunk: Any, positions: Int[Tensor, " T"]) -> tuple[Float[Tensor, "T half"], Float[Tensor, "T half"]]:
    """Cosines and sines of the trunk's own rotary embedding, for half a head: the other half repeats them."""
    cos, sin = trunk.rotary_emb(torch.empty(0, dtype=torch.float32), positions[None])
    half = cos.shape[-1] // 2
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()


def lean_hidden(trunk: Any, batch: Any, at: Int[Tensor, " read"]) -> Float[Tensor, "read hidden"]:
    """`packed_hidden` of a trunk that `is_lean`. Differentiable; float32."""
    shape = LeanShape.of(trunk)
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    with torch.autocast("cpu", enabled=False):
        layers = lean_layers(trunk, dtype)
        trees = _trees(batch)
        place = torch.empty(batch.ids.numel(), dtype=torch.long)
        place[trees.flat] = torch.arange(len(trees.flat))
        reads, back = place[at].unique(return_inverse=True)  # type: ignore[no-untyped-call]
        ids, positions = batch.ids.flatten()[trees.flat], batch.positions.flatten()[trees.flat]
        if dtype != torch.float32:  # few sizes, see _SIZE_STEP
            extra = -len(ids) % _SIZE_STEP
            ids, positions = (torch.cat([one, one.new_zeros(extra)]) for one in (ids, positions))
            trees = trees._replace(lengths=[*trees.lengths, extra], masks=[*trees.masks, None])
            reads = torch.cat([reads, reads[-1:].expand(-len(reads) % _SIZE_STEP)])
        cos, sin = rotary(trunk, positions)
        stream = embedding(ids, trunk.embed_tokens.weight).float()
        for layer in layers[:-1]:
            stream = _layer(stream, layer, shape, trees, cos, sin, dtype)
        stream = _last_layer(stream, layers[-1], shape, trees, cos, sin, dtype, reads)
        normed: Tensor = _norm(stream, trunk.norm.weight, shape.epsilon, torch.float32)
        return normed.index_select(0, back)


def _layer(
    stream: Tensor, layer: LeanLayer, shape: LeanShape, trees: _Trees, cos: Tensor, sin: Tensor, dtype: torch.dtype
) -> Tensor:
    normed = _norm(stream, layer.attention_norm, shape.epsilon, dtype)
    q, k, v = _rotated(linear(normed, layer.qkv, layer.qkv_bias), cos, sin, shape)
    mixed = block_attention(q, k, v, trees.tries, shape.scale).flatten(1)
    stream = stream + linear(mixed.to(dtype), layer.output, layer.output_bias)
    return stream + _feed(stream, layer, shape, dtype)


def _last_layer(
    stream: Tensor,
    layer: LeanLayer,
    shape: LeanShape,
    trees: _Trees,
    cos: Tensor,
    sin: Tensor,
    dtype: torch.dtype,
    reads: Int[Tensor, " read"],
) -> Float[Tensor, "read hidden"]:
    """The stream at sorted places alone; everything else is needed as keys and values only."""
    normed = _norm(stream, layer.attention_norm, shape.epsilon, dtype)
    query_rows = shape.heads * shape.width
    q_weight, kv_weight = layer.qkv[:query_rows], layer.qkv[query_rows:]
    q_bias, kv_bias = (None, None) if layer.qkv_bias is None else layer.qkv_bias.tensor_split((query_rows,))
    only_q = shape._replace(key_heads=0)
    q, _, _ = _rotated(linear(normed[reads], q_weight, q_bias), cos[reads], sin[reads], only_q)
    _, k, v = _rotated(linear(normed, kv_weight, kv_bias), cos, sin, shape._replace(heads=0))
    ends = torch.tensor([0, *trees.lengths]).cumsum(0)
    cuts = torch.searchsorted(reads, ends).tolist()
    counts = [stop - start for start, stop in pairwise(cuts)]
    mixed = []
    tree_parts = zip(q.split(counts), k.split(trees.lengths), v.split(trees.lengths), trees.masks, strict=True)
    for (start, stop), begin, (query, key, value, mask) in zip(pairwise(cuts), ends.tolist(), tree_parts, strict=False):
        if stop > start:
            own = reads[start:stop] - begin
            seen = mask[own] if mask is not None else torch.arange(len(key)) <= own[:, None]
            mixed.append(attend(query, key, value, seen, shape))
    at_reads = stream[reads] + linear(torch.cat(mixed).to(dtype), layer.output, layer.output_bias)
    return at_reads + _feed(at_reads, layer, shape, dtype)


def _feed(stream: Tensor, layer: LeanLayer, shape: LeanShape, dtype: torch.dtype) -> Tensor:
    normed = _norm(stream, layer.feed_norm, shape.epsilon, dtype)
    return linear(_gated(linear(normed, layer.gate_up, layer.gate_up_bias)), layer.down, layer.down_bias)


def attend(
    q: Float[Tensor, "Q H D"],
    k: Float[Tensor, "T K D"],
    v: Float[Tensor, "T K D"],
    mask: Bool[Tensor, "Q T"] | None,
    shape: LeanShape,
) -> Float[Tensor, "Q HD"]:
    """Attention within one tree; without a mask each token sees those before it and itself."""
    mixed = scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k.transpose(0, 1)[None],
        v.transpose(0, 1)[None],
        attn_mask=mask,
        is_causal=mask is None,
        scale=shape.scale,
        enable_gqa=shape.heads != shape.key_heads,
    )
    result: Tensor = mixed[0].transpose(0, 1).flatten(1)
    return result


def _trees(batch: Any) -> _Trees:
    """Trees of all rows. In preorder a tree is the columns from one without a parent to the next."""
    width = batch.ids.shape[1]
    flat, lengths, masks = [], [], []
    for row, used in enumerate(batch.lengths):
        parents = batch.parents[row, :used]
        starts = [*(parents < 0).nonzero()[:, 0].tolist(), used]
        flat.append(torch.arange(row * width, row * width + used))
        for start, stop in pairwise(starts):
            lengths.append(stop - start)
            column = torch.arange(start, stop)
            is_chain = bool((parents[start + 1 : stop] == column[:-1]).all())
            ends = batch.subtree_ends[row, start:stop]
            masks.append(None if is_chain else (column[:, None] >= column) & (column[:, None] < ends))
    return _Trees(torch.cat(flat), lengths, masks, batch.flat_tries(0, len(batch.lengths)))


class _Norm(torch.autograd.Function):
    """RMS norm of a float32 stream, (T, hidden), in `dtype`; keeps the stream and one number a token."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        size = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        scale = size.square_().div_(stream.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(stream, weight, scale)
        normed: Tensor = (stream * scale).mul_(weight).to(dtype)
        return normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        stream, weight, scale = ctx.saved_tensors
        given = gradients[0].float()
        product = given * stream
        # y = w x s with s = (mean(x^2) + eps)^(-1/2): dx = s w g - x s^3 mean(w g x), dw = sum over tokens of g x s
        weight_gradient = scale.flatten() @ product if ctx.needs_input_grad[1] else None
        along = (product @ weight.float()).unsqueeze(-1).mul_(scale**3).div_(-stream.shape[-1])
        result = (given * scale).mul_(weight).addcmul_(stream, along)
        return result, weight_gradient, None, None


class _Rotated(torch.autograd.Function):
    """Queries, keys and values, each (T, heads, D) in float32, from their joint projection; the first two rotated."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor, cos: Tensor, sin: Tensor, shape: LeanShape) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        ctx.shape, ctx.dtype = shape, joint.dtype
        turned = shape.heads + shape.key_heads
        split = joint.view(len(joint), -1, shape.width)
        rotated = rotate(split[:, :turned], cos, sin)
        return rotated[:, : shape.heads], rotated[:, shape.heads :], split[:, turned:].float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        shape: LeanShape = ctx.shape
        turned = shape.heads + shape.key_heads
        tokens = len(cos)
        joint = torch.empty(tokens, turned + shape.key_heads, shape.width, dtype=ctx.dtype)
        start = 0
        for given in gradients[:2]:
            stop = start + given.shape[1]
            if stop > start:
                rotate(given, cos, -sin, out=joint[:, start:stop])
            start = stop
        joint[:, turned:] = gradients[2]
        return joint.flatten(1), None, None, None


def rotate(heads: Tensor, cos: Tensor, sin: Tensor, out: Tensor | None = None) -> Tensor:
    """(a, b) -> (a cos - b sin, b cos + a sin) on the two halves of each head; in float32 or as `out`."""
    half = heads.shape[-1] // 2
    cos, sin = cos[:, None], sin[:, None]
    left, right = heads[..., :half].float(), heads[..., half:].float()
    if out is None:
        out = torch.empty(heads.shape, dtype=torch.float32)
    out[..., :half] = (left * cos).addcmul_(right, sin, value=-1)
    out[..., half:] = (right * cos).addcmul_(left, sin)
    return out


class _Gated(torch.autograd.Function):
    """silu(gate) * up from their joint projection, (T, 2 width); keeps the projection alone."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor) -> Tensor:
        ctx.save_for_backward(joint)
        gate, up = joint.chunk(2, dim=-1)
        return torch.nn.functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (joint,) = ctx.saved_tensors
        (given,) = gradients
        gate, up = joint.chunk(2, dim=-1)
        result = torch.empty_like(joint)
        to_gate, to_up = result.chunk(2, dim=-1)
        to_gate.copy_(torch.ops.aten.silu_backward(given * up, gate))
        torch.mul(given, torch.nn.functional.silu(gate), out=to_up)
        return result


_norm: Any = _Norm.apply
_rotated: Any = _Rotated.apply
_gated: Any = _Gated.apply
