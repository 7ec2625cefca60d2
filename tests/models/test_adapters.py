"""LoRA: nothing changed at first, the same after saving, peft's own files, and weights shared rather than copied."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from prefloop.errors import ModelError
from prefloop.models.adapters import adapted, add_lora, sharing_copy, trained_state
from prefloop.models.language import check_model, load_language_model, new_llama, save_model, train_tokenizer
from prefloop.models.lean import is_lean
from prefloop.models.preference import PreferenceModel
from prefloop.models.trie import pack, packed_hidden
from prefloop.models.value import Lora, ValueModel
from prefloop.schema import Message

IDS = [[5, 9, 11, 30, 2], [5, 9, 40, 7], [8, 8, 60, 12, 13, 14]]
CONVERSATION = [Message(role="user", text="blue cup"), Message(role="assistant", text="mend the cup")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer(["mend the blue cup"] * 20, 290)
    model = new_llama(tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=0)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("lora") / "base")


def shaken(model: Any, seed: int) -> None:
    """As if it had been trained: both factors and the head away from where they began."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in trained_state(model).values():
            value.add_(0.1 * torch.randn(value.shape, generator=generator))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in IDS])


def hidden(model: Any) -> torch.Tensor:
    batch = pack(IDS, 32)
    return packed_hidden(model.base_model, batch, torch.cat(batch.token_index))


def learner(base: Path, seed: int = 1) -> tuple[Any, Any]:
    model, renderer = load_language_model(base)
    add_lora(model, 4, 2.0, seed, base=base)
    return model, renderer.tokenizer


def test_a_fresh_adapter_and_one_that_is_off_change_no_bit(base: Path) -> None:
    plain = load_language_model(base).model
    model, _ = learner(base)
    assert torch.equal(hidden(model), hidden(plain))
    shaken(model, 0)
    assert (hidden(model) - hidden(plain)).norm() > 0.1 * hidden(plain).norm()
    off = sharing_copy(model)
    assert torch.equal(hidden(off), hidden(plain))
    assert torch.equal(logits(off), logits(plain))
    places = {tensor.data_ptr() for tensor in model.parameters()}
    assert {tensor.data_ptr() for tensor in off.parameters()} < places  # not a second model in memory


def test_the_lean_forward_sees_the_adapter_exactly(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = learner(base)
    shaken(model, 0)
    assert is_lean(model.base_model)
    weights = torch.randn(hidden(model).shape, generator=torch.Generator().manual_seed(3))

    def gradients() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        model.zero_grad()
        found = hidden(model)
        (found * weights).sum().backward()
        of = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
        return found.detach(), of

    lean, of_lean = gradients()
    monkeypatch.setattr("prefloop.models.trie.is_lean", lambda trunk: False)
    general, of_general = gradients()  # peft's own forward
    assert (lean - general).norm() < 1e-5 * general.norm()
    assert of_lean.keys() == of_general.keys() == trained_state(model).keys()
    for name, gradient in of_general.items():
        assert (of_lean[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_a_dropout_or_a_second_adapter_goes_the_general_way(base: Path) -> None:
    model, _ = learner(base)
    model.base_model.layers[0].self_attn.q_proj.lora_dropout["default"] = torch.nn.Dropout(0.1)
    assert not is_lean(model.base_model)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft, of transformers
def test_what_is_saved_loads_merged_and_by_peft_itself(base: Path, tmp_path: Path) -> None:
    model, tokenizer = learner(base)
    shaken(model, 0)
    path = save_model(model, tokenizer, tmp_path / "adapter")
    assert not (path / "model.safetensors").exists()
    check_model(path, is_preference_model=False)
    loaded = load_language_model(path).model
    assert type(loaded.base_model.layers[0].self_attn.q_proj) is torch.nn.Linear
    assert torch.equal(hidden(loaded), hidden(model))
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), path)
    torch.testing.assert_close(logits(theirs), logits(loaded), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft, of transformers
def test_a_preference_model_is_saved_with_its_head(base: Path, tmp_path: Path) -> None:
    pm = PreferenceModel.from_language_model(base, 3)
    add_lora(pm.model, 4, 2.0, 1, base=base, head="score")
    shaken(pm.model, 0)
    path = pm.save(tmp_path / "pm")
    check_model(path, is_preference_model=True)
    again = PreferenceModel.load(path)
    assert again.score([CONVERSATION]) == pm.score([CONVERSATION])
    whole = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, pad_token_id=pm.renderer.pad_id)
    theirs = peft.PeftModel.from_pretrained(whole, path).eval()
    with torch.no_grad():
        score = theirs(input_ids=torch.tensor([pm.encode(CONVERSATION).ids])).logits.item()
    assert score == pytest.approx(pm.score([CONVERSATION])[0], rel=1e-5)


def test_several_adapters_share_one_base(base: Path, tmp_path: Path) -> None:
    shared = load_language_model(base).model
    places = {tensor.data_ptr() for tensor in shared.parameters()}
    for seed in (1, 2):
        model, tokenizer = learner(base, seed)
        shaken(model, seed)
        path = save_model(model, tokenizer, tmp_path / f"adapter{seed}")
        served = adapted(shared, path)
        assert torch.equal(hidden(served), hidden(model))
        own = [tensor for tensor in served.parameters() if tensor.data_ptr() not in places]
        assert sum(map(torch.numel, own)) == sum(map(torch.numel, trained_state(model).values()))
    assert torch.equal(hidden(shared), hidden(load_language_model(base).model))


def test_a_value_model_learns_beside_the_weights_of_the_pm(base: Path) -> None:
    pm = PreferenceModel.from_language_model(base, 3)
    value = ValueModel.from_preference_model(pm, 0.5, 2.0, Lora(4, 2.0, 0))
    assert trained_state(value).keys() == {name for name, one in value.named_parameters() if one.requires_grad}
    assert {"head.weight", "head.bias"} < trained_state(value).keys()
    places = {tensor.data_ptr() for tensor in pm.trunk.parameters()}
    frozen = [one for one in value.parameters() if not one.requires_grad]
    assert {tensor.data_ptr() for tensor in frozen} == places


def test_other_architectures_keep_their_adapter_too(base: Path, tmp_path: Path) -> None:
    tokenizer = load_language_model(base).renderer.tokenizer
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, eos_token_id=1)
    path = save_model(GPT2LMHeadModel(config), tokenizer, tmp_path / "gpt2")
    model, _ = learner(path)
    shaken(model, 0)
    again = load_language_model(save_model(model, tokenizer, tmp_path / "adapter")).model
    torch.testing.assert_close(hidden(again), hidden(model), rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_refused_in_a_sentence(base: Path, tmp_path: Path) -> None:
    found = load_language_model(base)
    copy = save_model(found.model, found.renderer.tokenizer, tmp_path / "copy")
    model, tokenizer = learner(copy)
    path = save_model(model, tokenizer, tmp_path / "adapter")
    with pytest.raises(ModelError, match="is an adapter; merge it first"):
        add_lora(load_language_model(base).model, 4, 2.0, 1, base=path)
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"r": 2}))
    with pytest.raises(ModelError, match="does not fit its base"):
        load_language_model(path)
    (path / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(ModelError, match="no plain LoRA"):
        load_language_model(path)
    (path / "adapter_config.json").write_text(json.dumps(config))
    other = new_llama(tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=9)
    save_model(other, tokenizer, copy)
    with pytest.raises(ModelError, match="are not those that the adapter"):
        load_language_model(path)
