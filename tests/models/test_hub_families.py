"""Models as the hub has them: tokenizers without padding or that pad with their end, and PMs made elsewhere.

The plain Hugging Face classes are the judges: what is read, grown, saved and loaded must be what they see.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from prefloop.errors import ModelError
from prefloop.models.adapters import add_lora
from prefloop.models.language import load_language_model, save_model
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import Prompt, score_replies
from prefloop.models.sampling import TorchSampler
from prefloop.schema import Message, PreferencePair, Sample, SamplingSettings

CHATML = """{%- for m in messages %}
    {{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
INSTRUCTIONS = """{{- bos_token }}{%- for m in messages %}
    {%- if m['role'] == 'user' %}{{- '[INST]\n' + m['content'] + '\n[/INST]\n' }}
    {%- else %}{{- m['content'] + eos_token }}{%- endif %}{%- endfor %}"""

Make = Callable[..., Path]
FAMILIES = [("gpt2", None), ("gpt2", "<|endoftext|>"), ("gpt_neox", None), ("llama", None), ("llama", "</s>")]


def said(*texts: str) -> list[Message]:
    return [Message(role=("user", "assistant")[place % 2], text=text) for place, text in enumerate(texts)]


CONVERSATIONS = [
    said("what is the time", "it is late"),
    said("what is the time", "it is late, go home"),
    said("what is the time", "it is late", "is it", "it is, go home go home"),
    said("home", "go"),
]


def plain_scores(path: Path, sequences: Sequence[Sequence[int]], *, is_padded: bool = True) -> torch.Tensor:
    """What the plain class gives, on one padded batch or on a row at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(path).eval()
    tokens = AutoTokenizer.from_pretrained(path)
    with torch.no_grad():
        if is_padded:
            return model(**tokens.pad({"input_ids": list(sequences)}, return_tensors="pt")).logits[:, 0]
        return torch.cat([model(input_ids=torch.tensor([ids])).logits[:, 0] for ids in sequences])


@pytest.mark.parametrize(("family", "pad"), FAMILIES)
def test_a_policy_is_given_padding_and_stays_what_it_was(
    family: str, pad: str | None, hub_folder: Make, tmp_path: Path
) -> None:
    folder = hub_folder(family, pad=pad)
    before = AutoModelForCausalLM.from_pretrained(folder).eval()
    model, renderer = load_language_model(folder)
    ids = torch.tensor([renderer.context_ids(said("what is the time"))])
    with torch.no_grad():
        expected, given = before(ids).logits, model(ids).logits
    known = expected.shape[-1]
    torch.testing.assert_close(given[..., :known], expected)
    if family != "gpt_neox":  # the embedding grew by a row, which no context makes likely
        assert renderer.pad_id == known == given.shape[-1] - 1
        assert given.softmax(-1)[..., known].max() <= 1 / (known + 1)
    (sample,) = TorchSampler(model, renderer, "tiny").sample(ids.tolist(), 1, SamplingSettings(), 0)[0]
    assert sample.ids

    path = save_model(model, renderer.tokenizer, tmp_path / "saved")
    tokens, plain = AutoTokenizer.from_pretrained(path), AutoModelForCausalLM.from_pretrained(path).eval()
    assert tokens.pad_token_id == plain.config.pad_token_id == renderer.pad_id
    assert renderer.pad_id not in (tokens.eos_token_id, renderer.end_id)
    rows = tokens.pad({"input_ids": [ids[0].tolist(), ids[0, :3].tolist()]}, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(plain(**rows).logits[:1], given)
    assert load_language_model(path).renderer.pad_id == renderer.pad_id


def test_new_padding_is_not_likely_where_all_logits_are_far_below_zero(hub_folder: Make) -> None:
    """As those of GPT-2 are: a row of zeros in the output embedding would then be the likeliest token."""
    folder = hub_folder("llama")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state[0, -1]
        model.lm_head.weight -= 30 * hidden / hidden.square().sum()
        assert model(ids).logits[0, -1].max() < -10
        model.save_pretrained(folder)
        grown, renderer = load_language_model(folder)
        chances = grown(ids).logits[0, -1].softmax(-1)
    assert 0 < chances[renderer.pad_id] <= 1 / len(chances)


@pytest.mark.parametrize(("family", "pad"), FAMILIES)
def test_a_pm_started_from_it_is_read_at_the_end_everywhere(
    family: str, pad: str | None, hub_folder: Make, tmp_path: Path
) -> None:
    model = PreferenceModel.from_language_model(hub_folder(family, pad=pad), seed=3)
    scores = model.score(CONVERSATIONS)
    path = model.save(tmp_path / "pm")
    assert PreferenceModel.load(path).score(CONVERSATIONS) == scores
    sequences = [model.encode(conversation).ids for conversation in CONVERSATIONS]
    assert {ids[-1] for ids in sequences} == {model.renderer.end_id}
    torch.testing.assert_close(torch.tensor(scores), plain_scores(path, sequences), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "pad", "template", "place"),
    [
        ("qwen3", "<|endoftext|>", CHATML, "'\\n' behind the reply"),
        ("qwen3", "<|im_end|>", CHATML, "'\\n' behind the reply"),
        ("llama", "</s>", INSTRUCTIONS, "last token of the reply's text"),
        ("llama", None, INSTRUCTIONS, "'</s>' behind the reply"),
        ("gpt2", "<|endoftext|>", None, "last token of the reply's text"),
    ],
)
def test_a_pm_from_elsewhere_is_read_where_its_plain_class_reads_it(
    family: str,
    pad: str | None,
    template: str | None,
    place: str,
    hub_folder: Make,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = hub_folder(family, head=True, pad=pad, template=template)
    with caplog.at_level(logging.WARNING):
        model, again = PreferenceModel.load(folder), PreferenceModel.load(folder)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1, "said once"
    assert str(folder) in warnings[0]
    assert place in warnings[0]

    tokens = AutoTokenizer.from_pretrained(folder)
    texts = [[{"role": turn.role, "content": turn.text} for turn in one] for one in CONVERSATIONS]
    if template is None:
        sequences = [model.renderer.conversation(conversation).ids for conversation in CONVERSATIONS]
    else:
        sequences = [tokens.apply_chat_template(one, tokenize=True)["input_ids"] for one in texts]
    expected = plain_scores(folder, sequences, is_padded=False)
    assert expected.std() > 1e-3
    for one in (model, again):
        torch.testing.assert_close(torch.tensor(one.score(CONVERSATIONS)), expected, rtol=1e-5, atol=1e-5)
    pair = PreferencePair(context=tuple(CONVERSATIONS[0][:-1]), chosen="it is late", rejected="it is late, go home")
    both = model.encode_pair(pair)
    torch.testing.assert_close(torch.tensor(model.score_ids([both.chosen, both.rejected])), expected[:2])

    # Its scores stay where they are when it is saved here, for us and for the plain class on padded rows.
    saved = model.save(tmp_path / "saved")
    torch.testing.assert_close(torch.tensor(PreferenceModel.load(saved).score(CONVERSATIONS)), expected)
    torch.testing.assert_close(plain_scores(saved, sequences, is_padded=True), expected, rtol=1e-5, atol=1e-5)


def test_a_template_that_the_pieces_do_not_rebuild_is_named(hub_folder: Make, caplog: pytest.LogCaptureFixture) -> None:
    """The space before a user's text belongs to its first word when the whole text is tokenized."""
    spaced = INSTRUCTIONS.replace("[INST]\n", "[INST] ")
    with caplog.at_level(logging.WARNING):
        PreferenceModel.load(hub_folder("llama", head=True, template=spaced))
    assert "gives other tokens than the whole text" in caplog.text


def test_sampled_replies_are_closed_as_the_pm_reads_them(hub_folder: Make) -> None:
    """Replies that end with the policy's end token, and one that was cut off."""
    policy = load_language_model(hub_folder("qwen3", pad="<|endoftext|>", template=CHATML))
    pm = PreferenceModel.load(hub_folder("qwen3", head=True, pad="<|endoftext|>", template=CHATML))
    contexts = [conversation[:-1] for conversation in CONVERSATIONS]
    prompts = [Prompt(tuple(context), policy.renderer.context_ids(context)) for context in contexts]
    texts = [policy.renderer.text_ids(conversation[-1].text) for conversation in CONVERSATIONS]
    ids = [[*text, policy.renderer.end_id] if place else text for place, text in enumerate(texts)]
    samples = [Sample(ids=one, logps=[0.0] * len(one), finish_reason="stop") for one in ids]
    scores = score_replies(pm, policy.renderer, prompts, samples)
    assert scores == pytest.approx(pm.score(CONVERSATIONS), abs=1e-5)


def test_an_adapter_over_a_base_without_padding(hub_folder: Make, tmp_path: Path) -> None:
    base = hub_folder("gpt2")
    model, renderer = load_language_model(base)
    add_lora(model, 2, 1.0, seed=1, base=base)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(2))
    path = save_model(model, renderer.tokenizer, tmp_path / "adapter")
    again = load_language_model(path)
    ids = torch.tensor([renderer.context_ids(said("what is the time"))])
    with torch.no_grad():
        torch.testing.assert_close(again.model(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert again.renderer.pad_id == renderer.pad_id


@pytest.mark.parametrize("head", [False, True])
def test_weights_that_are_not_finite_are_named(head: bool, hub_folder: Make) -> None:
    folder = hub_folder("llama", head=head)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, :3] = float("nan")
    weights["model.layers.0.mlp.up_proj.weight"][:] = 3e38  # large, and finite
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    load: Callable[[Path], Any] = PreferenceModel.load if head else load_language_model
    with pytest.raises(ModelError, match=rf"{folder} hold 3 values .* \(in model.layers.1.mlp.up_proj.weight first\)"):
        load(folder)


def test_the_window_of_training_belongs_to_the_model(hub_folder: Make, tmp_path: Path) -> None:
    trained = PreferenceModel.from_language_model(hub_folder("gpt2"), seed=1, max_tokens=40)
    path = trained.save(tmp_path / "pm")
    assert PreferenceModel.load(path).max_tokens == 40
    assert PreferenceModel.load(path, max_tokens=60).max_tokens == 60, "trained further on longer ones"
    assert PreferenceModel.load(PreferenceModel.load(path).save(tmp_path / "copy")).max_tokens == 40
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"max_context_tokens": "40"}))
    with pytest.raises(ModelError, match="max_context_tokens = '40'"):
        PreferenceModel.load(path)
