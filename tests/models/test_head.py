"""The head in chunks against one call: values and gradients, whole and tied heads, adapters; what stays in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from prefloop.losses import distill_losses
from prefloop.models import head
from prefloop.models.adapters import add_lora
from prefloop.models.head import head_logps, of_logits, tokens_at_once
from prefloop.models.responses import PackedResponses, pack_responses, response_logps

VOCABULARY = 60


def llama(*, tied: bool = True) -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=96,
            tie_word_embeddings=tied,
            pad_token_id=0,
        )
    )


def with_adapter() -> Any:
    model = llama()
    add_lora(model, 2, 2.0, 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


def packed() -> PackedResponses:
    draw = torch.Generator().manual_seed(1)
    ids = [torch.randint(5, VOCABULARY, (size,), generator=draw).tolist() for size in (7, 9, 4, 13, 5)]
    return pack_responses([ids[0], ids[0], ids[1]], ids[2:], 64)  # 4 + 13 + 5 = 22 tokens


def in_chunks(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(head, "_LEAST_TOKENS", tokens)
    monkeypatch.setattr(head, "_LOGITS", tokens * VOCABULARY)


BUILD: dict[str, Callable[[], Any]] = {
    "tied": llama,
    "untied": lambda: llama(tied=False),
    "adapter": with_adapter,
}


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("build", BUILD)
def test_chunks_give_what_one_call_gives(
    build: str, dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = BUILD[build](), packed()
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    weights = torch.randn(len(batch.ids), generator=torch.Generator().manual_seed(2))

    def logps() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None):
            return response_logps(model, batch)

    def run() -> tuple[Tensor, ...]:
        found = logps()
        return found, *torch.autograd.grad((weights * found).sum(), learned)

    assert tokens_at_once(model.lm_head) > len(batch.ids)
    whole = run()
    calls: list[int] = []
    model.lm_head.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    for tokens, sizes in ((5, [5, 5, 5, 5, 2]), (22, [22]), (21, [21, 1])):
        in_chunks(monkeypatch, tokens)
        calls.clear()
        found = run()
        assert sorted(calls) == sorted(sizes * (2 if len(sizes) > 1 else 1))  # again for the gradient
        for one, other in zip(found, whole, strict=True):
            assert (one - other).norm() <= (1e-6 if dtype is None else 1e-2) * other.norm()
    in_chunks(monkeypatch, 5)
    calls.clear()
    with torch.no_grad():
        torch.testing.assert_close(logps(), found[0])
    assert calls == [5, 5, 5, 5, 2]


def test_a_weight_alone_and_losses_of_several_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(3)
    hidden = torch.randn(11, 8, generator=draw, dtype=torch.float64).requires_grad_()
    weight = torch.randn(VOCABULARY, 8, generator=draw, dtype=torch.float64).requires_grad_()
    ids = torch.randint(0, VOCABULARY, (11,), generator=draw)
    kept = torch.stack([torch.randperm(VOCABULARY, generator=draw)[:3] for _ in range(11)])
    teacher = torch.randn(11, 4, generator=draw).log_softmax(-1)
    plain = (hidden @ weight.T).log_softmax(-1)[torch.arange(11), ids]
    expected = torch.autograd.grad(plain.sum(), (hidden, weight))
    losses = distill_losses(hidden @ weight.T, kept, teacher)
    expected_losses = torch.autograd.grad(losses.sum(), (hidden, weight))
    in_chunks(monkeypatch, 4)
    logps = head_logps(weight, hidden, ids)
    torch.testing.assert_close(logps, plain)
    torch.testing.assert_close(torch.autograd.grad(logps.sum(), (hidden, weight)), expected)
    found = of_logits(weight, distill_losses, hidden, kept, teacher)
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), (hidden, weight)), expected_losses)


@pytest.mark.parametrize("tokens", [4, 64])
def test_no_logits_are_kept_for_the_gradient(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, weight = torch.randn(64, 8).requires_grad_(), torch.randn(VOCABULARY, 8).requires_grad_()
    kept: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    in_chunks(monkeypatch, tokens)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        head_logps(weight, hidden, torch.zeros(64, dtype=torch.long))
    assert ((64, VOCABULARY) in kept) == (tokens == 64)
    assert max(width for _, *rest in kept for width in rest) == (VOCABULARY if tokens == 64 else 8)


def test_a_small_vocabulary_is_one_call() -> None:
    assert tokens_at_once(torch.nn.Linear(8, 2048)) == 8192
    assert tokens_at_once(torch.nn.Linear(1, 152_000)) == 256
