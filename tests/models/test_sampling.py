"""Sampling: equal to `generate` token by token, exact log-probabilities, independent of what shares the batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from prefloop.errors import DataError, ModelError
from prefloop.models import sampling
from prefloop.models.language import new_llama, train_tokenizer
from prefloop.models.lean_decode import LeanDecoder
from prefloop.models.sampling import BatchDecoder, TorchSampler
from prefloop.models.token_draw import DrawSettings, draw_tokens, row_key, uniforms
from prefloop.models.trie import take_trie_attention
from prefloop.render import Renderer
from prefloop.schema import SamplingSettings

END, VOCABULARY, WINDOW = 4, 97, 64
ENDS = {"bos_token_id": 1, "eos_token_id": END, "pad_token_id": 0}
SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64, **ENDS}
GROUPED = SHAPE | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": WINDOW}


class EndOnly:
    """What the sampler needs of a renderer as long as there are no stop strings."""

    end_id = END


def make(name: str) -> Any:
    """A tiny random model whose distributions are sharp enough that replies differ and end."""
    torch.manual_seed(1)
    model: Any = {
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED, num_hidden_layers=2)),
        "gpt_neox": lambda: GPTNeoXForCausalLM(
            GPTNeoXConfig(**SHAPE, num_hidden_layers=2, max_position_embeddings=WINDOW)
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=WINDOW, **ENDS)
        ),
        "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GROUPED, num_hidden_layers=2)),
        "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, num_hidden_layers=2, sliding_window=6)),
        "gemma3": lambda: Gemma3ForCausalLM(
            Gemma3TextConfig(
                **GROUPED,
                num_hidden_layers=4,
                sliding_window=6,
                layer_types=["sliding_attention", "full_attention"] * 2,
            )
        ),
    }[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    return model.eval()


@pytest.fixture(scope="module")
def llama() -> Any:
    return make("llama")


def prompts_of(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randint(5, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


def plain_logps(model: Any, prompt: list[int], ids: list[int]) -> list[float]:
    """Log-probabilities of a reply from one forward without a cache."""
    with torch.no_grad():
        logps = model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    return [logps[len(prompt) - 1 + place, token].item() for place, token in enumerate(ids)]


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens)
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "gpt2", "qwen3", "mistral", "gemma3"])
def test_equals_generate_and_plain_forward(name: str) -> None:
    model = make(name)
    # Mixed lengths, a prompt of one token (an empty prefix), one twice, and more rows than run at once.
    prompts = prompts_of(1, 2, 5, 9, 20, 31)
    prompts.append(prompts[2])
    sampler = TorchSampler(model, EndOnly(), "v", max_rows=3)  # type: ignore[arg-type]
    replies = sampler.sample(prompts, 2, SamplingSettings(temperature=0.0, max_response_tokens=20), seed=0)
    for prompt, (one, two) in zip(prompts, replies, strict=True):
        assert one.ids == two.ids == greedy(model, prompt, 20)
        assert one.logps == pytest.approx(plain_logps(model, prompt, one.ids), abs=1e-4)
    replies = sampler.sample(prompts, 2, SamplingSettings(max_response_tokens=20), seed=0)
    for prompt, both in zip(prompts, replies, strict=True):
        for sample in both:
            assert sample.logps == pytest.approx(plain_logps(model, prompt, sample.ids), abs=1e-4)
            assert (sample.finish_reason == "stop") == (sample.ids[-1] == END)
            assert END not in sample.ids[:-1]
            assert sample.finish_reason == "stop" or len(sample.ids) == 20
    assert len({tuple(sample.ids) for both in replies for sample in both}) == 2 * len(prompts)


@pytest.mark.parametrize("name", ["gpt_neox", "gpt2", "qwen3"])
def test_a_model_that_takes_tries_samples_as_before(name: str) -> None:
    plain, with_tries = make(name), make(name)
    assert take_trie_attention(with_tries.base_model)
    settings = SamplingSettings(max_response_tokens=20)
    one, other = (
        TorchSampler(model, EndOnly(), "v").sample(prompts_of(1, 9, 20), 2, settings, seed=0)  # type: ignore[arg-type]
        for model in (plain, with_tries)
    )
    assert one == other


def test_logps_are_at_the_temperature_and_before_truncation(llama: Any) -> None:
    prompt = prompts_of(6)[0]
    settings = SamplingSettings(temperature=0.7, top_k=5, top_p=0.8, max_response_tokens=8)
    ((sample,),) = TorchSampler(llama, EndOnly(), "v").sample([prompt], 1, settings, seed=3)  # type: ignore[arg-type]
    with torch.no_grad():
        logits = llama(torch.tensor([prompt + sample.ids])).logits[0, len(prompt) - 1 : -1]
    expected = (logits / 0.7).log_softmax(-1).gather(1, torch.tensor(sample.ids)[:, None]).squeeze(1)
    assert sample.logps == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_sample_depends_on_prompt_settings_seed_and_index_alone(llama: Any) -> None:
    settings = SamplingSettings(max_response_tokens=16)
    prompts = prompts_of(4, 11, 7, 23, 5)

    def ids(prompts: list[list[int]], n: int, seed: int, max_rows: int) -> list[list[list[int]]]:
        sampler = TorchSampler(llama, EndOnly(), "v", max_rows=max_rows)  # type: ignore[arg-type]
        return [[sample.ids for sample in samples] for samples in sampler.sample(prompts, n, settings, seed)]

    whole = ids(prompts, 4, 5, 64)
    assert ids(prompts, 4, 5, 3) == whole, "the number of rows at once"
    assert ids(prompts[:2], 4, 5, 64) == whole[:2], "the prompts after it"
    assert [samples[:2] for samples in whole] == ids(prompts, 2, 5, 64), "the samples after it"
    assert ids(prompts, 4, 6, 64) != whole, "another seed"
    bounded = TorchSampler(llama, EndOnly(), "v", max_cache_tokens=80)  # type: ignore[arg-type]
    assert [[s.ids for s in samples] for samples in bounded.sample(prompts, 4, settings, 5)] == whole, "cache budget"


def test_a_prompt_is_computed_once_for_all_its_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    other = make("qwen3")
    prefilled: list[tuple[int, ...]] = []
    forward = other.base_model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > 1:
            prefilled.append(tuple(kwargs["input_ids"].shape))
        return forward(*args, **kwargs)

    monkeypatch.setattr(other.base_model, "forward", counting)
    one, two = prompts_of(12, 9)
    sampler = TorchSampler(other, EndOnly(), "v", max_rows=16)  # type: ignore[arg-type]
    sampler.sample([one, two], 8, SamplingSettings(max_response_tokens=4), seed=0)
    assert prefilled == [(2, 11)]  # two prompts, the longer one without its last token: 12 - 1


def test_a_lean_prompt_is_computed_once_and_without_padding(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[list[int]] = []
    prefill = LeanDecoder.prefill

    def counting(self: Any, prefixes: Any, *rest: Any) -> None:
        computed.append([len(prefix) for prefix in prefixes])
        prefill(self, prefixes, *rest)

    monkeypatch.setattr(LeanDecoder, "prefill", counting)
    one, two = prompts_of(12, 9)
    sampler = TorchSampler(llama, EndOnly(), "v", max_rows=16)  # type: ignore[arg-type]
    sampler.sample([one, two], 8, SamplingSettings(max_response_tokens=4), seed=0)
    assert computed == [[11, 8]]  # each without its last token


def test_lean_and_general_decoding_draw_the_same(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = prompts_of(3, 17, 8, 30, 17, 2, 5, 9, 11)
    settings = SamplingSettings(max_response_tokens=20)

    def samples() -> list[Any]:
        sampler = TorchSampler(llama, EndOnly(), "v", max_rows=10)  # type: ignore[arg-type]
        return [sample for group in sampler.sample(prompts, 3, settings, seed=4) for sample in group]

    lean = samples()
    monkeypatch.setattr(sampling, "is_lean_model", lambda model: False)
    general = samples()
    assert [sample.ids for sample in lean] == [sample.ids for sample in general]
    assert [sample.finish_reason for sample in lean] == [sample.finish_reason for sample in general]
    for one, other in zip(lean, general, strict=True):
        assert one.logps == pytest.approx(other.logps, abs=2e-5)


@pytest.mark.parametrize("is_lean", [True, False])
def test_under_autocast_what_is_recorded_is_what_a_forward_under_autocast_says(
    llama: Any, is_lean: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "is_lean_model", lambda model: is_lean)
    prompts, settings = prompts_of(3, 17, 8, 30, 17, 2, 5, 9, 11), SamplingSettings(max_response_tokens=20)
    with torch.autocast("cpu", torch.bfloat16):
        sampler = TorchSampler(llama, EndOnly(), "v")  # type: ignore[arg-type]
        drawn = [samples[0] for samples in sampler.sample(prompts, 1, settings, seed=4)]
        rounded = [plain_logps(llama, prompt, one.ids) for prompt, one in zip(prompts, drawn, strict=True)]
    exact = [plain_logps(llama, prompt, one.ids) for prompt, one in zip(prompts, drawn, strict=True)]
    recorded = np.concatenate([one.logps for one in drawn])
    own_error = abs(recorded - np.concatenate(rounded)).mean()
    assert 0 < own_error < 0.05  # logits of a few nats, with 8 bits
    assert abs(recorded - np.concatenate(exact)).mean() < 0.05
    again = TorchSampler(llama, EndOnly(), "v").sample(prompts, 1, settings, seed=4)  # type: ignore[arg-type]
    for prompt, (one,) in zip(prompts, again, strict=True):  # outside of it all is in float32 again
        assert one.logps == pytest.approx(plain_logps(llama, prompt, one.ids), abs=2e-5)


def test_rows_join_and_leave_a_running_batch(llama: Any) -> None:
    settings = SamplingSettings(temperature=0.0, max_response_tokens=12)
    prompts = prompts_of(3, 17, 8, 30)
    expected = [greedy(llama, prompt, 12) for prompt in prompts]
    decoder = BatchDecoder(llama, END, max_rows=8)
    replies: dict[int, list[int]] = {}

    def step() -> None:
        for row, token, _, reason in decoder.step():
            replies.setdefault(row, []).append(token)
            assert (reason is None) == (row in decoder._by_handle)

    handles = [decoder.add(prompts[0], settings, 0), decoder.add(prompts[1], settings, 0)]
    step()
    step()
    handles.append(decoder.add(prompts[2], settings, 0))
    doomed = decoder.add(prompts[3], settings, 0)
    step()
    decoder.remove(doomed)
    assert len(decoder) == len([h for h in handles if h in decoder._by_handle])
    handles.append(decoder.add(prompts[3], settings, 0))  # a longer prompt than the cache had room for
    handles.append(decoder.add(prompts[3], settings, 0))
    while len(decoder):
        step()
    assert [replies[handle] for handle in handles] == [*expected, expected[3]]
    assert replies[doomed] == expected[3][:1]
    assert decoder.step() == []
    decoder.remove(12345)  # nobody knows it


def test_a_late_row_takes_its_prompt_from_a_running_one(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SamplingSettings(temperature=0.0, max_response_tokens=6)
    prompt = prompts_of(14)[0]
    decoder = BatchDecoder(llama, END)
    first = decoder.add(prompt, settings, 0)
    steps = decoder.step()
    monkeypatch.setattr(decoder, "_prefill", lambda places: pytest.fail("computed again") if places else None)
    second = decoder.add(prompt, settings, 0)
    while len(decoder):
        steps += decoder.step()
    replies = [[step.token for step in steps if step.row == handle] for handle in (first, second)]
    assert replies == [greedy(llama, prompt, 6)] * 2


def test_a_reply_ends_where_the_window_is_full(llama: Any) -> None:
    prompt = prompts_of(60)[0]
    sampler = TorchSampler(llama, EndOnly(), "v")  # type: ignore[arg-type]
    ((sample,),) = sampler.sample([prompt], 1, SamplingSettings(max_response_tokens=50), seed=1)
    assert (len(sample.ids), sample.finish_reason) == (WINDOW - 60, "length") or sample.ids[-1] == END


@pytest.mark.parametrize("length", [0, WINDOW])
def test_a_prompt_without_room_is_refused(llama: Any, length: int) -> None:
    sampler = TorchSampler(llama, EndOnly(), "v")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"{length} tokens .* between 1 and 63"):
        sampler.sample([[5] * length], 1, SamplingSettings(), seed=0)


def test_logits_that_are_no_numbers_are_told() -> None:
    model = make("llama")
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    with pytest.raises(ModelError, match="not finite"):
        TorchSampler(model, EndOnly(), "v").sample([[5, 6]], 1, SamplingSettings(), seed=0)  # type: ignore[arg-type]


def test_models_that_cannot_be_sampled_are_told(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama.config, "layer_types", ["full_attention", "linear_attention"], raising=False)
    with pytest.raises(ModelError, match="linear_attention"):
        BatchDecoder(llama, END)
    monkeypatch.undo()
    monkeypatch.setattr(llama.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ModelError, match="attn_implementation='sdpa'"):
        BatchDecoder(llama, END)


def test_stop_strings_weights_and_modes() -> None:
    tokenizer = train_tokenizer(["one two three four five six seven. " * 3], 320)
    model = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=128, seed=0)
    renderer = Renderer(tokenizer)
    sampler = TorchSampler(model, renderer, "first")
    model.train()
    prompt = renderer.text_ids("one two")
    ((plain,),) = sampler.sample([prompt], 1, SamplingSettings(max_response_tokens=40), seed=0)
    assert model.training, "the mode is given back"
    text = renderer.decode(plain.ids)
    stop = text[10:13]
    settings = SamplingSettings(max_response_tokens=40, stop=(stop, "never so"))
    ((stopped,),) = sampler.sample([prompt], 1, settings, seed=0)
    assert stopped.finish_reason == "stop"
    assert stopped.ids == plain.ids[: len(stopped.ids)]
    assert stop in renderer.decode(stopped.ids)
    assert stop not in renderer.decode(stopped.ids[:-1])

    other = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=128, seed=1)
    assert sampler.version == "first"
    sampler.load_weights("second", other.state_dict())
    assert sampler.version == "second"
    settings = SamplingSettings(max_response_tokens=40)
    assert sampler.sample([prompt], 1, settings, 0) == TorchSampler(other, renderer, "o").sample(
        [prompt], 1, settings, 0
    )
    sampler.load_weights("third")
    assert sampler.version == "third"


def settings_of(rows: int, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> DrawSettings:
    return DrawSettings(
        torch.full((rows,), temperature), torch.full((rows,), top_k), torch.full((rows,), top_p), is_plain=False
    )


def test_draw_by_hand() -> None:
    # Probabilities 0.5, 0.3, 0.2: their sums are 0.5, 0.8, 1.0, so u = 0.4, 0.6, 0.9 give tokens 0, 1, 2.
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(3, 3)
    uniform = torch.tensor([0.4, 0.6, 0.9], dtype=torch.float64)
    drawn = draw_tokens(logits, settings_of(3), uniform)
    assert drawn.tokens.tolist() == [0, 1, 2]
    assert drawn.logps.tolist() == pytest.approx([math.log(0.5), math.log(0.3), math.log(0.2)], abs=1e-6)
    # Of the top two, renormalised 0.625 and 0.375: u = 0.9 gives token 1. Its log-probability stays that of 0.3.
    drawn = draw_tokens(logits, settings_of(3, top_k=2), uniform)
    assert drawn.tokens.tolist() == [0, 0, 1]
    assert drawn.logps[2].item() == pytest.approx(math.log(0.3), abs=1e-6)
    # 0.5 alone does not reach 0.7, with 0.3 it does: the same two. For 0.4 the first is enough.
    assert draw_tokens(logits, settings_of(3, top_p=0.7), uniform).tokens.tolist() == [0, 0, 1]
    assert draw_tokens(logits, settings_of(3, top_p=0.4), uniform).tokens.tolist() == [0, 0, 0]
    # Temperature 1/2 squares: 0.25, 0.09, 0.04 of 0.38, sums 0.658, 0.895, 1.
    drawn = draw_tokens(logits, settings_of(3, temperature=0.5), uniform)
    assert drawn.tokens.tolist() == [0, 0, 2]
    assert drawn.logps[2].item() == pytest.approx(math.log(0.04 / 0.38), abs=1e-5)
    assert draw_tokens(logits, settings_of(3, temperature=0.0), uniform).tokens.tolist() == [0, 0, 0]


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]]).expand(4, 5)
    uniform = torch.tensor([2.0**-53, 0.5, 0.5 + 2.0**-53, 1.0], dtype=torch.float64)
    for settings in (settings_of(4), settings_of(4, top_k=4), settings_of(4, top_p=0.99)):
        assert draw_tokens(logits, settings, uniform).tokens.tolist() == [1, 1, 3, 3]


@given(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=8), st.integers(1, 8), st.floats(0.05, 1.0))
def test_truncation_keeps_the_likeliest(weights: list[float], top_k: int, top_p: float) -> None:
    """Over a fine grid of u, exactly the tokens of the definition are drawn."""
    mass = torch.tensor(weights, dtype=torch.float32)
    order = mass.sort(descending=True, stable=True).indices.tolist()[:top_k]
    total = sum(mass[i].item() for i in order)
    kept, before = set(), 0.0
    for token in order:
        if before < top_p * total * (1 - 1e-6):  # on the edge itself either is right
            kept.add(token)
        before += mass[token].item()
    rows = 2000
    uniform = (torch.arange(rows, dtype=torch.float64) + 1) / rows
    drawn = draw_tokens(mass.log().expand(rows, -1), settings_of(rows, top_k=top_k, top_p=top_p), uniform)
    assert kept <= set(drawn.tokens.tolist()) | {t for t in kept if mass[t] / total < 2 / rows}
    assert len(set(drawn.tokens.tolist()) - kept) <= 1


def test_sampled_frequencies_are_the_probabilities() -> None:
    """20,000 draws of one distribution, each with a key of its own: chi-square with 3 degrees of freedom below 16.3
    (the 0.999 quantile; the seed is fixed, so this cannot fail by chance)."""
    probabilities = torch.tensor([0.1, 0.2, 0.3, 0.4])
    rows = 20_000
    keys = np.array([row_key(11, i, 0) for i in range(rows)], dtype=np.uint64)
    uniform = torch.from_numpy(uniforms(keys, np.zeros(rows, dtype=np.int64)))
    drawn = draw_tokens(probabilities.log().expand(rows, 4), settings_of(rows), uniform)
    counts = torch.bincount(drawn.tokens, minlength=4)
    expected = probabilities * rows
    assert ((counts - expected) ** 2 / expected).sum().item() < 16.3


def test_tokens_samples_and_prompts_are_independent_of_each_other() -> None:
    """A model without opinion, cut to its four lowest ids: pairs of tokens are spread evenly over 16 cells, whether
    they follow each other, are of sibling samples or of neighbouring prompts. Chi-square with 15 degrees of freedom
    below 37.7 (the 0.999 quantile; the seed is fixed)."""
    model = make("llama")
    with torch.no_grad():
        model.lm_head.weight.zero_()
    settings = SamplingSettings(top_k=4, max_response_tokens=2)
    sampler = TorchSampler(model, EndOnly(), "v")  # type: ignore[arg-type]
    ids = np.array([[s.ids for s in both] for both in sampler.sample([[5, 6]] * 800, 2, settings, seed=2)])
    assert ids.shape == (800, 2, 2)  # prompt, sample, token
    for first, second in (
        (ids[:, :, 0], ids[:, :, 1]),
        (ids[:, 0, :], ids[:, 1, :]),
        (ids[:-1], ids[1:]),
    ):
        counts = np.zeros((4, 4))
        np.add.at(counts, (first.ravel(), second.ravel()), 1)
        expected = first.size / 16
        assert ((counts - expected) ** 2 / expected).sum() < 37.7


@given(st.integers(0, 2**63), st.integers(0, 1000))
def test_uniforms_are_a_function_of_key_and_step(key: int, step: int) -> None:
    keys = np.array([row_key(key, 1), row_key(key, 2)], dtype=np.uint64)
    both = uniforms(keys, np.array([step, step + 1]))
    assert ((both > 0) & (both <= 1)).all()
    assert uniforms(keys[1:], np.array([step + 1]))[0] == both[1]
    assert both[0] != both[1]
