"""What runs on a GPU against the same on a CPU: tries, the head, sampling, a step of a PM, a batch of PPO."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from prefloop.models.language import LanguageModel, load_language_model, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import all_logps
from prefloop.models.sampling import TorchSampler
from prefloop.models.trie import pack, packed_hidden, runs_flat
from prefloop.runs import RunFolder
from prefloop.schema import Message, PreferencePair, SamplingSettings
from prefloop.train.policy import train_policy
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.preference import train_preference
from prefloop.train.preference_settings import PreferenceRun

WORDS = ["mend", "the", "blue", "cup", "how", "does", "river", "sing", "ask", "kind", "tree", "for", "bread"]
KINDS = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen3": (Qwen3ForCausalLM, Qwen3Config)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A language model of each kind with heads that FlexAttention takes: 16 wide at least."""
    tokenizer = train_tokenizer([" ".join(WORDS)] * 50, 300)
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    return {
        name: save_model(
            kind(
                config(
                    vocab_size=len(tokenizer),
                    hidden_size=64,
                    intermediate_size=96,
                    num_hidden_layers=2,
                    num_attention_heads=4,
                    num_key_value_heads=2,
                    head_dim=16,
                    max_position_embeddings=256,
                    pad_token_id=tokenizer.pad_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    bos_token_id=None,
                )
            ),
            tokenizer,
            root / name,
        )
        for name, (kind, config) in KINDS.items()
    }


def texts(count: int, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(2, 9))) for _ in range(count)]


def pairs(count: int) -> list[PreferencePair]:
    return [
        PreferencePair(
            context=(Message(role="user", text=question),), chosen=good, rejected=bad, conversation_id=question
        )
        for question, good, bad in zip(texts(count, 1), texts(count, 2), texts(count, 3), strict=True)
        if good != bad
    ]


@pytest.mark.parametrize("name", KINDS)
def test_tries_give_what_the_plain_forward_gives(name: str, folders: dict[str, Path], gpu: str) -> None:
    model = load_language_model(folders[name]).to(gpu).model
    trunk = model.base_model
    assert runs_flat(trunk)
    draw = torch.Generator().manual_seed(2)
    context = torch.randint(5, 280, (90,), generator=draw).tolist()
    sequences = [context + torch.randint(5, 280, (size,), generator=draw).tolist() for size in (5, 70, 1, 30)]
    sequences += [torch.randint(5, 280, (40,), generator=draw).tolist()]
    weight = torch.randn(64, generator=draw).to(gpu)

    def gradients(scores: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad(torch.nn.functional.softplus(scores).sum(), list(trunk.parameters())))

    hidden = [trunk(input_ids=torch.tensor([ids], device=gpu), use_cache=False).last_hidden_state for ids in sequences]
    alone = torch.stack([one[0, -1] for one in hidden]) @ weight
    expected = gradients(alone)
    for row_tokens in (64, 2048):
        batch = pack(sequences, row_tokens).to(gpu)
        scores = packed_hidden(trunk, batch, batch.read_index) @ weight
        torch.testing.assert_close(scores, alone, rtol=1e-5, atol=1e-5)
        for one, other in zip(gradients(scores), expected, strict=True):
            assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6


@pytest.mark.parametrize("name", KINDS)
def test_scores_and_log_probabilities_are_those_of_the_cpu(name: str, folders: dict[str, Path], gpu: str) -> None:
    conversations = [
        [Message(role="user", text=asked), Message(role="assistant", text=told)]
        for asked, told in zip(texts(20, 4) * 2, texts(40, 5), strict=True)
    ]
    model = PreferenceModel.from_language_model(folders[name], seed=1)
    on_cpu = model.score(conversations)
    assert model.to(gpu).score(conversations) == pytest.approx(on_cpu, abs=1e-5)
    policy = load_language_model(folders[name])
    prompts = [policy.renderer.context_ids(conversation[:1]) for conversation in conversations]
    replies = [policy.renderer.reply_ids(conversation[1].text) for conversation in conversations]

    def logps() -> torch.Tensor:
        return all_logps(policy.model, prompts, replies, row_tokens=256, tokens_per_forward=500)

    before = logps()
    policy.to(gpu)
    torch.testing.assert_close(logps(), before, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_sampled_log_probabilities_are_the_models(name: str, folders: dict[str, Path], gpu: str) -> None:
    policy = load_language_model(folders[name]).to(gpu)
    prompts = [policy.renderer.context_ids([Message(role="user", text=text)]) for text in texts(6, 6)]
    drawn = TorchSampler(policy.model, policy.renderer, "v").sample(
        prompts, 3, SamplingSettings(max_response_tokens=20), seed=0
    )
    samples = [sample for row in drawn for sample in row]
    asked = [prompt for prompt in prompts for _ in range(3)]
    logps = all_logps(policy.model, asked, [one.ids for one in samples], row_tokens=256, tokens_per_forward=500)
    recorded = torch.tensor([logp for sample in samples for logp in sample.logps])
    torch.testing.assert_close(recorded, logps, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_of_a_preference_model_is_that_of_the_cpu(
    name: str, folders: dict[str, Path], gpu: str, tmp_path: Path
) -> None:
    rows: list[list[dict[str, Any]]] = []
    for number, device in enumerate(("cpu", gpu)):
        run = PreferenceRun(start=folders[name], pairs_per_step=16, dtype="float32", device=device)
        folder = RunFolder.create(tmp_path, "preference", run, name=f"run-{number}")
        trained = train_preference(run, pairs(32), folder, pairs(32))
        assert trained.model.device.type == device
        rows.append(folder.metrics())
        assert (folder.path / "model" / "model.safetensors").is_file()
    for on_cpu, on_gpu in zip(*rows, strict=True):
        for metric in ("preference/loss", "preference/gradient_norm"):
            assert on_gpu[metric] == pytest.approx(on_cpu[metric], rel=1e-3)
    in_bf16 = PreferenceRun(start=folders[name], pairs_per_step=16, dtype="bfloat16", device=gpu)
    folder = RunFolder.create(tmp_path, "preference", in_bf16, name="bf16")
    train_preference(in_bf16, pairs(32), folder)
    assert folder.metrics()[0]["preference/loss"] == pytest.approx(rows[0][0]["preference/loss"], rel=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KINDS)
def test_a_batch_of_ppo(name: str, dtype: str, folders: dict[str, Path], gpu: str, tmp_path: Path) -> None:
    judge = PreferenceModel.from_language_model(folders[name], seed=1).save(tmp_path / "pm")
    run = PolicyRun.load_values(
        {
            "policy": folders[name],
            "preference_model": judge,
            "held_out_preference_model": judge,
            "episodes": 16,
            "episodes_per_batch": 16,
            "samples_per_prompt": 2,
            "minibatches": 2,
            "max_response_tokens": 8,
            "snapshots": 1,
            "dtype": dtype,
            "device": gpu,
        }
    )
    prompts = [[Message(role="user", text=text)] for text in texts(12, 7)]
    folder = RunFolder.create(tmp_path, "policy", run)
    result = train_policy(run, prompts, folder, prompts[:4])
    (row,) = [row for row in folder.metrics() if "score/train" in row]
    assert row["policy/ratio_first_error"] < (1e-3 if dtype == "float32" else 0.2)
    trained: LanguageModel = load_language_model(Path(result.snapshots[-1].path))
    before = load_language_model(folders[name]).model.state_dict()
    assert any(not torch.equal(value, before[key]) for key, value in trained.model.state_dict().items())
