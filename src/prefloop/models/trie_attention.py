"""Attention along the branches of tries, so that no query is multiplied with a key that it may not see.

Trees stand in one flat row in preorder. The row falls into blocks of neighbouring columns: the queries of a block look
at its own columns and at those of their ancestors, and at nothing else. On a CPU a block is a few small matrix products
in float32, forward and backward (`block_attention`); on CUDA the blocks are those of FlexAttention's block mask. For
trunks of every kind this is registered with transformers as the attention implementation `TRIE`; a call of the trunk
without `trie=` is ordinary SDPA there. Knows columns and tensors, no packing and no models.

Legend: T tokens of the flat row, H heads, D head width. A branch is a run of columns that follow one another in every
sequence that holds them; its ancestors are ranges of columns before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prefloop.errors import ModelError

__all__ = ["TRIE", "Branch", "FlatTries", "block_attention"]

TRIE = "prefloop_trie"
_QUERIES = 128  # of a block at most: a longer chain is cut, so that most of what causality hides is not computed
_CALL = 6_000  # what one more block costs, in products of a query and a key (measured: 6 heads of 64)
_KEPT_WEIGHTS = 2**25  # attention weights that one layer keeps for its gradient (128 MiB); more are computed again
_MASK_BLOCK = 128  # of FlexAttention, queries and keys
_UNKNOWN = ("softcap", "s_aux", "position_bias", "sliding_window")

Spans = tuple[tuple[int, int], ...]


class Branch(NamedTuple):
    """Columns [start, stop) and the ranges of their ancestors."""

    start: int
    stop: int
    ancestors: Spans

    def shifted(self, by: int) -> Branch:
        """The same branch in a row that begins `by` columns earlier."""
        return Branch(self.start + by, self.stop + by, tuple((a + by, b + by) for a, b in self.ancestors))


class Block(NamedTuple):
    """Queries [start, stop) and the ranges of the keys that some of them see, their own among them."""

    start: int
    stop: int
    keys: Spans

    @property
    def products(self) -> int:
        """Of a query and a key."""
        return (self.stop - self.start) * sum(stop - start for start, stop in self.keys)


class FlatTries:
    """Tries end to end in one row, and how attention goes through them.

    Args:
        flat: (T,) where each column stands in the packed rows.
        branches: in the order of their columns.
        subtree_ends: (T,) as in `PackedBatch`, in columns of this row.
    """

    def __init__(self, flat: Int[Tensor, " T"], branches: Sequence[Branch], subtree_ends: Int[Tensor, " T"]) -> None:
        self.flat, self.branches, self.subtree_ends = flat, branches, subtree_ends

    @cached_property
    def blocks(self) -> list[Block]:
        """Long branches in pieces, short neighbours together where that is cheaper than another block."""
        blocks: list[Block] = []
        for branch in self.branches:
            length = branch.stop - branch.start
            pieces = -(-length // _QUERIES)
            for start, stop in pairwise(branch.start + length * place // pieces for place in range(pieces + 1)):
                new = Block(start, stop, _union(branch.ancestors, ((branch.start, stop),)))
                if blocks:
                    last = blocks[-1]
                    both = Block(last.start, stop, _union(last.keys, new.keys))
                    if both.products <= last.products + new.products + _CALL:
                        blocks[-1] = both
                        continue
                blocks.append(new)
        return blocks

    @property
    def products(self) -> int:
        """Of a query and a key, in all blocks."""
        return sum(block.products for block in self.blocks)

    @cached_property
    def masks(self) -> list[Float[Tensor, "query key"]]:
        """For each block 0 where the query may look at the key, and minus infinity elsewhere."""
        masks = []
        for block in self.blocks:
            query = torch.arange(block.start, block.stop)[:, None]
            key = torch.cat([torch.arange(*span) for span in block.keys])
            is_seen = (key <= query) & (query < self.subtree_ends[key])
            masks.append(torch.zeros(is_seen.shape).masked_fill_(~is_seen, float("-inf")))
        return masks

    @cached_property
    def block_mask(self) -> BlockMask:
        """The same for FlexAttention, on the device of `subtree_ends`; made from blocks, not from each query and key.

        A key of a block is seen by some query of a later block where its subtree reaches into it, and all keys by all
        queries where all subtrees reach beyond it.
        """
        ends, size = self.subtree_ends, len(self.subtree_ends)

        def is_seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (query < ends[key])

        count = -(-size // _MASK_BLOCK)
        padded = torch.nn.functional.pad(ends, (0, count * _MASK_BLOCK - size)).view(count, _MASK_BLOCK)
        start = torch.arange(count, device=ends.device)[:, None] * _MASK_BLOCK  # (query block, 1)
        is_later = torch.ones(count, count, dtype=torch.bool, device=ends.device).tril(-1)
        is_whole = is_later & (padded.amin(1) >= start + _MASK_BLOCK)
        is_part = (is_later & (padded.amax(1) > start) & ~is_whole) | torch.eye(
            count, dtype=torch.bool, device=ends.device
        )
        return BlockMask.from_kv_blocks(
            *_numbers_and_places(is_part),
            *_numbers_and_places(is_whole),
            BLOCK_SIZE=_MASK_BLOCK,
            mask_mod=is_seen,
            seq_lengths=(size, size),
        )


def _numbers_and_places(blocks: Bool[Tensor, "query key"]) -> tuple[Int[Tensor, "1 1 query"], Int[Tensor, "1 1 q k"]]:
    """How many key blocks are True for each query block, and the places of all, those first."""
    places = blocks.int().argsort(dim=1, descending=True, stable=True)
    return blocks.sum(1, dtype=torch.int32)[None, None], places.int()[None, None]


def block_attention(
    query: Float[Tensor, "T head width"],
    key: Float[Tensor, "T key_head width"],
    value: Float[Tensor, "T key_head width"],
    tries: FlatTries,
    scale: float,
) -> Float[Tensor, "T head width"]:
    """Softmax attention of every token to its ancestors and itself, on a CPU, in float32. Differentiable.

    Rows beyond those of `tries` see nothing and get zeros. Float32 under autocast too: in bfloat16 each size of a
    product is compiled by itself, and the blocks are of many sizes.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    with torch.autocast("cpu", enabled=False):
        out: Tensor = _BlockAttention.apply(  # type: ignore[no-untyped-call]
            query.float(), key.float(), value.float(), tries, scale
        )
    return out


