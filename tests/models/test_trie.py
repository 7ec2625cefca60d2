"""Tries: the layout by hand, properties of any packing, and equality with the plain forward on real architectures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    GPTNeoXConfig,
    GPTNeoXModel,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Olmo2Config,
    Olmo2Model,
    Qwen3Config,
    Qwen3Model,
)

from prefloop.errors import DataError, ModelError
from prefloop.models.trie import (
    PackedBatch,
    ancestor_mask,
    pack,
    packed_hidden,
    require_exact,
    runs_flat,
    settle,
    take_trie_attention,
)
from prefloop.models.trie_attention import TRIE

SMALL = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
ARCHITECTURES: dict[str, Any] = {
    "llama": lambda: LlamaModel(LlamaConfig(**SMALL, num_key_value_heads=2)),
    "qwen3": lambda: Qwen3Model(Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8)),
    "gpt_neox": lambda: GPTNeoXModel(GPTNeoXConfig(**SMALL)),
    "gpt2": lambda: GPT2Model(
        GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=1)
    ),
    "olmo2": lambda: Olmo2Model(Olmo2Config(**SMALL, num_key_value_heads=2)),
}
id_lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=12)


def trunk(name: str) -> Any:
    torch.manual_seed(1)
    return ARCHITECTURES[name]().eval()


def walk(batch: PackedBatch, flat: int) -> list[int]:
    """The flat places from a root to `flat`, by following parents."""
    width = batch.ids.shape[1]
    places = []
    row, column = divmod(flat, width)
    while column >= 0:
        places.append(row * width + column)
        column = int(batch.parents[row, column])
    return places[::-1]


def test_layout_by_hand() -> None:
    # sorted: [5 6 7], [5 6 8 9], [5 6 8 9 1]; preorder 5 6 7 8 9 1 with depths 0 1 2 2 3 4 and parents - 0 1 1 3 4
    batch = pack([[5, 6, 8, 9, 1], [5, 6, 7], [5, 6, 8, 9]], row_tokens=10)
    assert batch.ids.tolist() == [[5, 6, 7, 8, 9, 1]]
    assert batch.positions.tolist() == [[0, 1, 2, 2, 3, 4]]
    assert batch.parents.tolist() == [[-1, 0, 1, 1, 3, 4]]
    assert batch.subtree_ends.tolist() == [[6, 6, 3, 6, 6, 6]]
    assert batch.read_index.tolist() == [5, 2, 4]
    assert [index.tolist() for index in batch.token_index] == [[0, 1, 3, 4, 5], [0, 1, 2], [0, 1, 3, 4]]
    assert (batch.tokens, batch.tokens_unshared) == (6, 12)


def test_a_tree_that_does_not_fit_is_cut_where_the_least_is_shared() -> None:
    # One tree of 1 + 2 * (2 + 2) = 9 tokens in rows of 6: the cut goes through the first token, the pairs stay whole.
    batch = pack([[9, 1, 1, 3], [9, 1, 1, 4], [9, 2, 2, 3], [9, 2, 2, 4]], row_tokens=6)
    assert sorted(batch.ids.tolist()) == [[9, 1, 1, 3, 4], [9, 2, 2, 3, 4]]
    assert batch.tokens == 10


def test_trees_that_meet_in_a_row_share_again() -> None:
    # 4 + 8 = 12 tokens, more than 2 * 5, are cut at the common 4; rows of 7 then hold 4 + 3 of the leaves again.
    system = [7, 7, 7, 7]
    batch = pack([[*system, leaf] for leaf in range(8)], row_tokens=7)
    assert batch.lengths == (7, 7, 6)


def test_a_tree_stays_whole_up_to_twice_its_longest_sequence() -> None:
    # 6 + 2 * 2 = 10 tokens in rows of 4: apart they would be 8 + 8, so both sides share one longer row;
    # [9] shares nothing and the pair [5 5 5 5 5 5 1 1] > [5 1 ...] only 1 of 14: these are cut.
    assert pack([[5] * 6 + [1, 1], [5] * 6 + [2, 2], [9]], row_tokens=4).lengths == (10, 1)
    assert pack([[5] * 6 + [1, 1], [5, 1, 1, 1, 1, 1, 1]], row_tokens=4).lengths == (8, 7)


def test_a_long_sequence_gets_its_own_row() -> None:
    batch = pack([[1, 2], [3] * 9, [1, 3]], row_tokens=4)
    assert batch.lengths == (9, 3)
    assert batch.ids[1].tolist() == [1, 2, 3, 0, 0, 0, 0, 0, 0]
    mask = ancestor_mask(batch.subtree_ends)[1, 0]
    assert mask[:, 5].tolist() == [False] * 5 + [True] + [False] * 3  # padding is seen by itself alone


@given(id_lists, st.integers(1, 20))
@settings(deadline=None)
def test_every_packing_holds_every_sequence(sequences: list[list[int]], row_tokens: int) -> None:
    batch = pack(sequences, row_tokens)
    flat_ids, flat_positions = batch.ids.flatten(), batch.positions.flatten()
    mask = ancestor_mask(batch.subtree_ends)[:, 0]
    width = batch.ids.shape[1]
    for sequence, index, read in zip(sequences, batch.token_index, batch.read_index.tolist(), strict=True):
        assert flat_ids[index].tolist() == sequence
        assert flat_positions[index].tolist() == list(range(len(sequence)))
        assert index[-1] == read
        assert walk(batch, read) == index.tolist()
        row, column = divmod(read, width)
        assert mask[row, column].nonzero()[:, 0].tolist() == [int(place) % width for place in index]
    assert max(batch.lengths) <= max(row_tokens, 2 * max(map(len, sequences)))
    prefixes = {tuple(sequence[: size + 1]) for sequence in sequences for size in range(len(sequence))}
    assert len(prefixes) <= batch.tokens <= batch.tokens_unshared
    if row_tokens >= len(prefixes):
        assert batch.tokens == len(prefixes)


@given(st.lists(id_lists, min_size=1, max_size=4), st.integers(3, 12))
@settings(max_examples=50, deadline=None)
def test_no_row_holds_a_token_twice(parts: list[list[list[int]]], row_tokens: int) -> None:
    batch = pack([sequence for part in parts for sequence in part], row_tokens)
    width = batch.ids.shape[1]
    for row, length in enumerate(batch.lengths):
        nodes = [tuple(batch.ids.flatten()[walk(batch, row * width + column)].tolist()) for column in range(length)]
        assert len(set(nodes)) == length


@pytest.mark.parametrize("runs", ["flat", "flat through transformers", "under a mask"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_and_gradients_equal_the_plain_forward(name: str, runs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = trunk(name)
    if runs != "flat":  # a Llama too, as where it is on a GPU
        monkeypatch.setattr("prefloop.models.trie.is_lean", lambda _: False)
    if runs != "under a mask":
        settle(model)
    assert runs_flat(model) == (runs != "under a mask")
    torch.manual_seed(2)
    context = torch.randint(2, 50, (20,)).tolist()
    sequences = [
        context + torch.randint(2, 50, (size,)).tolist() for size in (5, 9, 1, 30)
    ]  # one conversation, then a longer context of the same, and a stranger
    sequences += [sequences[0] + torch.randint(2, 50, (size,)).tolist() for size in (4, 6)]
    sequences += [torch.randint(2, 50, (11,)).tolist()]
    weight = torch.randn(32)

    model.zero_grad()
    plain = [model(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0] for ids in sequences]
    scores = torch.stack([hidden[-1] for hidden in plain]) @ weight
    torch.nn.functional.softplus(scores).sum().backward()
    gradients = {key: value.grad.clone() for key, value in model.named_parameters() if value.grad is not None}

    for row_tokens in (30, 64, 512):
        model.zero_grad()
        batch = pack(sequences, row_tokens)
        assert batch.tokens < batch.tokens_unshared
        packed_scores = packed_hidden(model, batch, batch.read_index) @ weight
        torch.testing.assert_close(packed_scores, scores, rtol=1e-5, atol=1e-5)
        torch.nn.functional.softplus(packed_scores).sum().backward()
        for key, value in model.named_parameters():
            if value.grad is not None:
                scale = gradients[key].abs().max().clamp(min=1.0)
                torch.testing.assert_close(value.grad / scale, gradients[key] / scale, rtol=1e-5, atol=1e-5)
        with torch.no_grad():  # every token, not the last alone
            everywhere = packed_hidden(model, batch, torch.cat(batch.token_index))
        torch.testing.assert_close(everywhere, torch.cat(plain).detach(), rtol=1e-5, atol=1e-5)


def test_eager_attention_gives_the_same() -> None:
    model = trunk("llama")
    batch = pack([[3, 4, 5], [3, 4, 6, 7], [8]], row_tokens=8)
    with torch.no_grad():
        sdpa = packed_hidden(model, batch, batch.read_index)
        model.set_attn_implementation("eager")
        torch.testing.assert_close(packed_hidden(model, batch, batch.read_index), sdpa, rtol=1e-5, atol=1e-5)


def test_flat_attention_is_taken_where_it_is_exact_and_left_where_it_is_not() -> None:
    gpt2, eager = trunk("gpt2"), trunk("gpt2")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    before = gpt2(input_ids=ids).last_hidden_state
    assert take_trie_attention(gpt2)
    torch.testing.assert_close(gpt2(input_ids=ids).last_hidden_state, before)  # without tries it is ordinary attention
    hidden = eager.h[0].attn.forward
    eager.h[0].attn.forward = lambda *given, trie=None, **more: hidden(*given, **more)  # drops what it does not know
    assert not take_trie_attention(eager)
    assert eager.config._attn_implementation == "sdpa"


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_flex_attention_gives_the_same(name: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, on a CPU: there it has neither its kernel nor gradients."""
    monkeypatch.setattr("prefloop.models.trie.is_lean", lambda _: False)
    monkeypatch.setattr("prefloop.models.trie_attention._goes_in_blocks", lambda _: False)
    monkeypatch.setattr("prefloop.models.trie_attention._flex", lambda: flex_attention)
    model = trunk(name)
    settle(model)
    assert runs_flat(model)
    torch.manual_seed(2)
    context = torch.randint(2, 50, (20,)).tolist()
    sequences = [context + torch.randint(2, 50, (size,)).tolist() for size in (5, 9, 1, 30, 90)]
    batch = pack(sequences, 200)  # 155 columns: two blocks of the mask
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
        plain = torch.cat([model(input_ids=torch.tensor([ids])).last_hidden_state[0] for ids in sequences])
        everywhere = packed_hidden(model, batch, torch.cat(batch.token_index))
    assert (everywhere - plain).norm() < (1e-6 if dtype is None else 1e-2) * plain.norm()


