"""Language models: our tokenizer, a new Llama, and Hugging Face folders written whole and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification

from prefloop.errors import ModelError
from prefloop.models import language
from prefloop.models.language import (
    load_language_model,
    load_tokenizer,
    new_llama,
    save_model,
    scale_logits,
    train_tokenizer,
    window_tokens,
)
from prefloop.render import SPECIAL_TOKENS, Renderer
from prefloop.schema import Message

TEXTS = ["the red key is in the kitchen", "where is the red key", "bake a cake with plums and sugar"]
CONVERSATION = [
    Message(role="user", text="Where is the RED key? 🔑"),
    Message(role="assistant", text="in the kitchen\n\n<|end|>"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(TEXTS, 300)


def tiny(tokenizer: Any, seed: int = 0) -> Any:
    return new_llama(tokenizer, hidden=16, layers=2, heads=2, window_tokens=32, seed=seed)


def test_the_tokenizer_knows_every_byte_and_learns_from_the_texts(tokenizer: Any) -> None:
    assert len(tokenizer) <= 300
    assert tokenizer.convert_ids_to_tokens(range(5)) == list(SPECIAL_TOKENS)
    text = "Zoë 🔑\t\x00\n unseen"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    learnt, unseen = (len(tokenizer(word, add_special_tokens=False)["input_ids"]) for word in (" the", " qwz"))
    assert learnt < unseen == 4
    assert tokenizer.eos_token_id != tokenizer.pad_token_id


def test_the_tokenizer_is_the_same_for_the_same_texts(tokenizer: Any) -> None:
    assert train_tokenizer(TEXTS, 300).get_vocab() == tokenizer.get_vocab()


def test_a_new_model_depends_on_its_seed_alone(tokenizer: Any) -> None:
    one, same, other = tiny(tokenizer), tiny(tokenizer), tiny(tokenizer, seed=1)
    pairs = list(zip(one.parameters(), same.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not all(torch.equal(a, c) for a, _, c in pairs)


def test_the_shape_of_a_new_model(tokenizer: Any) -> None:
    model = tiny(tokenizer)
    assert window_tokens(model) == 32
    assert model.lm_head.weight is model.model.embed_tokens.weight
    # 8/3 of 16 is 42.7, in steps of 32: 64. Each layer: 4 * 16*16 attention, 3 * 16*64 feed-forward, 2 * 16 norms.
    layer = 4 * 16 * 16 + 3 * 16 * 64 + 2 * 16
    assert sum(p.numel() for p in model.parameters()) == len(tokenizer) * 16 + 2 * layer + 16


def test_scaled_logits_are_those_of_another_temperature(tokenizer: Any) -> None:
    plain, scaled = tiny(tokenizer), tiny(tokenizer)
    scale_logits(scaled, 1.25)
    ids = torch.tensor([[5, 6, 7, 8]])
    torch.testing.assert_close(scaled(ids).logits, 1.25 * plain(ids).logits)
    scaled.base_model.norm = None
    with pytest.raises(ModelError, match="leave logit_scale at 1"):
        scale_logits(scaled, 1.25)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_saved_loads_again(tokenizer: Any, tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny(tokenizer).to(dtype)
    path = save_model(model, tokenizer, tmp_path / "deep" / "model")
    assert not list(path.parent.glob(".writing-*"))
    assert not list(path.glob("*.bin"))  # safetensors alone, no pickle
    loaded, renderer = load_language_model(path, dtype)
    assert not loaded.training
    assert renderer.conversation(CONVERSATION) == Renderer(tokenizer).conversation(CONVERSATION)
    for mine, theirs in zip(loaded.parameters(), model.parameters(), strict=True):
        assert mine.dtype == dtype
        assert torch.equal(mine, theirs)
    if dtype is torch.float32:  # in bfloat16 the loaded model keeps its rotary frequencies in fp32, ours rounded them
        ids = torch.tensor([renderer.conversation(CONVERSATION).ids[:30]])
        with torch.no_grad():
            assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)


def test_loaded_weights_begin_where_torch_puts_its_own(tokenizer: Any, tmp_path: Path) -> None:
    """A file has them at any eighth byte, and products of few rows depend on it."""
    path = save_model(tiny(tokenizer), tokenizer, tmp_path / "model")
    with (path / "model.safetensors").open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    assert (8 + header) % 16  # the file has them elsewhere
    assert {tensor.data_ptr() % 64 for tensor in load_language_model(path).model.parameters()} == {0}


def test_saving_again_replaces_the_folder(tokenizer: Any, tmp_path: Path) -> None:
    path = save_model(tiny(tokenizer), tokenizer, tmp_path / "model")
    (path / "left_over.txt").touch()
    save_model(tiny(tokenizer, seed=1), tokenizer, path)
    assert not (path / "left_over.txt").exists()
    weight = load_language_model(path).model.model.embed_tokens.weight
    assert torch.equal(weight, tiny(tokenizer, seed=1).model.embed_tokens.weight)


def test_a_model_that_fails_to_be_written_leaves_the_old_one(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_model(tiny(tokenizer), tokenizer, tmp_path / "model")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(language, "replace_folder", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(tiny(tokenizer, seed=1), tokenizer, path)
    weight = load_language_model(path).model.model.embed_tokens.weight
    assert torch.equal(weight, tiny(tokenizer).model.embed_tokens.weight)


def test_what_is_no_model(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"No tokenizer can be loaded from .*; check the path"):
        load_tokenizer(tmp_path / "none")
    tokenizer.save_pretrained(tmp_path / "half")
    with pytest.raises(ModelError, match=r"No model can be loaded from .*; check the path"):
        load_language_model(tmp_path / "half")


def test_a_preference_model_is_no_language_model(tokenizer: Any, tmp_path: Path) -> None:
    config = tiny(tokenizer).config
    config.num_labels = 1
    path = save_model(LlamaForSequenceClassification(config), tokenizer, tmp_path / "pm")
    with pytest.raises(ModelError, match="holds a LlamaForSequenceClassification, a preference model perhaps"):
        load_language_model(path)