class _BlockAttention(torch.autograd.Function):
    """Keeps q, k and v, and the attention weights where they are not too many. (T, H, D) outside, (H, n, D) within."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, tries: FlatTries, scale: float) -> Tensor:
        query, key, value = (one.transpose(0, 1) for one in (query, key, value))
        out = value.new_zeros(query.shape[1], query.shape[0], value.shape[2])
        is_kept = len(query) * tries.products <= _KEPT_WEIGHTS
        weights = []
        for block, mask in zip(tries.blocks, tries.masks, strict=True):
            weight = _weights(query, key, block, mask, scale)
            out[block.start : block.stop] = torch.bmm(weight, _gather(value, block)).transpose(0, 1)
            if is_kept:
                weights.append(weight)
        ctx.save_for_backward(query, key, value, *weights)
        ctx.tries, ctx.scale = tries, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast("cpu", enabled=False):  # where the caller's is on around backward
            return _BlockAttention._backward(ctx, gradients[0].float())

    @staticmethod
    def _backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *weights = ctx.saved_tensors
        given = given.transpose(0, 1)
        flat = [torch.zeros(one.shape[1], one.shape[0], one.shape[2]) for one in (query, key, value)]
        of_query, of_key, of_value = (one.transpose(0, 1) for one in flat)
        for place, (block, mask) in enumerate(zip(ctx.tries.blocks, ctx.tries.masks, strict=True)):
            own = slice(block.start, block.stop)
            weight = weights[place] if weights else _weights(query, key, block, mask, ctx.scale)
            of_weight = torch.bmm(given[:, own], _gather(value, block).transpose(1, 2))
            of_logits = torch._softmax_backward_data(of_weight, weight, -1, weight.dtype).mul_(ctx.scale)
            of_query[:, own] = torch.bmm(of_logits, _gather(key, block))
            of_keys = torch.bmm(of_logits.transpose(1, 2), query[:, own])
            of_values = torch.bmm(weight.transpose(1, 2), given[:, own])
            first = 0
            for start, stop in block.keys:
                part = slice(first, first + stop - start)
                of_key[:, start:stop] += of_keys[:, part]
                of_value[:, start:stop] += of_values[:, part]
                first = part.stop
        return *flat, None, None


def _weights(query: Tensor, key: Tensor, block: Block, mask: Tensor, scale: float) -> Float[Tensor, "H query key"]:
    """Attention weights of a block's queries."""
    keys = _gather(key, block).transpose(1, 2)
    return torch.baddbmm(mask, query[:, block.start : block.stop], keys, alpha=scale).softmax(-1)


def _gather(rows: Float[Tensor, "H T D"], block: Block) -> Float[Tensor, "H key D"]:
    """What a block sees; a copy only where it does not stand together."""
    parts = [rows[:, start:stop] for start, stop in block.keys]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _union(left: Spans, right: Spans) -> Spans:
    """Ranges that cover both, in order and apart."""
    merged: list[tuple[int, int]] = []
    for start, stop in sorted([*left, *right]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)


def _attention(
    module: torch.nn.Module,
    query: Float[Tensor, "batch head T width"],
    key: Float[Tensor, "batch key_head T width"],
    value: Float[Tensor, "batch key_head T width"],
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    trie: FlatTries | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What transformers calls; `trie` comes through the keyword arguments of the trunk, with one row and no mask."""
    if trie is None:
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    for name in _UNKNOWN:
        if kwargs.get(name) is not None:
            raise ModelError(f"Attention with {name} cannot share beginnings; take a causal model without it.")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if _goes_in_blocks(query.device):
        query, key, value = (one[0].transpose(0, 1) for one in (query, key, value))
        return block_attention(query, key, value, trie, scale)[None], None
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast a rotation leaves them in float32
    grouped = query.shape[1] != key.shape[1]
    mixed = _flex()(query, key, value, block_mask=trie.block_mask, scale=scale, enable_gqa=grouped)
    return mixed.transpose(1, 2).contiguous(), None


def _goes_in_blocks(device: torch.device) -> bool:
    """Whether `block_attention` is the way on this device; FlexAttention is it elsewhere."""
    return device.type == "cpu"


def _flex() -> Any:
    """FlexAttention as one kernel: without compilation it would build the whole matrix."""
    if not hasattr(_flex, "compiled"):
        _flex.compiled = torch.compile(flex_attention, dynamic=True)  # type: ignore[attr-defined]
    return _flex.compiled  # type: ignore[attr-defined]


AttentionInterface.register(TRIE, _attention)
AttentionMaskInterface.register(TRIE, sdpa_mask)
