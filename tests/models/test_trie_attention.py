"""Attention along branches: blocks by hand, equality with attention under the dense mask, FlexAttention's mask."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention

from prefloop.models import trie_attention
from prefloop.models.packing import pack
from prefloop.models.trie import ancestor_mask
from prefloop.models.trie_attention import Block, Branch, FlatTries, block_attention

id_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


def tries_of(sequences: list[list[int]], row_tokens: int) -> FlatTries:
    batch = pack(sequences, row_tokens)
    return batch.flat_tries(0, len(batch.lengths))


def heads(tries: FlatTries, count: int, seed: int) -> torch.Tensor:
    return torch.randn(len(tries.flat), count, 8, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def dense_mask(tries: FlatTries) -> torch.Tensor:
    return ancestor_mask(tries.subtree_ends[None])[0, 0]


def dense(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tries: FlatTries) -> torch.Tensor:
    groups = query.shape[1] // key.shape[1]
    key, value = (one.repeat_interleave(groups, dim=1) for one in (key, value))
    query, key, value = (one.transpose(0, 1)[None] for one in (query, key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=dense_mask(tries), scale=0.3)[0].transpose(0, 1)


def test_branches_by_hand() -> None:
    # 5 6 7 | 8 9 1 in preorder: the first branch is 5 6 7, the second hangs below 5 6; rows stand end to end
    tries = tries_of([[5, 6, 8, 9, 1], [5, 6, 7], [2, 2, 2, 2, 2, 2]], row_tokens=6)
    assert tries.branches == [
        Branch(0, 3, ()),
        Branch(3, 6, ((0, 2),)),
        Branch(6, 12, ()),
    ] or tries.branches == [Branch(0, 6, ()), Branch(6, 9, ()), Branch(9, 12, ((6, 8),))]


def test_blocks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trie_attention, "_QUERIES", 4)
    monkeypatch.setattr(trie_attention, "_CALL", 0)
    sequence = [*range(1, 9)]
    tries = tries_of([[*sequence, 20, 21], [*sequence[:3], 30, 31]], row_tokens=20)
    # A chain of 10 columns in ceil(10 / 4) = 3 pieces of 3, 3 and 4; the branch 30 31 sees the first 3 and itself.
    assert tries.blocks == [
        Block(0, 3, ((0, 3),)),
        Block(3, 6, ((0, 6),)),
        Block(6, 10, ((0, 10),)),
        Block(10, 12, ((0, 3), (10, 12))),
    ]
    assert tries.products == 9 + 18 + 40 + 10
    monkeypatch.setattr(trie_attention, "_CALL", 1000)  # a call is dear: all in one block
    assert tries_of([[*sequence, 20, 21], [*sequence[:3], 30, 31]], row_tokens=20).blocks == [Block(0, 12, ((0, 12),))]


@given(st.lists(id_lists, min_size=1, max_size=3), st.integers(3, 40), st.sampled_from([1, 3]), st.sampled_from([0, 9]))
@settings(max_examples=40)
def test_each_block_holds_what_its_queries_see(
    parts: list[list[list[int]]], row_tokens: int, queries: int, call: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_attention, "_QUERIES", queries)
        patch.setattr(trie_attention, "_CALL", call)
        tries = tries_of([sequence for part in parts for sequence in part], row_tokens)
        seen = torch.zeros_like(dense_mask(tries))
        for block, mask in zip(tries.blocks, tries.masks, strict=True):
            keys = torch.cat([torch.arange(*span) for span in block.keys])
            seen[torch.arange(block.start, block.stop)[:, None], keys] = mask == 0
        assert torch.equal(seen, dense_mask(tries))


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("kept", [2**25, 0])
def test_output_and_gradients_equal_attention_under_the_mask(
    key_heads: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trie_attention, "_KEPT_WEIGHTS", kept)
    monkeypatch.setattr(trie_attention, "_QUERIES", 16)
    monkeypatch.setattr(trie_attention, "_CALL", 30)
    draw = torch.Generator().manual_seed(3)
    context = torch.randint(0, 50, (30,), generator=draw).tolist()
    replies = [torch.randint(0, 50, (size,), generator=draw).tolist() for size in (9, 20, 1, 40, 7)]
    sequences = [context + replies[0], context + replies[1], context + replies[0] + replies[2], replies[3], replies[4]]
    tries = tries_of(sequences, row_tokens=70)
    assert len(tries.blocks) > 3
    query, key, value = heads(tries, 4, 1), heads(tries, key_heads, 2), heads(tries, key_heads, 3)
    out = block_attention(query, key, value, tries, 0.3)
    expected = dense(query, key, value, tries)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(out.shape, generator=draw)
    ours = torch.autograd.grad((out * weight).sum(), (query, key, value))
    theirs = torch.autograd.grad((expected * weight).sum(), (query, key, value))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


def test_rows_beyond_the_tries_get_zeros() -> None:
    tries = tries_of([[1, 2, 3], [1, 2, 4]], row_tokens=8)
    longer = torch.randn(len(tries.flat) + 3, 2, 8)
    out = block_attention(longer, longer, longer, tries, 0.3)
    assert torch.equal(out[-3:], torch.zeros(3, 2, 8))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_block_mask_of_flex_attention_is_the_same() -> None:
    draw = torch.Generator().manual_seed(5)
    context = torch.randint(0, 50, (150,), generator=draw).tolist()
    sequences = [context + torch.randint(0, 50, (size,), generator=draw).tolist() for size in (20, 30)]
    sequences += [torch.randint(0, 50, (170,), generator=draw).tolist()]
    tries = tries_of(sequences, row_tokens=400)  # 150 + 20 + 30 + 170 = 370 columns, 3 x 3 blocks of 128
    query, key, value = (heads(tries, 4, seed) for seed in (1, 2, 3))
    rows = (one.detach().transpose(0, 1)[None] for one in (query, key, value))
    out = flex_attention(*rows, block_mask=tries.block_mask, scale=0.3)[0].transpose(0, 1)
    torch.testing.assert_close(out, dense(query, key, value, tries), rtol=1e-5, atol=1e-5)
    assert 0 < tries.block_mask.sparsity() < 100


@given(st.lists(id_lists, min_size=1, max_size=6), st.integers(3, 40), st.sampled_from([1, 2, 8]))
@settings(max_examples=60)
def test_mask_blocks_hold_what_is_seen(parts: list[list[list[int]]], row_tokens: int, size: int) -> None:
    """Blocks taken as whole are seen whole, and what is left out is seen by nobody."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_attention, "_MASK_BLOCK", size)
        tries = tries_of([sequence for part in parts for sequence in part], row_tokens)
        found, seen, width = tries.block_mask, dense_mask(tries), len(tries.flat)
        count = -(-width // size)
        kinds = torch.zeros(count, count)
        for kind, (numbers, places) in (
            (1, (found.kv_num_blocks, found.kv_indices)),
            (2, (found.full_kv_num_blocks, found.full_kv_indices)),
        ):
            for query in range(count):
                kinds[query, places[0, 0, query, : numbers[0, 0, query]].long()] = kind
        expected = torch.zeros(count, count)
        for query in range(count):
            for key in range(count):
                block = seen[query * size : (query + 1) * size, key * size : (key + 1) * size]
                is_whole = bool(block.all()) and block.numel() == size * size
                expected[query, key] = 2 if is_whole and query > key else 1 if block.any() else 0
        assert torch.equal(kinds, expected)
