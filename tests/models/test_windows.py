"""Lengths at which models behave otherwise: local attention, LongRoPE, places from an offset. Plain classes judge."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GPTNeoModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from prefloop.errors import DataError, ModelError
from prefloop.models.language import load_language_model, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import kl_to_reference, reply_logps
from prefloop.models.trie import require_exact
from prefloop.models.unshared import group
from prefloop.schema import Message, Sample

SHAPE = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
LLAMA = {**SHAPE, "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": None}
LONG_ROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "short_factor": [1.0] * 4,
    "long_factor": [3.0] * 4,
    "original_max_position_embeddings": 16,
    "rope_theta": 1e4,
}
ALIBI = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "alibi": True}
NEO = {"vocab_size": 300, "hidden_size": 32, "num_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0}
Small = Callable[[], Any]
SMALL: dict[str, Small] = {
    "gpt_neo": lambda: GPTNeoForCausalLM(neo("local", 4)),
    "longrope": lambda: LlamaForCausalLM(LlamaConfig(**LLAMA, rope_parameters=LONG_ROPE)),
    "bloom": lambda: BloomForCausalLM(BloomConfig(vocab_size=300, hidden_size=32, n_layer=2, n_head=4)),
    "falcon": lambda: FalconForCausalLM(FalconConfig(vocab_size=300, **ALIBI)),
    "openai-gpt": lambda: OpenAIGPTLMHeadModel(
        OpenAIGPTConfig(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ),
}
SAID = {
    "gpt_neo": "(global, local, window 4)",
    "longrope": "longer than 16 tokens (LongRoPE)",
    "bloom": "bloom model cannot compute shared beginnings",
    "falcon": "falcon model cannot compute shared beginnings",
    "openai-gpt": "openai-gpt model cannot compute shared beginnings",
}


def neo(second: str, window: int) -> GPTNeoConfig:
    return GPTNeoConfig(
        **NEO, num_layers=2, attention_types=[[["global", second], 1]], window_size=window, eos_token_id=1
    )


def strong(model: Any) -> Any:
    """Random weights as far from 0 as trained ones, so that attention is not even."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.mul_(8)
    return model.eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    tokens = train_tokenizer(["what is the time", "it is late, go home"] * 20, 300)
    tokens.model_max_length = 64
    torch.manual_seed(0)
    parent = tmp_path_factory.mktemp("families")
    return {name: save_model(strong(make()), tokens, parent / name) for name, make in SMALL.items()}


def sequences() -> list[list[int]]:
    """Two conversations, both sides of each, up to 60 tokens; and two short strangers."""
    draw = torch.Generator().manual_seed(1)

    def ids(size: int) -> list[int]:
        return [*torch.randint(5, 250, (size,), generator=draw).tolist()]

    long, short = ids(30), ids(8)
    return [long + ids(12), long + ids(29), short + ids(6), short + ids(4), ids(5), ids(13)]


@pytest.mark.parametrize("name", SMALL)
def test_what_cannot_share_is_computed_alone_and_says_so(
    name: str, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model = PreferenceModel.from_language_model(folders[name], seed=1)
    assert SAID[name] in caplog.text
    assert "computed by itself" in caplog.text
    assert not model.shares_beginnings
    plain = AutoModelForSequenceClassification.from_pretrained(model.save(tmp_path / "pm"), dtype=torch.float32).eval()
    expected = torch.cat([plain(input_ids=torch.tensor([ids])).logits[:, 0] for ids in sequences()])
    scores = model.forward_packed(model.pack(sequences()))
    assert expected.std() > 1e-3, "the scores must differ, or their equality says nothing"
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(model.score_ids(sequences())), expected.detach(), rtol=1e-5, atol=1e-5)
    weight = torch.linspace(-1, 1, len(scores))
    (scores @ weight).backward()
    (expected @ weight).backward()
    theirs = dict(plain.named_parameters())
    for key, ours in model.model.named_parameters():
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs[key].grad, rtol=1e-4, atol=1e-5, msg=key)


@pytest.mark.parametrize("name", SMALL)
def test_a_policy_that_cannot_share_moves_all_the_same(name: str, folders: dict[str, Path]) -> None:
    model, _ = load_language_model(folders[name]).to("cpu")
    assert not model.base_model.training
    with pytest.raises(ModelError, match=name if name != "longrope" else "LongRoPE"):
        require_exact(model.base_model)


