"""Packed replies against the plain forward, one episode at a time; PM scores of sampled ids against those of text."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from prefloop.errors import DataError, ModelError
from prefloop.models.language import train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import (
    Prompt,
    all_logps,
    encode_prompts,
    kl_to_reference,
    pack_responses,
    padded,
    readable_prompts,
    reply_logps,
    response_logps,
    same_tokens,
    score_replies,
    token_parts,
)
from prefloop.render import Renderer
from prefloop.schema import Message, Sample

TEXTS = ["please mend the blue cup", "how does the river sing", "ask the kind tree for bread"] * 20


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(train_tokenizer(TEXTS, 320))


def llama(vocabulary: int, labels: int | None = None, window: int = 96) -> Any:
    torch.manual_seed(0 if labels is None else 1)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        pad_token_id=0,
        **({} if labels is None else {"num_labels": labels}),
    )
    return (LlamaForCausalLM(config) if labels is None else LlamaForSequenceClassification(config)).eval()


def gpt2(vocabulary: int) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=96, bos_token_id=1, eos_token_id=1
    )
    return GPT2LMHeadModel(config).eval()


def episodes(seed: int = 0) -> tuple[list[list[int]], list[list[int]]]:
    """Three prompts, the first two with several replies, one of which has a single token."""
    chance = random.Random(seed)

    def ids(count: int) -> list[int]:
        return [chance.randrange(5, 50) for _ in range(count)]

    one, two, three = ids(11), ids(4), ids(23)
    return [one, one, one, two, two, three], [ids(5), ids(1), ids(9), ids(7), ids(7), ids(2)]


def plain_logps(policy: Any, prompts: list[list[int]], responses: list[list[int]]) -> torch.Tensor:
    rows = []
    for prompt, response in zip(prompts, responses, strict=True):
        logits = policy(input_ids=torch.tensor([prompt + response])).logits[0]
        logps = logits.log_softmax(-1)
        rows += [logps[len(prompt) + t - 1, token] for t, token in enumerate(response)]
    return torch.stack(rows)


@pytest.mark.parametrize("build", [llama, gpt2])
@pytest.mark.parametrize("row_tokens", [8, 40, 500])
def test_log_probabilities_and_gradients_equal_the_plain_forward(build: Any, row_tokens: int) -> None:
    policy = build(50)
    prompts, responses = episodes()
    ours = response_logps(policy, pack_responses(prompts, responses, row_tokens))
    plain = plain_logps(policy, prompts, responses)
    torch.testing.assert_close(ours, plain, atol=2e-6, rtol=1e-5)
    weights = torch.randn(len(plain), generator=torch.Generator().manual_seed(3))
    gradients = [
        torch.autograd.grad((weights * logps).sum(), list(policy.parameters()), allow_unused=True)
        for logps in (ours, plain)
    ]
    for packed, alone in zip(*gradients, strict=True):
        assert (packed - alone).norm() <= 1e-5 * alone.norm() + 1e-6


def test_parts_change_nothing() -> None:
    policy = llama(50)
    prompts, responses = episodes()
    whole = all_logps(policy, prompts, responses, row_tokens=64, tokens_per_forward=10_000)
    parts = all_logps(policy, prompts, responses, row_tokens=64, tokens_per_forward=1)
    torch.testing.assert_close(parts, whole, atol=2e-6, rtol=1e-5)
    assert not whole.requires_grad


def test_parts_count_a_shared_prompt_once() -> None:
    prompts, responses = episodes()
    # tokens: 11 + 5, 1, 9 | 4 + 7, 7 | 23 + 2
    assert list(token_parts(prompts, responses, 26)) == [[0, 1, 2], [3, 4], [5]]
    assert list(token_parts(prompts, responses, 25)) == [[0, 1], [2], [3, 4], [5]]  # 11 + 9, then 4 + 7 is too much
    assert list(token_parts(prompts, responses, 1)) == [[0], [1], [2], [3], [4], [5]]


def test_a_reply_without_tokens_is_refused() -> None:
    with pytest.raises(DataError, match="0 tokens"):
        pack_responses([[1, 2]], [[]], 16)
    with pytest.raises(DataError, match="0 tokens"):
        reply_logps(llama(50), [[1, 2], [1, 2]], [[3], []])


def test_a_token_that_the_reference_does_not_have_is_named() -> None:
    prompts, responses = episodes()
    responses[2][3] = 51
    samples = [Sample(ids, [-1.0] * len(ids), "length") for ids in responses]
    with pytest.raises(ModelError, match=r"holds token 51 and .* has 50 of them"):
        kl_to_reference(llama(50), prompts, samples)
    kl_to_reference(llama(52), prompts, samples)


def test_padded_rows() -> None:
    is_response = torch.tensor([[True, True], [True, False]])
    assert padded(torch.tensor([1.0, 2.0, 3.0]), is_response).tolist() == [[1, 2], [3, 0]]


def test_prompts_that_cannot_be_answered(renderer: Renderer) -> None:
    user, answer = Message(role="user", text="please mend the cup"), Message(role="assistant", text="ask the tree")
    with pytest.raises(DataError, match="0 prompts"):
        encode_prompts(renderer, [], 50)
    with pytest.raises(DataError, match="Prompt 1 does not end with a user turn"):
        encode_prompts(renderer, [[user], [user, answer]], 50)
    room = len(renderer.context_ids([user]))
    (prompt,), _ = encode_prompts(renderer, [[user, answer, user]], room)
    assert prompt.ids == renderer.context_ids([user])  # the oldest turns were dropped
    assert len(prompt.messages) == 3  # what is scored as text keeps them


def test_prompts_that_are_too_long_are_left_out_and_counted(
    renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    short, long = Message(role="user", text="please mend the cup"), Message(role="user", text="mend the cup " * 9)
    room = len(renderer.context_ids([short]))
    prompts, places = encode_prompts(renderer, [[long], [short], [short, long], [short]], room)
    assert places == [1, 3]
    assert [prompt.messages for prompt in prompts] == [(short,), (short,)]
    assert "2 of 4 prompts were left out" in caplog.text
    with pytest.raises(DataError, match=f"each of the 1 prompts is longer than the {room} tokens"):
        encode_prompts(renderer, [[long]], room)


def test_ids_and_text_score_the_same(renderer: Renderer) -> None:
    judge = PreferenceModel(llama(len(renderer.tokenizer), labels=1), renderer)
    context = (Message(role="user", text="how does the river sing"),)
    prompt = Prompt(context, renderer.context_ids(context))
    stopped = renderer.reply_ids("ask the blue tree")
    cut = renderer.text_ids("ask the blue tree")
    scores = score_replies(
        judge,
        renderer,
        [prompt, prompt],
        [Sample(stopped, [0.0] * len(stopped), "stop"), Sample(cut, [0.0] * len(cut), "length")],
    )
    expected = judge.score([(*context, Message(role="assistant", text="ask the blue tree"))])[0]
    assert scores == pytest.approx([expected, expected], abs=1e-6)  # a cut reply is closed with the end token


def test_ids_that_spell_nothing_are_not_read(renderer: Renderer) -> None:
    rows = len(renderer.tokenizer)
    judge = PreferenceModel(llama(rows, labels=1), renderer)
    context = (Message(role="user", text="how does the river sing"),)
    prompt = Prompt(context, renderer.context_ids(context))
    plain = renderer.reply_ids("mend the cup")
    padded_vocabulary = [plain[0], rows, *plain[1:-1], rows + 11, plain[-1]]  # what a policy of more rows may draw
    assert renderer.decode(padded_vocabulary) == "mend the cup"
    one, other = score_replies(
        judge, renderer, [prompt] * 2, [Sample(ids, [0.0] * len(ids), "stop") for ids in (plain, padded_vocabulary)]
    )
    assert one == other


def test_a_pm_with_another_tokenizer_reads_the_text(renderer: Renderer) -> None:
    other = Renderer(train_tokenizer([text.upper() for text in TEXTS], 300))
    assert same_tokens(renderer, renderer)
    assert not same_tokens(renderer, other)
    judge = PreferenceModel(llama(len(other.tokenizer), labels=1), other)
    context = (Message(role="user", text="how does the river sing"),)
    ids = renderer.reply_ids("mend the cup")
    (score,) = score_replies(
        judge, renderer, [Prompt(context, renderer.context_ids(context))], [Sample(ids, [0.0] * len(ids), "stop")]
    )
    assert score == judge.score([(*context, Message(role="assistant", text="mend the cup"))])[0]


def test_a_pm_that_gives_no_number_is_named(renderer: Renderer) -> None:
    model = llama(len(renderer.tokenizer), labels=1)
    judge = PreferenceModel(model, renderer)
    with torch.no_grad():
        model.score.weight.fill_(torch.nan)
    context = (Message(role="user", text="how"),)
    ids = renderer.reply_ids("mend")
    with pytest.raises(ModelError, match="score nan"):
        score_replies(
            judge, renderer, [Prompt(context, renderer.context_ids(context))], [Sample(ids, [0.0] * len(ids), "stop")]
        )


def test_a_reply_beyond_the_pm_s_window_is_named(renderer: Renderer) -> None:
    judge = PreferenceModel(llama(len(renderer.tokenizer), labels=1, window=16), renderer)
    context = (Message(role="user", text="how does the river sing"),)
    ids = [7] * 12
    with pytest.raises(ModelError, match="reads 16"):
        score_replies(
            judge, renderer, [Prompt(context, renderer.context_ids(context))], [Sample(ids, [0.0] * 12, "length")]
        )


def spelling_judge(window: int) -> PreferenceModel:
    """A PM that reads letter by letter."""
    tokenizer = train_tokenizer(["zzz"], 262)
    return PreferenceModel(llama(len(tokenizer), labels=1, window=window), Renderer(tokenizer))


def test_prompts_that_a_pm_of_other_tokens_cannot_read(renderer: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    judge = spelling_judge(64)
    short, long = Message(role="user", text="mend the cup"), Message(role="user", text="mend the blue cup " * 3)
    answer = Message(role="assistant", text="how does the river sing" * 4)
    # Letters: 12 and 54. A context has 3 ids more, a reply its end. 12 + 54 letters are the policy's words, four times
    # as many or so, so that a reply of 6 tokens is about 30 letters: the long turn has no room for it in 64.
    found = readable_prompts(renderer, [[long], [short], [long, answer, short]], 50, {"The PM": judge}, 6)
    assert [prompt.messages for prompt in found.prompts] == [(short,), (long, answer, short)]
    assert found.unread == {"The PM": 1}
    assert "1 of 3 prompts were left out: The PM cannot read" in caplog.text
    with pytest.raises(DataError, match=r"The PM reads 64 tokens, too few for the last turn of any of the 1 prompts"):
        readable_prompts(renderer, [[long]], 50, {"The PM": judge}, 6)
    alike = PreferenceModel(llama(len(renderer.tokenizer), labels=1, window=16), renderer)
    assert readable_prompts(renderer, [[long]], 50, {"alike": alike}, 6).unread == {}  # it is the room's matter


def test_a_reply_that_grows_in_the_pm_s_tokens_is_read_as_far_as_its_window(
    renderer: Renderer, caplog: pytest.LogCaptureFixture
) -> None:
    judge = spelling_judge(64)
    old, context = Message(role="user", text="kind " * 20), Message(role="user", text="mend the cup")
    answer = Message(role="assistant", text="ask")
    ids = renderer.reply_ids("ask the kind tree for bread " * 4)
    prompt = Prompt((old, answer, context), renderer.context_ids([old, answer, context]))
    (score,) = score_replies(judge, renderer, [prompt], [Sample(ids, [0.0] * len(ids), "stop")], "The spelling PM")
    # the window's 64: user, 12 letters, end, assistant; 48 letters of the reply; end
    read = Message(role="assistant", text=("ask the kind tree for bread " * 4)[:48])
    assert len(judge.encode([context, read]).ids) == 64
    assert score == judge.score([[context, read]])[0]
    assert "The spelling PM reads 64 tokens, and some replies are longer" in caplog.text