def test_a_trunk_that_moves_decides_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    llama, qwen3 = trunk("llama"), trunk("qwen3")
    for model in (llama, qwen3):
        settle(model)
        assert runs_flat(model)
    assert llama.config._attn_implementation == "sdpa"  # it has a way of its own on a CPU
    proven: list[tuple[Any, str]] = []
    monkeypatch.setattr(
        "prefloop.models.trie.require_exact",
        lambda trunk, _: proven.append((trunk, trunk.config._attn_implementation)),  # a device that computes nothing
    )
    for model in (llama, qwen3):
        settle(model.to("meta"))
        assert runs_flat(model)
        assert model.config._attn_implementation == TRIE
        assert proven[-2:] == [(model, "sdpa"), (model, TRIE)]  # under a mask first, whatever was exact elsewhere


def test_exactness_is_proven_or_refused() -> None:
    for name in ARCHITECTURES:
        require_exact(trunk(name))
    windowed = MistralModel(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=16))
    with pytest.raises(ModelError, match="window 16"):
        require_exact(windowed)
    torch.manual_seed(1)
    both_ways = BertModel(BertConfig(**{**SMALL, "bos_token_id": 2}))
    with pytest.raises(ModelError, match="bert"):
        require_exact(both_ways)


def test_nothing_to_pack() -> None:
    for sequences, row_tokens in (([], 8), ([[1], []], 8), ([[1]], 0)):
        with pytest.raises(DataError):
            pack(sequences, row_tokens)
