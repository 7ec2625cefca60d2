"""Encoders as preference models: equal to the plain forward in scores and gradients, saved, loaded, refused."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.losses import preference_losses
from prefloop.models.language import save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.models.unshared import group
from prefloop.schema import Message, PreferencePair

ENCODERS = ("bert", "bert_trunk", "deberta", "roberta")


def user(text: str) -> Message:
    return Message(role="user", text=text)


def assistant(text: str) -> Message:
    return Message(role="assistant", text=text)


CONVERSATIONS = [
    [user("what is the time ?"), assistant("it is late")],
    [user("what is the time ?"), assistant("go home now")],
    [
        user("what is it ?"),
        assistant("it is late ."),
        user("tell me more"),
        assistant("go home, home"),
    ],
    [user("home"), assistant("")],
    [user("tell me more about rivers"), assistant("rivers is late and then more rivers go home")],
]


@pytest.fixture(scope="module")
def encoders(bert_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny random ones, with dropout in their settings."""
    common = {
        "vocab_size": len(bert_tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 66,
        "pad_token_id": 0,
    }
    disentangled = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    torch.manual_seed(0)
    made = {
        "bert": BertForMaskedLM(BertConfig(**common)),
        "bert_trunk": BertModel(BertConfig(**common)),
        "deberta": DebertaV2ForMaskedLM(DebertaV2Config(**common, **disentangled, pooler_hidden_size=32)),
        "roberta": RobertaForMaskedLM(RobertaConfig(**common)),
    }
    with torch.no_grad():  # BERT's own start is so small that scores of different texts are nearly equal
        for model in made.values():
            for value in model.parameters():
                if value.dim() == 2:
                    value.mul_(5)
    folder = tmp_path_factory.mktemp("encoders")
    tokenizer = copy.deepcopy(bert_tokenizer)
    tokenizer.model_max_length = 64
    return {name: save_model(model, tokenizer, folder / name) for name, model in made.items()}


def plain_scores(path: Path, sequences: list[list[int]]) -> tuple[Any, torch.Tensor]:
    """The plain class on one sequence at a time: no padding, nothing of ours."""
    plain = AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    return plain, torch.cat([plain(input_ids=torch.tensor([ids])).logits[:, 0] for ids in sequences])


@pytest.mark.parametrize("name", ENCODERS)
def test_scores_and_gradients_equal_the_plain_forward(name: str, encoders: dict[str, Path], tmp_path: Path) -> None:
    model = PreferenceModel.from_language_model(encoders[name], seed=3)
    assert not model.shares_beginnings
    path = model.save(tmp_path / "pm")
    sequences = [model.encode(conversation).ids for conversation in CONVERSATIONS[:4]]
    plain, expected = plain_scores(path, sequences)

    scores = model.forward_packed(model.pack(sequences))
    assert scores.std().item() > 1e-3, "the scores must differ, or their equality says nothing"
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    assert PreferenceModel.load(path).score(CONVERSATIONS) == pytest.approx(model.score(CONVERSATIONS), abs=1e-6)

    preference_losses(scores[0::2], scores[1::2]).mean().backward()
    preference_losses(expected[0::2], expected[1::2]).mean().backward()
    theirs = dict(plain.named_parameters())
    compared = 0
    for key, ours in model.model.named_parameters():
        if ours.grad is None:
            assert theirs[key].grad is None or theirs[key].grad.abs().max() < 1e-6, key  # the bias of the head
            continue
        torch.testing.assert_close(ours.grad, theirs[key].grad, rtol=1e-4, atol=1e-5, msg=key)
        compared += 1
    assert compared > 30


@pytest.mark.parametrize("name", ENCODERS)
def test_scores_do_not_depend_on_company(name: str, encoders: dict[str, Path]) -> None:
    model = PreferenceModel.from_language_model(encoders[name], seed=3)
    together = model.score(CONVERSATIONS)
    assert together == pytest.approx([model.score([one])[0] for one in CONVERSATIONS], abs=1e-5)
    assert together == pytest.approx(model.score(CONVERSATIONS[::-1])[::-1], abs=1e-5)


def test_a_fresh_head_and_pooler_depend_on_the_seed_alone(encoders: dict[str, Path]) -> None:
    first, same, other = (PreferenceModel.from_language_model(encoders["bert"], seed=s) for s in (1, 1, 2))
    assert first.score(CONVERSATIONS) == same.score(CONVERSATIONS) != other.score(CONVERSATIONS)
    pooler = first.model.bert.pooler.dense.weight  # BertForMaskedLM has none
    assert torch.equal(pooler, same.model.bert.pooler.dense.weight)
    assert not torch.equal(pooler, other.model.bert.pooler.dense.weight)
    assert first.head.bias.item() == 0.0
    assert not first.head.bias.requires_grad


def test_a_conversation_is_written_with_cls_and_sep(encoders: dict[str, Path]) -> None:
    model = PreferenceModel.from_language_model(encoders["bert"], seed=3)
    tokens = model.renderer.tokenizer.convert_ids_to_tokens(model.encode(CONVERSATIONS[2]).ids)
    said = "[CLS] human : what is it ? assistant : it is late . [SEP] human : tell me more assistant : go home ,"
    assert tokens == [*said.split(), "home", "[SEP]"]
    spelled = model.encode([user("[SEP] home"), assistant("now")]).ids
    assert spelled.count(3) == 1, "what a person spells is no special token"


def test_window_is_what_tokenizer_and_positions_allow(encoders: dict[str, Path]) -> None:
    model = PreferenceModel.from_language_model(encoders["roberta"], seed=3)
    assert model.max_tokens == 64  # 66 places, of which RoBERTa leaves out two
    long = [user("home " * 12), assistant("it is late"), user("what is the time"), assistant("go " * 50)]
    encoded = model.encode(long)
    assert encoded.dropped_turns == 2
    assert len(model.score([long])) == 1
    with pytest.raises(DataError, match="shorten it"):
        model.encode([user("home"), assistant("go " * 64)])


def test_grouping_pads_little_and_keeps_the_order() -> None:
    sequences = [[7] * length for length in (5, 140, 141, 6, 400, 139)]
    batch = group(sequences, pad_id=0)
    # longest first, at most 256 tokens of padding: 400 alone (141 would add 259); 141, 140, 139 and 6, that is
    # 1 + 2 + 135 = 138; 5 would make it 274
    assert [tuple(one.ids.shape) for one in batch.groups] == [(1, 400), (4, 141), (1, 5)]
    assert batch.order.tolist() == [4, 2, 1, 5, 3, 0]
    assert batch.tokens == batch.tokens_unshared == 831
    assert batch.padding_share == pytest.approx(138 / 969)
    assert [one.is_token.sum(1).tolist() for one in batch.groups] == [[400], [141, 140, 139, 6], [5]]
    with pytest.raises(DataError, match="none may be empty"):
        group([[1], []], pad_id=0)


def sizes(tokens: Any) -> dict[str, Any]:
    """What the configs of all small causal models here have in common."""
    return {
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
        "pad_token_id": tokens.pad_token_id,
        "eos_token_id": tokens.eos_token_id,
    }


def test_a_causal_model_with_a_window_goes_unshared_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = train_tokenizer(["what is the time", "it is late, go home"] * 20, 300)
    config = MistralConfig(
        **sizes(tokens),
        sliding_window=4,
    )
    torch.manual_seed(0)
    start = save_model(MistralForCausalLM(config), tokens, tmp_path / "mistral")
    with caplog.at_level(logging.WARNING):
        model = PreferenceModel.from_language_model(start, seed=1)
    assert "computed by itself" in caplog.text
    assert not model.shares_beginnings
    path = model.save(tmp_path / "pm")
    sequences = [model.encode(conversation).ids for conversation in CONVERSATIONS]
    _, expected = plain_scores(path, sequences)
    torch.testing.assert_close(torch.tensor(model.score(CONVERSATIONS)), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="language_weight"):
        model.output_embedding(start)


def test_a_gemma_3_with_a_sliding_window_goes_unshared_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under a mask of its own it would look beyond its window without a word."""
    tokens = train_tokenizer(["what is the time", "it is late, go home"] * 20, 300)
    config = Gemma3TextConfig(
        **sizes(tokens),
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        bos_token_id=None,
    )
    torch.manual_seed(0)
    start = save_model(Gemma3ForCausalLM(config), tokens, tmp_path / "gemma3")
    with caplog.at_level(logging.WARNING):
        model = PreferenceModel.from_language_model(start, seed=1)
    assert "sliding_attention" in caplog.text
    assert "computed by itself" in caplog.text
    assert not model.shares_beginnings
    path = model.save(tmp_path / "pm")
    sequences = [model.encode(conversation).ids for conversation in CONVERSATIONS]
    assert min(map(len, sequences)) > 4  # longer than the window
    _, expected = plain_scores(path, sequences)
    torch.testing.assert_close(torch.tensor(model.score(CONVERSATIONS)), expected, rtol=1e-5, atol=1e-5)


def test_gates_of_experts_are_no_heads(tmp_path: Path) -> None:
    tokens = train_tokenizer(["what is the time", "it is late, go home"] * 20, 300)
    config = Qwen2MoeConfig(
        **sizes(tokens),
        moe_intermediate_size=16,
        shared_expert_intermediate_size=32,
        num_experts=4,
        num_experts_per_tok=2,
    )
    torch.manual_seed(0)
    start = save_model(Qwen2MoeForCausalLM(config), tokens, tmp_path / "moe")
    model = PreferenceModel.from_language_model(start, seed=1)
    assert model.head is model.model.score
    path = model.save(tmp_path / "pm")
    _, expected = plain_scores(path, [model.encode(conversation).ids for conversation in CONVERSATIONS])
    scores = PreferenceModel.load(path).score(CONVERSATIONS)
    torch.testing.assert_close(torch.tensor(scores), expected, rtol=1e-5, atol=1e-5)


def test_a_classifier_from_elsewhere_loads_with_its_bias(encoders: dict[str, Path], tmp_path: Path) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(encoders["deberta"], num_labels=1)
    with torch.no_grad():
        classifier.classifier.bias.fill_(3.5)
    tokens = PreferenceModel.from_language_model(encoders["deberta"], seed=0).renderer.tokenizer
    path = save_model(classifier, tokens, tmp_path / "elsewhere")
    assert PreferenceModel.is_at(path)
    model = PreferenceModel.load(path)
    _, expected = plain_scores(path, [model.encode(conversation).ids for conversation in CONVERSATIONS])
    torch.testing.assert_close(torch.tensor(model.score(CONVERSATIONS)), expected, rtol=1e-5, atol=1e-5)
    assert 3 < sum(expected.tolist()) / len(expected) < 4, "the bias is in the scores"

    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"id2label": {"0": "a", "1": "b"}, "num_labels": 2}))
    with pytest.raises(ModelError, match="num_labels = 2"):
        PreferenceModel.load(path)


def test_encode_pair_keeps_one_context(encoders: dict[str, Path]) -> None:
    model = PreferenceModel.from_language_model(encoders["bert"], seed=3, max_tokens=24)
    context = (user("what is the time"), assistant("it is late"), user("tell me more"))
    pair = model.encode_pair(PreferencePair(context=context, chosen="go home now and then", rejected="no"))
    assert pair.dropped_turns == 2
    assert pair.chosen[:8] == pair.rejected[:8]
