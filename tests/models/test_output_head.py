"""Models that do something to their logits after the head, against their own plain forward."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    OPTConfig,
    Qwen3Config,
)

from prefloop.errors import ModelError
from prefloop.models.head import ScaledHead
from prefloop.models.output_head import output_head
from prefloop.models.responses import all_logps, pack_responses, response_logps

VOCABULARY = 60
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
GRANITE = {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "attention_multiplier": 0.2}
SCALED: dict[str, tuple[Callable[[], Any], float]] = {
    "granite divides": (lambda: GraniteConfig(**SHAPE, **GRANITE, logits_scaling=3.0), 1 / 3),
    "granite by 1": (lambda: GraniteConfig(**SHAPE, **GRANITE, logits_scaling=1.0), 1.0),
    "cohere multiplies": (lambda: CohereConfig(**SHAPE, logit_scale=0.3), 0.3),
    "llama": (lambda: LlamaConfig(**SHAPE), 1.0),
    "qwen3": (lambda: Qwen3Config(**SHAPE, head_dim=8, num_key_value_heads=2), 1.0),
    "opt": (lambda: OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=32), 1.0),
    "gpt_neox": (lambda: GPTNeoXConfig(**SHAPE), 1.0),
    "gpt2": (lambda: GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64), 1.0),
}
PROMPTS = [[5, 6, 7], [5, 6, 7], [9, 8]]
REPLIES = [[10, 11, 12], [13], [14, 15, 16, 17]]


def built(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def soft_capped() -> Any:
    return built(
        Gemma2Config(
            **SHAPE,
            head_dim=8,
            num_key_value_heads=4,
            query_pre_attn_scalar=8,
            layer_types=["full_attention"] * 2,
            sliding_window=64,
        )
    )


def plain_logps(model: Any) -> Tensor:
    rows = []
    for prompt, reply in zip(PROMPTS, REPLIES, strict=True):
        logps = model(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)
        rows += [logps[len(prompt) + place - 1, token] for place, token in enumerate(reply)]
    return torch.stack(rows)


@pytest.mark.parametrize("family", SCALED)
def test_log_probabilities_are_the_model_s_own(family: str) -> None:
    config, scale = SCALED[family]
    model = built(config())
    head = output_head(model)
    assert (head.scale if isinstance(head, ScaledHead) else 1.0) == scale
    plain = plain_logps(model)
    ours = response_logps(model, pack_responses(PROMPTS, REPLIES, 64))
    torch.testing.assert_close(ours, plain, atol=2e-6, rtol=1e-5)
    weights = torch.randn(len(plain), generator=torch.Generator().manual_seed(1))
    learned = list(model.parameters())
    gradients = [torch.autograd.grad((weights * one).sum(), learned, allow_unused=True) for one in (ours, plain)]
    for packed, alone in zip(*gradients, strict=True):
        assert (packed - alone).norm() <= 1e-5 * alone.norm() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_soft_capped_logits_are_refused(dtype: torch.dtype) -> None:
    """Also where all logits of the model are too small for the cap at 30 to bend them."""
    model = soft_capped().to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.01)
    said = "A gemma2 model changes its logits after the head, and not by a constant .*; take another causal model"
    with pytest.raises(ModelError, match=said):
        output_head(model)
    with pytest.raises(ModelError, match=said):
        all_logps(model, PROMPTS, REPLIES, row_tokens=64, tokens_per_forward=64)


def test_a_constant_that_the_config_does_not_name_is_refused() -> None:
    model = built(SCALED["cohere multiplies"][0]())
    model.config.logit_scale = 0.31
    with pytest.raises(ModelError, match=r"not by a constant that its config names \(logit_scale or logits_scaling\)"):
        output_head(model)


def test_a_layer_between_trunk_and_head_is_refused() -> None:
    model = built(SCALED["llama"][0]())
    model.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2,))
    with pytest.raises(ModelError, match="A llama model changes the hidden states between its trunk and its head"):
        output_head(model)


@pytest.mark.parametrize("family", ["granite divides", "cohere multiplies"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scales_are_found_in_narrow_dtypes(family: str, dtype: torch.dtype) -> None:
    config, scale = SCALED[family]
    head = output_head(built(config()).to(dtype))
    assert isinstance(head, ScaledHead)
    assert head.scale == scale


def test_a_model_is_looked_at_once_and_left_as_it_was() -> None:
    model = built(SCALED["granite divides"][0]()).train()
    before = plain_logps(model)
    calls: list[int] = []
    model.base_model.register_forward_hook(lambda *_: calls.append(1))
    first, again, twin = output_head(model), output_head(model), output_head(copy.deepcopy(model))
    assert len(calls) == 2  # of the trunk alone, and of the whole model
    assert first == again
    assert isinstance(twin, ScaledHead)
    assert model.training
    torch.testing.assert_close(plain_logps(model), before, rtol=0.0, atol=0.0)
