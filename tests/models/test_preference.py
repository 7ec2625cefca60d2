"""The preference model: the head, saving, equality with the plain class, truncation, refusals."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.models.language import load_language_model, new_llama, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel, conversation_key
from prefloop.schema import Message, PreferencePair, Scorer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer(["what is the time", "it is late, go home"] * 20, 300)


@pytest.fixture(scope="module")
def language_models(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each claimed architecture."""
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 96,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
    }
    gpt2 = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=4, n_positions=96, bos_token_id=None, eos_token_id=4
    )
    torch.manual_seed(0)
    models = {
        "llama": new_llama(tokenizer, hidden=32, layers=2, heads=4, window_tokens=96, seed=0),
        "qwen3": Qwen3ForCausalLM(Qwen3Config(**common, num_key_value_heads=2, head_dim=8)),
        "gpt_neox": GPTNeoXForCausalLM(GPTNeoXConfig(**common)),
        "gpt2": GPT2LMHeadModel(gpt2),
        "olmo2": Olmo2ForCausalLM(Olmo2Config(**common, num_key_value_heads=2)),
    }
    folder = tmp_path_factory.mktemp("models")
    return {name: save_model(model, tokenizer, folder / name) for name, model in models.items()}


def user(text: str) -> Message:
    return Message(role="user", text=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", text=text)


CONVERSATIONS = [
    [user("what is the time"), assistant("it is late")],
    [user("what is the time"), assistant("go home")],
    [user("what is the time"), assistant("it is late"), user("is it"), assistant("it is, go home go home go home")],
    [user("home"), assistant("")],
]


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt_neox", "gpt2", "olmo2"])
def test_plain_class_gives_the_same_scores(name: str, language_models: dict[str, Path], tmp_path: Path) -> None:
    model = PreferenceModel.from_language_model(language_models[name], seed=3)
    scorer: Scorer = model
    scores = scorer.score(CONVERSATIONS)
    assert len(set(scores)) == len(scores)

    path = model.save(tmp_path / "pm")
    again = PreferenceModel.load(path)
    assert again.score(CONVERSATIONS) == scores

    plain = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokens = AutoTokenizer.from_pretrained(path)
    sequences = [model.encode(conversation).ids for conversation in CONVERSATIONS]
    padded = tokens.pad({"input_ids": sequences}, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = plain(input_ids=padded["input_ids"], attention_mask=padded["attention_mask"]).logits[:, 0]
    torch.testing.assert_close(torch.tensor(scores), logits, rtol=1e-5, atol=1e-5)


def test_scores_do_not_depend_on_company_or_rows(language_models: dict[str, Path]) -> None:
    model = PreferenceModel.from_language_model(language_models["llama"], seed=3)
    together = model.score(CONVERSATIONS)
    alone = [model.score([conversation])[0] for conversation in CONVERSATIONS]
    narrow = PreferenceModel(model.model, model.renderer, row_tokens=8).score(CONVERSATIONS[::-1])[::-1]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together == pytest.approx(narrow, abs=1e-5)
    assert model.score([]) == []


def test_a_model_that_moves_decides_anew_how_it_shares(
    language_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = PreferenceModel.from_language_model(language_models["llama"], seed=3, max_tokens=50)
    monkeypatch.setattr("prefloop.models.trie.require_exact", lambda *_: None)  # "meta" computes nothing
    assert (model.to("meta"), model.device.type) == (model, "meta")
    assert (model.shares_beginnings, model.row_tokens, model.max_tokens) == (True, 2048, 50)  # as a GPU has it

    def is_not_exact(*_: Any) -> None:
        raise ModelError("Not exact there.")

    model = PreferenceModel.from_language_model(language_models["llama"], seed=3, row_tokens=64)
    monkeypatch.setattr("prefloop.models.trie.require_exact", is_not_exact)
    assert not model.to("meta").shares_beginnings
    assert (model.row_tokens, model.max_tokens) == (64, 96)


def test_head_has_no_bias_and_its_seed_decides(language_models: dict[str, Path]) -> None:
    first, same, other = (PreferenceModel.from_language_model(language_models["llama"], seed=s) for s in (1, 1, 2))
    assert first.model.score.bias is None
    assert first.model.score.weight.shape == (1, 32)
    assert torch.equal(first.model.score.weight, same.model.score.weight)
    assert not torch.equal(first.model.score.weight, other.model.score.weight)
    # std 1 / sqrt(32 + 1) = 0.174; the sample std of 32 numbers is within 40% of it (more than 3 standard errors)
    assert first.model.score.weight.std().item() == pytest.approx(1 / math.sqrt(33), rel=0.4)


def test_fresh_heads_begin_near_ln_2_as_their_deviation_says(language_models: dict[str, Path]) -> None:
    """A head of std 1/sqrt(d+1) on states a distance r apart gives differences of std r/sqrt(d+1) around 0."""
    heads, replies = 60, ("it is late", "go home", "it is here", "home")
    models = [PreferenceModel.from_language_model(language_models["llama"], seed=s) for s in range(heads)]
    talks = [[user("home"), assistant(text)] for text in replies]
    scores = np.array([model.score(talks) for model in models])  # (head, reply)
    states = []
    for talk in talks:
        ids = models[0].encode(talk).ids
        with torch.no_grad():
            states.append(models[0].trunk(torch.tensor([ids])).last_hidden_state[0, -1].numpy())
    first = np.logaddexp(0, scores[:, :, None] - scores[:, None])  # (head, reply, reply): either order of each pair
    assert np.mean(first[:, ~np.eye(len(replies), dtype=bool)]) == pytest.approx(math.log(2), abs=0.05)
    for one in range(len(replies)):
        for other in range(one):
            differences = scores[:, one] - scores[:, other]
            expected = np.linalg.norm(states[one] - states[other]) / math.sqrt(32 + 1)
            # three standard errors: of the mean s/sqrt(60), of the standard deviation s/sqrt(120)
            assert abs(differences.mean()) < 3 * expected / math.sqrt(heads)
            assert differences.std() == pytest.approx(expected, rel=3 / math.sqrt(2 * heads))
            # the mean loss is ln 2 + mean of d^2 / 8 less terms of the fourth order (ln cosh), up to the mean of -d/2
            losses = np.logaddexp(0, -differences)
            assert abs(losses.mean() - math.log(2) - expected**2 / 8) < 3 * expected / 2 / math.sqrt(heads) + 0.05


def test_output_embedding_is_the_language_models(language_models: dict[str, Path], tmp_path: Path) -> None:
    tied = PreferenceModel.from_language_model(language_models["llama"], seed=1)
    assert tied.output_embedding(language_models["llama"]) is tied.trunk.get_input_embeddings().weight
    untied = PreferenceModel.from_language_model(language_models["qwen3"], seed=1)
    expected = load_language_model(language_models["qwen3"]).model.lm_head.weight
    assert torch.equal(untied.output_embedding(language_models["qwen3"]), expected)
    with pytest.raises(ConfigError, match="language_weight"):
        untied.output_embedding(untied.save(tmp_path / "pm"))


def test_score_is_read_at_the_end_token(language_models: dict[str, Path]) -> None:
    model = PreferenceModel.from_language_model(language_models["llama"], seed=1)
    encoded = model.encode(CONVERSATIONS[0])
    assert encoded.ids[-1] == model.renderer.end_id != model.renderer.pad_id
    assert encoded.ids == model.renderer.conversation(CONVERSATIONS[0]).ids


def test_truncation_drops_the_oldest_turns_and_never_the_answer(language_models: dict[str, Path]) -> None:
    model = PreferenceModel.from_language_model(language_models["llama"], seed=1, max_tokens=30)
    long = [user("one two three four"), assistant("it is late"), user("home"), assistant("go home")]
    encoded = model.encode(long)
    assert encoded.dropped_turns == 2
    assert encoded.ids == model.encode(long[2:]).ids
    pair = model.encode_pair(PreferencePair(context=tuple(long[:3]), chosen="go home", rejected="no"))
    assert pair.dropped_turns == 2
    assert pair.chosen == encoded.ids
    assert pair.rejected[: len(model.renderer.context_ids([user("home")]))] == model.renderer.context_ids(
        [user("home")]
    )
    with pytest.raises(DataError, match="shorten it"):
        model.encode([user("home"), assistant("go home " * 30)])
    with pytest.raises(DataError, match="assistant turn"):
        model.encode([user("home")])


def test_window_is_the_models(language_models: dict[str, Path]) -> None:
    assert PreferenceModel.from_language_model(language_models["gpt2"], seed=1, max_tokens=5000).max_tokens == 96


def test_what_is_not_a_preference_model_is_refused(language_models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="LlamaForCausalLM"):
        PreferenceModel.load(language_models["llama"])
    with pytest.raises(ModelError, match="nowhere"):
        PreferenceModel.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="nowhere"):
        PreferenceModel.from_language_model(tmp_path / "nowhere", seed=1)
    path = tmp_path / "broken"
    shutil.copytree(language_models["llama"], path)
    (path / "config.json").write_text("{")
    with pytest.raises(ModelError):
        PreferenceModel.from_language_model(path, seed=1)


def test_conversation_key_is_the_id_or_the_first_user_turn() -> None:
    system = Message(role="system", text="be kind")
    imported = PreferencePair(context=(system, user("home"), assistant("yes"), user("now")), chosen="a", rejected="b")
    assert conversation_key(imported) == "home"
    assert conversation_key(imported.model_copy(update={"conversation_id": "c1"})) == "c1"