@pytest.mark.parametrize("name", SMALL)
def test_replies_of_a_model_that_cannot_share_are_measured_alone(name: str, folders: dict[str, Path]) -> None:
    """KL, log-probability accuracy and layouts of evaluations stand on these."""
    model, _ = load_language_model(folders[name]).to("cpu")
    prompts = [ids[:-4] for ids in sequences()]
    replies = [ids[-4:] for ids in sequences()]
    expected = [
        model(input_ids=torch.tensor([prompt + reply])).logits[0].log_softmax(-1)[len(prompt) - 1 + place, token]
        for prompt, reply in zip(prompts, replies, strict=True)
        for place, token in enumerate(reply)
    ]
    torch.testing.assert_close(reply_logps(model, prompts, replies), torch.stack(expected), rtol=1e-5, atol=1e-5)
    drawn = [Sample(reply, [-1.0] * len(reply), "length") for reply in replies]
    kl = [-4.0 - sum(expected[4 * place : 4 * place + 4]).item() for place in range(len(replies))]
    assert kl_to_reference(model, prompts, drawn) == pytest.approx(kl, abs=1e-4)
    with pytest.raises(DataError, match="0 tokens"):
        reply_logps(model, prompts[:2], [replies[0], []])


def test_a_long_rope_is_shared_within_its_short_factors(folders: dict[str, Path]) -> None:
    model = PreferenceModel.from_language_model(folders["longrope"], seed=1, max_tokens=16)
    assert model.shares_beginnings
    assert model.max_tokens == 16
    short = [ids[:16] for ids in sequences()]
    alone = [model.score_ids([ids])[0] for ids in short]
    assert model.score_ids(short) == pytest.approx(alone, abs=1e-5)


def test_no_group_straddles_a_length() -> None:
    sequences = [[7] * length for length in (18, 17, 16, 15)]
    assert [tuple(one.ids.shape) for one in group(sequences, 0, 16).groups] == [(2, 18), (2, 16)]
    assert len(group(sequences, 0).groups) == len(group(sequences, 0, 18).groups) == 1


def test_a_window_that_no_setting_admits_shows_in_the_proof() -> None:
    """Of a kind that is not known here: its settings name a number and nothing else."""
    torch.manual_seed(0)
    trunk = strong(GPTNeoModel(neo("local", 16)))
    trunk.config.attention_layers = None
    with pytest.raises(ModelError, match="other hidden states when beginnings are shared"):
        require_exact(trunk)
    require_exact(strong(GPTNeoModel(neo("global", 16))))


@pytest.mark.parametrize(("tokens", "is_refused"), [(300, True), (512, False), (None, False), (True, False)])
def test_a_window_too_wide_to_try_is_refused_where_it_would_bind(tokens: Any, is_refused: bool) -> None:
    torch.manual_seed(0)
    trunk = LlamaModel(LlamaConfig(**{**LLAMA, "max_position_embeddings": 512}))
    trunk.config.attention_window_size = tokens
    trunk.config.max_window_layers = 400  # counts layers
    if is_refused:
        with pytest.raises(ModelError, match="attention_window_size = 300"):
            require_exact(trunk)
    else:
        require_exact(trunk)


def test_places_behind_the_padding_are_the_window_of_roberta(bert_tokenizer: Any, tmp_path: Path) -> None:
    """As published with 514 places and a padding of 1, here 66, and a tokenizer that states no limit."""
    tokens = copy.deepcopy(bert_tokenizer)
    tokens.model_max_length = int(1e30)
    torch.manual_seed(0)
    config = RobertaConfig(
        **{**SHAPE, "vocab_size": len(tokens)}, num_attention_heads=4, max_position_embeddings=66, pad_token_id=1
    )
    start = save_model(RobertaForMaskedLM(config), tokens, tmp_path / "roberta")
    model = PreferenceModel.from_language_model(start, seed=1)
    assert model.max_tokens == 64
    longest = [Message(role="user", text="home"), Message(role="assistant", text="go " * 55)]
    room = 64 - len(model.encode(longest).ids)
    full = [longest[0], Message(role="assistant", text="go " * (55 + room))]
    assert len(model.encode(full).ids) == 64
    assert len(model.score([full])) == 1
    with pytest.raises(DataError, match="shorten it"):
        model.encode([longest[0], Message(role="assistant", text="go " * (56 + room))])
