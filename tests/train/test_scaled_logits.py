"""Training of models that scale their logits after the head: it must see what the model itself says, or refuse it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_train_policy import models, settings, train
from transformers import AutoModelForCausalLM, CohereConfig, Gemma2Config, GraniteConfig

from prefloop.errors import ModelError
from prefloop.losses import top_classes
from prefloop.models.devices import device_named
from prefloop.models.language import load_language_model, save_model
from prefloop.runs import RunFolder
from prefloop.schema import Message
from prefloop.train.distill import DistillRun, train_distillation
from prefloop.train.distill_targets import encode_texts, make_targets
from prefloop.train.lm import LanguageRun, train_language_model
from prefloop.train.policy_setup import load_models

__all__ = ["models"]

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
CONFIGS: dict[str, Callable[..., Any]] = {
    "granite": lambda **ids: GraniteConfig(**SHAPE, **ids, logits_scaling=3.0),
    "cohere": lambda **ids: CohereConfig(**SHAPE, **ids, logit_scale=0.3),
    "gemma2": lambda **ids: Gemma2Config(
        **SHAPE, **ids, head_dim=8, layer_types=["full_attention"] * 2, sliding_window=64
    ),
}
TEXTS = [(Message(role="user", text=f"mend the {word}"), Message(role="assistant", text="ask it")) for word in "abcdef"]


@pytest.fixture(scope="module")
def folders(models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of each family with the tokenizer of the others."""
    parent, tokenizer = tmp_path_factory.mktemp("families"), load_language_model(models / "policy").renderer.tokenizer
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }
    torch.manual_seed(0)
    return {
        name: save_model(AutoModelForCausalLM.from_config(config(**ids)), tokenizer, parent / name)
        for name, config in CONFIGS.items()
    }


@pytest.mark.parametrize("family", ["granite", "cohere"])
def test_a_policy_samples_and_learns_with_one_probability(
    family: str, models: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    run = settings(models, episodes=16, snapshots=1).model_copy(update={"policy": folders[family]})
    result, folder = train(run, tmp_path)
    (row,) = [row for row in folder.metrics() if "policy/ratio_first_error" in row]
    assert row["policy/ratio_first_error"] < 1e-3
    assert abs(row["kl/k1"]) < 1e-4  # the reference is the policy itself
    assert not any(reason.startswith("ratio_not_one") for reason in result.alarms)


@pytest.mark.parametrize("family", ["granite", "cohere"])
def test_a_language_model_s_loss_is_its_own(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    run = LanguageRun(
        start=folders[family], steps=1, tokens_per_step=64, held_out_conversations=0, dtype="float32", device="cpu"
    )
    folder = RunFolder.create(tmp_path, "lm", run)
    train_language_model(run, TEXTS[:1], folder, progress=lambda steps, **_: _Bar(steps))
    model, renderer = load_language_model(folders[family])
    ids = torch.tensor([renderer.conversation(TEXTS[0]).ids])
    with torch.no_grad():
        logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    plain = -logps.gather(1, ids[0, 1:, None]).mean().item()
    assert folder.metrics()[0]["lm/loss"] == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("family", ["granite", "cohere"])
def test_a_teacher_s_classes_are_its_own(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    model, renderer = load_language_model(folders[family])
    texts = encode_texts(renderer, [], TEXTS, 64, replies_only=False).texts
    found = make_targets(model, texts, 5, tmp_path / "targets", "digest", lambda steps, **_: steps)
    ids = torch.tensor([texts[0].prompted_ids])
    with torch.no_grad():
        plain = top_classes(model(input_ids=ids).logits[0, torch.tensor(texts[0].places) - 1], 5)
    logps = found.of([0])[1]
    torch.testing.assert_close(logps.float(), plain.logps, atol=5e-3, rtol=5e-3)  # they are stored in float16


def test_soft_capped_logits_are_refused_where_a_model_is_loaded(
    models: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    capped, said = folders["gemma2"], "A gemma2 model changes its logits after the head"
    with pytest.raises(ModelError, match=said):
        load_models(settings(models).model_copy(update={"policy": capped}), device_named("cpu"))
    language = LanguageRun(start=capped, steps=1, tokens_per_step=64, held_out_conversations=0, device="cpu")
    with pytest.raises(ModelError, match=said):
        train_language_model(language, TEXTS, RunFolder.create(tmp_path, "lm", language))
    distilled = DistillRun(teacher=models / "policy", student=capped, held_out_texts=2, device="cpu", prompt="x.json")
    with pytest.raises(ModelError, match=said):
        train_distillation(distilled, [], TEXTS, RunFolder.create(tmp_path, "distill", distilled))


class _Bar(list[int]):
    def set_postfix(self, **_: Any) -> None: ...
