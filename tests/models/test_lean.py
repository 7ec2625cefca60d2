"""The lean forward of a Llama is the general one: hidden states, gradients, grouped keys, biases, and in bfloat16."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXModel, LlamaConfig, LlamaModel

from prefloop.models import trie
from prefloop.models.lean import is_lean
from prefloop.models.trie import pack, packed_hidden


def llama(**changes: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 60,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
    }
    model = LlamaModel(LlamaConfig(**(settings | changes))).eval()
    for parameter in model.parameters():  # norms that are not 1, biases that are not 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def batch(row_tokens: int = 48) -> trie.PackedBatch:
    """Trees with branches, plain sequences, and several of both in a row."""
    chance = random.Random(3)

    def ids(count: int) -> list[int]:
        return [chance.randrange(60) for _ in range(count)]

    stem, other = ids(9), ids(4)
    ends = [ids(n) for n in (7, 1, 12, 3)]
    return pack([*(stem + end for end in ends), other + ids(5), other + ids(6), ids(30), ids(2), stem[:3]], row_tokens)


def both_ways(model: Any, packed: trie.PackedBatch, at: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(hidden, gradients) of the lean and of the general way."""
    results = []
    for lean in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(trie, "is_lean", lambda trunk, lean=lean: lean)
            model.zero_grad()
            hidden = packed_hidden(model, packed, at)
            weight = torch.linspace(-1, 1, hidden.numel()).view_as(hidden).sin()
            (hidden.float() * weight).sum().backward()
            gradients = {name: value.grad.clone() for name, value in model.named_parameters()}
            results.append((hidden.detach().float(), gradients))
    return results


SHAPES = [
    {},
    {"num_key_value_heads": 2},
    {"attention_bias": True, "mlp_bias": True},
    {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 500.0}},
    {"num_hidden_layers": 1, "head_dim": 16},
]


@pytest.mark.parametrize("changes", SHAPES, ids=["plain", "grouped", "biases", "rope", "one layer, wide heads"])
@pytest.mark.parametrize("row_tokens", [1, 48, 512])
def test_hidden_states_and_gradients_equal(
    changes: dict[str, Any], row_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, packed = llama(**changes), batch(row_tokens)
    assert is_lean(model)
    for at in (torch.cat(packed.token_index), packed.read_index, packed.token_index[2].flip(0)):
        (lean, lean_gradients), (general, gradients) = both_ways(model, packed, at, monkeypatch)
        assert (lean - general).norm() <= 1e-5 * general.norm()
        for name, gradient in gradients.items():
            assert (lean_gradients[name] - gradient).norm() <= 2e-5 * gradient.norm() + 1e-7, name


def test_bfloat16_is_as_near_to_float32_as_the_general_way(monkeypatch: pytest.MonkeyPatch) -> None:
    model, packed = llama(), batch()
    at = torch.cat(packed.token_index)
    exact = packed_hidden(model, packed, at).detach()
    with torch.autocast("cpu", torch.bfloat16):
        (lean, _), (general, _) = both_ways(model, packed, at, monkeypatch)
    error = (lean - exact).norm() / exact.norm()
    assert 0 < error < 0.02  # bfloat16 keeps 8 bits: 2^-9 a rounding, a few dozen roundings
    assert error < 1.5 * (general - exact).norm() / exact.norm()


def test_what_is_not_lean_goes_the_general_way() -> None:
    other = GPTNeoXConfig(
        vocab_size=10, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    assert not is_lean(GPTNeoXModel(other))
    assert not is_lean(llama(attention_dropout=0.1))
    adapted = llama()

    class Adapter(torch.nn.Linear):
        """What an adapter puts in the place of a projection."""

    adapted.layers[1].self_attn.q_proj = Adapter(32, 32, bias=False)
    assert not is_lean(adapted)
