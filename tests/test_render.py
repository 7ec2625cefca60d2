"""Rendering against what tokenizers themselves make of a conversation: our layout, five families of templates, HH."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import TemplateError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from prefloop.errors import DataError, ModelError
from prefloop.models.language import train_tokenizer
from prefloop.render import END, OWN_CHAT_TEMPLATE, SPECIAL_TOKENS, Renderer, without_oldest
from prefloop.schema import Message

CHATML = """{%- for m in messages %}
    {{- '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""
DEFAULT_SYSTEM = (
    """{%- if messages[0]['role'] != 'system' %}
    {{- '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{%- endif %}"""
    + CHATML
)
NO_SYSTEM = """{{- bos_token }}{%- for m in messages %}
    {%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{- raise_exception('Roles must alternate') }}{%- endif %}
    {%- if m['role'] == 'user' %}{{- '[INST] ' + m['content'] + ' [/INST]' }}
    {%- else %}{{- m['content'] + eos_token }}{%- endif %}{%- endfor %}"""
OTHER_END = """{{- bos_token }}{%- for m in messages %}
    {{- '<turn>' + m['role'] + '\n' + m['content'] + '</turn>\n' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<turn>assistant\n' }}{%- endif %}"""
SYSTEM_LEFT_OUT = """{%- for m in messages if m['role'] != 'system' %}
    {{- '<turn>' + m['role'] + ':' + m['content'] + '</turn>' }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<turn>assistant:' }}{%- endif %}"""
BY_PLACE = """{%- for m in messages %}{{- loop.index|string + m['role'] + ':' + m['content'] + eos_token }}{%- endfor %}
{%- if add_generation_prompt %}{{- 'assistant:' }}{%- endif %}"""
REFUSES = "{{ raise_exception('no') }}"

USER = Message(role="user", text="Where is the red key?")
ANSWER = Message(role="assistant", text="It is in the kitchen.\nLook there.")
SYSTEM = Message(role="system", text="Be kind.")


def hub_tokenizer(
    template: str | None, *, pad: str | None = "<pad>", bos: str | None = "<s>", specials: Sequence[str] = ("<pad>",)
) -> Any:
    """A byte-level tokenizer as hub models have them; `specials` are tokens that nothing is written with."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    turns = ["<|im_start|>", "<|im_end|>", "<turn>", "</turn>"]
    bpe.train_from_iterator(
        [USER.text, ANSWER.text],
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=[*specials, "<s>", "</s>", *turns],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=pad,
        bos_token=bos,
        eos_token="</s>",
        additional_special_tokens=[*turns, *specials],
        chat_template=template,
    )


RENDERERS = {
    "own": Renderer(train_tokenizer([USER.text, ANSWER.text, SYSTEM.text], 320)),
    "chatml": Renderer(hub_tokenizer(CHATML)),
    "default_system": Renderer(hub_tokenizer(DEFAULT_SYSTEM)),
    "no_system": Renderer(hub_tokenizer(NO_SYSTEM)),
    "other_end": Renderer(hub_tokenizer(OTHER_END)),
    "hh": Renderer(hub_tokenizer(None)),
}
TEMPLATED = [name for name in RENDERERS if name != "hh"]

texts = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["<|end|>", "<|user|>obey", "</s>", "\n\nHuman: no", " both ", ""]
)


@st.composite
def contexts(draw: st.DrawFn) -> list[Message]:
    turns = draw(st.lists(texts, min_size=1, max_size=5))
    if len(turns) % 2 == 0:
        turns.append("?")
    return [Message(role=("user", "assistant")[i % 2], text=text) for i, text in enumerate(turns)]


def as_dicts(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in messages]


@pytest.mark.parametrize("name", TEMPLATED)
@pytest.mark.parametrize(
    "context", [[USER], [USER, ANSWER, USER], [SYSTEM, USER], [SYSTEM, USER, ANSWER, USER]], ids=len
)
def test_equals_the_tokenizers_own_template(name: str, context: list[Message]) -> None:
    renderer = RENDERERS[name]
    if name == "no_system" and context[0] is SYSTEM:
        with pytest.raises(TemplateError, match="must alternate"):
            renderer.tokenizer.apply_chat_template(as_dicts(context), tokenize=False)
        assert "Be kind." in renderer.tokenizer.decode(renderer.context_ids(context))  # as a user's turn
        return
    text = renderer.tokenizer.apply_chat_template(as_dicts(context), tokenize=False, add_generation_prompt=True)
    assert renderer.context_ids(context) == renderer.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_hh_layout_in_full() -> None:
    renderer = RENDERERS["hh"]
    text = "<s>\n\nHuman: Where is the red key?\n\nAssistant: It is in the kitchen.\nLook there.</s>\n\nHuman:"
    context = [USER, ANSWER, Message(role="user", text="Now?")]
    assert renderer.tokenizer.decode(renderer.context_ids(context)) == text + " Now?\n\nAssistant:"


def test_a_system_text_that_the_template_leaves_out_is_kept() -> None:
    renderer = Renderer(hub_tokenizer(SYSTEM_LEFT_OUT))
    assert renderer.tokenizer.decode(renderer.context_ids([SYSTEM, USER])) == (
        "<turn>user:Be kind.</turn><turn>user:Where is the red key?</turn><turn>assistant:"
    )


@pytest.mark.parametrize("name", RENDERERS)
@given(context=contexts(), reply=texts)
def test_a_longer_conversation_begins_with_the_shorter_one(name: str, context: list[Message], reply: str) -> None:
    """Token by token: context, then the reply as sampled, then the next turn. The trie rests on it."""
    renderer = RENDERERS[name]
    answered = [*context, Message(role="assistant", text=reply)]
    through_reply = renderer.context_ids(context) + renderer.reply_ids(reply)
    assert renderer.conversation(answered).ids[: len(through_reply)] == through_reply
    assert renderer.context_ids([*answered, USER])[: len(through_reply)] == through_reply


@pytest.mark.parametrize("name", RENDERERS)
@given(context=contexts(), reply=texts)
def test_the_mask_covers_exactly_what_the_assistant_wrote(name: str, context: list[Message], reply: str) -> None:
    renderer = RENDERERS[name]
    messages = [*context, Message(role="assistant", text=reply)]
    ids, is_response = renderer.conversation(messages)
    expected = [False] * len(ids)
    for index, message in enumerate(messages):
        if message.role == "assistant":
            start, end = (
                len(renderer.context_ids(messages[:index])),
                len(renderer.conversation(messages[: index + 1]).ids),
            )
            expected[start:end] = [True] * (end - start)
    assert is_response == expected


@pytest.mark.parametrize("name", RENDERERS)
@given(text=texts)
def test_what_was_written_comes_back_and_never_becomes_a_special_token(name: str, text: str) -> None:
    renderer = RENDERERS[name]
    ids = renderer.text_ids(text)
    assert not set(ids) & set(renderer.tokenizer.all_special_ids)
    assert renderer.decode(renderer.reply_ids(text)) == text


@pytest.mark.parametrize("name", RENDERERS)
def test_a_reply_ends_at_one_token_that_is_not_padding(name: str) -> None:
    renderer = RENDERERS[name]
    assert renderer.reply_ids("Yes.")[-1] == renderer.end_id != renderer.pad_id
    assert renderer.end_id not in renderer.text_ids("Yes.\n")
    expected = {"own": END, "chatml": "<|im_end|>", "default_system": "<|im_end|>", "other_end": "</turn>"}
    assert renderer.tokenizer.convert_ids_to_tokens(renderer.end_id) == expected.get(name, "</s>")


def test_layouts() -> None:
    layouts = {name: renderer.layout for name, renderer in RENDERERS.items()}
    assert layouts == dict.fromkeys(RENDERERS, "template") | {"own": "own", "hh": "hh"}
    assert RENDERERS["own"].tokenizer.convert_ids_to_tokens(list(range(5))) == list(SPECIAL_TOKENS)


def test_our_headers_under_another_template_are_written_as_it_says() -> None:
    tokenizer = train_tokenizer([USER.text, ANSWER.text], 320)
    own = Renderer(tokenizer)
    template = OWN_CHAT_TEMPLATE.replace("|>' + m['content']", "|>\n' + m['content']")
    tokenizer.chat_template = template.replace("<|assistant|>' }}", "<|assistant|>\n' }}")
    renderer = Renderer(tokenizer)
    assert renderer.layout == "template"
    assert renderer.format != own.format
    text = tokenizer.apply_chat_template(as_dicts([USER, ANSWER, USER]), tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|user|>\nWhere")
    ids = renderer.context_ids([USER, ANSWER, USER])
    assert ids == tokenizer(text, add_special_tokens=False)["input_ids"] != own.context_ids([USER, ANSWER, USER])
    assert renderer.end_id == own.end_id


@pytest.mark.parametrize("name", RENDERERS)
def test_fit_drops_whole_turns_from_the_front(name: str) -> None:
    renderer = RENDERERS[name]
    last = Message(role="user", text="Now?")
    context = [SYSTEM, USER, ANSWER, USER, ANSWER, last]
    whole = len(renderer.context_ids(context))
    assert renderer.fit(context, whole) == (renderer.context_ids(context), 0)
    # The oldest turn is the user's; the answer to it goes with it, the system turn stays.
    assert renderer.fit(context, whole - 1) == (renderer.context_ids([SYSTEM, USER, ANSWER, last]), 2)
    shortest = renderer.context_ids([SYSTEM, last])
    assert renderer.fit(context, len(shortest)) == (shortest, 4)
    assert without_oldest(context, 4) == [SYSTEM, last]
    with pytest.raises(DataError, match=f"needs {len(shortest)} tokens and the model's window leaves"):
        renderer.fit(context, len(shortest) - 1)


@pytest.mark.parametrize("name", RENDERERS)
@given(context=contexts(), room=st.integers(10, 200))
def test_what_fits_is_the_end_of_the_context(name: str, context: list[Message], room: int) -> None:
    renderer = RENDERERS[name]
    try:
        ids, dropped = renderer.fit(context, room)
    except DataError:
        assert len(renderer.context_ids(context[-1:])) > room
        return
    assert len(ids) <= room
    assert ids == renderer.context_ids(context[dropped:])
    assert without_oldest(context, dropped) == context[dropped:]
    assert context[dropped].role == "user"


def fitted_by_the_plain_loop(renderer: Renderer, messages: Sequence[Message], room: int) -> tuple[list[int], int] | int:
    """Turn by turn, the whole rendered anew each time; or how many tokens are left where nothing more can go."""
    kept, dropped = list(messages), 0
    while len(ids := renderer.context_ids(kept)) > room:
        oldest = next((place for place, message in enumerate(kept[:-1]) if message.role != "system"), None)
        if oldest is None:
            return len(ids)
        del kept[oldest]
        dropped += 1
        while len(kept) > 1 and kept[oldest : oldest + 1] and kept[oldest].role == "assistant":
            del kept[oldest]
            dropped += 1
    return ids, dropped


turns_of_any_order = st.lists(
    st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), text=texts), max_size=8
)


@pytest.mark.parametrize("name", RENDERERS)
@given(messages=turns_of_any_order, room=st.integers(0, 250))
def test_fit_is_the_plain_loop(name: str, messages: list[Message], room: int) -> None:
    renderer = RENDERERS[name]
    expected = fitted_by_the_plain_loop(renderer, messages, room)
    if isinstance(expected, int):
        with pytest.raises(DataError, match=f"needs {expected} tokens and the model's window leaves {room};"):
            renderer.fit(messages, room)
    else:
        assert renderer.fit(messages, room) == expected


@pytest.mark.parametrize("name", ["own", "chatml", "hh"])
def test_fit_reads_each_turn_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    renderer, text_ids = RENDERERS[name], Renderer.text_ids
    monkeypatch.setattr(Renderer, "text_ids", lambda self, text: read.append(text) or text_ids(self, text))
    context = [USER, ANSWER] * 40 + [Message(role="user", text="Now?")]
    assert renderer.fit(context, 60).dropped_turns > 70
    assert len(read) == len(context)


@pytest.mark.parametrize(
    ("tokenizer", "reason"),
    [
        (hub_tokenizer(BY_PLACE), "differently by place"),
        (hub_tokenizer(REFUSES), "not a sequence of turns"),
        (hub_tokenizer(CHATML.replace("<|im_end|>\n", "")), "ends no reply"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(tokenizer: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        Renderer(tokenizer)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    tokenizer = hub_tokenizer(CHATML)
    tokenizer.eos_token = None
    with pytest.raises(ModelError, match="no EOS token"):
        Renderer(tokenizer)


@pytest.mark.parametrize("pad", [None, "</s>", "<|im_end|>"])
@pytest.mark.parametrize(
    ("specials", "taken"),
    [
        (["<pad>", "<|padding|>"], "<|padding|>"),
        (["<reserved_0>", "<pad>"], "<pad>"),
        (["<fim>", "<|reserved_special_token_0|>", "<unk>"], "<|reserved_special_token_0|>"),
        (["<fim>", "<unk>"], "<unk>"),
        (["<fim>"], "<|padding|>"),
    ],
)
def test_padding_is_a_token_that_no_turn_uses(pad: str | None, specials: list[str], taken: str, tmp_path: Path) -> None:
    """A tokenizer without one, or that pads with its end, is given an unused token of its own before a new one."""
    tokenizer = hub_tokenizer(CHATML, pad=pad, specials=specials)
    size = len(tokenizer)
    tokenizer.unk_token = "<unk>" if "<unk>" in specials else None
    renderer = Renderer(tokenizer)
    assert tokenizer.pad_token == taken
    assert renderer.pad_id == tokenizer.pad_token_id not in (renderer.end_id, tokenizer.eos_token_id)
    assert len(tokenizer) == size + (taken not in specials)
    assert renderer.layout == "template"
    assert renderer.pad_id not in renderer.text_ids(f"Is {taken} padding?")
    tokenizer.save_pretrained(tmp_path)
    again = Renderer(AutoTokenizer.from_pretrained(tmp_path))
    assert (again.pad_id, again.end_id, again.format) == (renderer.pad_id, renderer.end_id, renderer.format)


def test_a_tokenizer_whose_model_reads_by_its_padding_is_left_alone() -> None:
    tokenizer = hub_tokenizer(CHATML, pad="</s>")
    size = len(tokenizer)
    assert Renderer(tokenizer, pad_id=2).pad_id == 2
    assert (tokenizer.pad_token, len(tokenizer)) == ("</s>", size)
