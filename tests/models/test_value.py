"""The value model: its start is the (scaled) PM, read before each token, and the PM stays what it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from prefloop.models.language import train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import pack_responses
from prefloop.models.value import ValueModel
from prefloop.render import Renderer

PROMPTS, RESPONSES = [[5, 6, 7], [5, 6, 7], [9, 8]], [[10, 11, 12], [13], [14, 15]]


def config(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        **more,
    )


@pytest.fixture
def judge() -> PreferenceModel:
    torch.manual_seed(0)
    return PreferenceModel(
        LlamaForSequenceClassification(config(num_labels=1)), Renderer(train_tokenizer(["some text"], 300))
    )


def test_starts_as_the_scaled_score_of_each_state(judge: PreferenceModel) -> None:
    value = ValueModel.from_preference_model(judge, mean=0.5, std=2.0)
    values = value(pack_responses(PROMPTS, RESPONSES, row_tokens=32))
    # the state before token t is the prompt and the tokens before t
    states = [
        prompt + response[:t] for prompt, response in zip(PROMPTS, RESPONSES, strict=True) for t in range(len(response))
    ]
    expected = [(score - 0.5) / 2.0 for score in judge.score_ids(states)]
    assert values.tolist() == pytest.approx(expected, abs=1e-5)


def test_training_it_leaves_the_pm_alone(judge: PreferenceModel) -> None:
    judge.model.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in judge.model.state_dict().items()}
    value = ValueModel.from_preference_model(judge)
    optimizer = torch.optim.SGD(value.parameters(), lr=0.1)
    packed = pack_responses(PROMPTS, RESPONSES, row_tokens=32)
    first = (value(packed) - 3).square().mean()
    first.backward()
    assert all(parameter.grad is not None for parameter in value.parameters())
    optimizer.step()
    assert (value(packed) - 3).square().mean() < first
    for name, tensor in judge.model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_from_a_policy_it_starts_at_zero_on_a_copy() -> None:
    policy = LlamaForCausalLM(config())
    value = ValueModel.from_policy(policy)
    values = value(pack_responses(PROMPTS, RESPONSES, row_tokens=32))
    assert values.tolist() == [0.0] * 6
    with torch.no_grad():
        next(iter(value.trunk.parameters())).add_(1)
    assert not torch.equal(next(iter(value.trunk.parameters())), next(iter(policy.base_model.parameters())))


def test_ids_beyond_the_pm_s_are_read_as_padding(judge: PreferenceModel) -> None:
    value = ValueModel.from_preference_model(judge)
    beyond = value(pack_responses(PROMPTS, [[10, 300, 12], [13], [14, 311, 16]], row_tokens=32))
    padding = value(pack_responses(PROMPTS, [[10, 0, 12], [13], [14, 0, 16]], row_tokens=32))
    assert torch.equal(beyond, padding)
