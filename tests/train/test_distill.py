"""Context distillation: what is a target, what is stored, how the student moves, and that a resumed run is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.losses import top_classes
from prefloop.models.language import load_language_model, new_llama, save_model, train_tokenizer
from prefloop.render import Renderer
from prefloop.runs import RunFolder
from prefloop.schema import Message
from prefloop.train.distill import DistillRun, train_distillation
from prefloop.train.distill_targets import encode_texts, load_targets, make_targets, targets_digest

WORDS = "mend the blue cup how does river sing ask kind tree for bread and stone"
PROMPT = (Message(role="user", text="how does the river sing"), Message(role="assistant", text="kind tree"))


def dialogue(place: int) -> tuple[Message, Message]:
    words = WORDS.split()
    return (
        Message(role="user", text=f"mend {words[place % 15]} {words[place // 15 % 15]}"),
        Message(role="assistant", text=f"the {words[(place + 3) % 15]} bread"),
    )


TEXTS = [dialogue(place) for place in range(40)]


def quiet(steps: Any, **_: Any) -> Any:
    class Bar:
        def __iter__(self) -> Any:
            return iter(steps)

        def set_postfix(self, **_: Any) -> None:
            pass

    return Bar()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = train_tokenizer([WORDS] * 50, 300)
    model = new_llama(tokenizer, hidden=32, layers=2, heads=2, window_tokens=96, seed=0)
    with torch.no_grad():  # says something of its own, and minds what stands before
        for name, weight in model.named_parameters():
            weight.mul_(1.0 if "norm" in name else 6.0)
    return save_model(model, tokenizer, tmp_path_factory.mktemp("models") / "teacher")


def new_mistral(tokens: Any, window: int) -> Any:
    """A trunk that sees `window` tokens back, with random weights."""
    return MistralForCausalLM(
        MistralConfig(
            vocab_size=len(tokens),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=96,
            sliding_window=window,
            pad_token_id=tokens.pad_token_id,
            eos_token_id=tokens.eos_token_id,
            bos_token_id=None,
        )
    )


def settings(teacher: Path, **changes: Any) -> DistillRun:
    values: dict[str, Any] = {
        "teacher": teacher,
        "prompt": "prompt.json",
        "classes": 20,
        "held_out_texts": 8,
        "texts_per_step": 8,
        "epochs": 3,
        "row_tokens": 64,
        "learning_rate": 3e-3,
        "warmup_steps": 2,
        "checkpoint_every_steps": 5,
        "dtype": "float32",
        "device": "cpu",
    }
    return DistillRun(**{**values, **changes})


def test_targets_are_what_the_student_can_predict(teacher: Path) -> None:
    renderer = load_language_model(teacher).renderer
    [text] = encode_texts(renderer, PROMPT, TEXTS[:1], 96, replies_only=False).texts
    assert text.prompted_ids[-len(text.ids) :] == text.ids  # our layout writes nothing before the first turn
    assert text.places == list(range(1, len(text.ids)))
    [reply] = encode_texts(renderer, PROMPT, TEXTS[:1], 96, replies_only=True).texts
    assert [text.ids[place] for place in reply.places] == renderer.reply_ids(TEXTS[0][-1].text)


def test_a_text_that_does_not_fit_behind_the_prompt_is_counted(teacher: Path) -> None:
    renderer = load_language_model(teacher).renderer
    long = (Message(role="user", text="mend the blue cup " * 40), Message(role="assistant", text="no"))
    encoded = encode_texts(renderer, PROMPT, [TEXTS[0], long], 96, replies_only=False)
    assert (len(encoded.texts), encoded.dropped_long) == (1, 1)
    with pytest.raises(DataError, match="None of the 1 texts fits"):
        encode_texts(renderer, PROMPT, [long], 96, replies_only=False)
    with pytest.raises(DataError, match="shorten the prompt"):
        encode_texts(renderer, PROMPT * 20, TEXTS, 96, replies_only=False)


def test_stored_targets_are_the_prompted_teachers(teacher: Path, tmp_path: Path) -> None:
    model, renderer = load_language_model(teacher)
    texts = encode_texts(renderer, PROMPT, TEXTS[:11], 96, replies_only=True).texts
    digest = targets_digest(teacher, texts, 20)
    make_targets(model, texts, 20, tmp_path / "t.safetensors", digest, lambda steps, **_: steps)
    targets = load_targets(tmp_path / "t.safetensors", digest)
    for place in (0, 7, 8, 10):  # on both sides of a forward's end
        text = texts[place]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([text.prompted_ids])).logits[0]
        offset = len(text.prompted_ids) - len(text.ids)
        expected = top_classes(logits[[offset + at - 1 for at in text.places]], 20)
        ids, logps = targets.of([place])
        assert torch.equal(ids, expected.ids)
        torch.testing.assert_close(logps, expected.logps, atol=5e-3, rtol=2e-3)  # kept in halves
        torch.testing.assert_close(logps.exp().sum(-1), torch.ones(len(text.places)))


def test_the_student_learns_to_answer_as_if_prompted(teacher: Path, tmp_path: Path) -> None:
    run = settings(teacher)
    folder = RunFolder.create(tmp_path, "distill", run)
    result = train_distillation(run, PROMPT, TEXTS, folder, progress=quiet)
    assert result.kl_before is not None
    assert result.kl_after is not None
    assert result.kl_after.high < result.kl_before.low
    assert (result.texts, result.kl_after.n) == (32, 8)
    rows = folder.metrics()
    assert [row["step"] for row in rows] == list(range(13))  # before, and 3 passes of 4 steps
    assert rows[-1]["distill/learning_rate"] == pytest.approx(3e-3 / 10)  # linear to 0 behind the last step
    assert result.report.is_file()
    # the teacher stays what it is
    assert (
        load_language_model(teacher).model.num_parameters() == load_language_model(result.path).model.num_parameters()
    )


def test_a_resumed_run_is_the_uninterrupted_one(teacher: Path, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def killer(steps: Any, **more: Any) -> Any:
        class Bar:
            def __iter__(self) -> Any:
                for step in steps:
                    if step == 7 and "train" in more["desc"]:
                        raise Killed
                    yield step

            def set_postfix(self, **_: Any) -> None:
                pass

        return Bar()

    run = settings(teacher, dtype="bfloat16")
    whole = RunFolder.create(tmp_path / "whole", "distill", run)
    train_distillation(run, PROMPT, TEXTS, whole, progress=quiet)
    broken = RunFolder.create(tmp_path / "broken", "distill", run)
    with pytest.raises(Killed):
        train_distillation(run, PROMPT, TEXTS, broken, progress=killer)
    train_distillation(run, PROMPT, TEXTS, broken, resume=True, progress=quiet)
    assert broken.metrics() == whole.metrics()
    one, other = (load_language_model(folder.path / "model").model.state_dict() for folder in (whole, broken))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_targets_are_taken_again_and_wrong_ones_refused(teacher: Path, tmp_path: Path) -> None:
    cache = tmp_path / "kept" / "targets.safetensors"
    first = settings(teacher, cache=cache, epochs=1)
    train_distillation(first, PROMPT, TEXTS, RunFolder.create(tmp_path, "distill", first), progress=quiet)
    made = cache.stat().st_mtime_ns
    again = settings(teacher, cache=cache, epochs=1, learning_rate=1e-4)
    train_distillation(again, PROMPT, TEXTS, RunFolder.create(tmp_path, "distill", again), progress=quiet)
    assert cache.stat().st_mtime_ns == made
    other = settings(teacher, cache=cache, epochs=1, classes=10)
    with pytest.raises(DataError, match="another number of classes; name another file"):
        train_distillation(other, PROMPT, TEXTS, RunFolder.create(tmp_path, "distill", other), progress=quiet)
    with pytest.raises(DataError, match="another prompt"):
        train_distillation(again, PROMPT * 2, TEXTS, RunFolder.create(tmp_path / "x", "distill", again), progress=quiet)
    cache.write_bytes(cache.read_bytes()[:100])
    with pytest.raises(ModelError, match="delete the file to compute them again"):
        train_distillation(again, PROMPT, TEXTS, RunFolder.create(tmp_path / "y", "distill", again), progress=quiet)


def test_what_cannot_be_distilled(teacher: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(DataError, match="8 texts leave none to train on"):
        train_distillation(settings(teacher), PROMPT, TEXTS[:8], folder, progress=quiet)
    with pytest.raises(DataError, match="keep fewer"):
        train_distillation(settings(teacher, classes=5000), PROMPT, TEXTS, folder, progress=quiet)
    tokenizer = train_tokenizer(["another language altogether"] * 9, 280)
    other = save_model(
        new_llama(tokenizer, hidden=32, layers=1, heads=2, window_tokens=96, seed=0), tokenizer, tmp_path / "other"
    )
    with pytest.raises(ConfigError, match="different tokenizers"):
        train_distillation(settings(teacher, student=other), PROMPT, TEXTS, folder, progress=quiet)
    tokens = load_language_model(teacher).renderer.tokenizer
    windowed = save_model(new_mistral(tokens, window=4), tokens, tmp_path / "windowed")
    with pytest.raises(ModelError, match="mistral model has windowed"):
        train_distillation(settings(teacher, student=windowed), PROMPT, TEXTS, folder, progress=quiet)


def test_the_renderer_of_the_fixture_is_ours(teacher: Path) -> None:
    assert Renderer(load_language_model(teacher).renderer.tokenizer).layout == "own"
