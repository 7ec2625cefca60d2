"""Token ids in and out, and weights loaded while serving: the routes that a PPO run elsewhere samples through."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch

from prefloop.engine import ModelServerProcess
from prefloop.models.adapters import add_lora, trained_state
from prefloop.models.language import load_language_model, save_model
from prefloop.models.remote_sampling import HttpSampler
from prefloop.models.sampling import TorchSampler, row_key
from prefloop.schema import SamplingSettings

PROMPTS = [[5, 6, 7], [8, 9], [5, 6, 7]]
SETTINGS = SamplingSettings(max_response_tokens=12)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def loading(served_folder: Path, weights: Path) -> Iterator[ModelServerProcess]:
    """A server that takes weights from below `weights`."""
    manifest = served_folder / "snapshots.json"
    with ModelServerProcess(manifest, threads=1, device="cpu", weights_folder=weights) as process:
        yield process


@pytest.fixture
def post(loading: ModelServerProcess) -> Iterator[Any]:
    with httpx.Client(base_url=loading.base_url.removesuffix("/v1"), trust_env=False, timeout=60) as client:
        yield lambda route, body: client.post(route, json=body)


def sampled_elsewhere(server: ModelServerProcess, model: str, language_model: Any, folder: Path | None = None) -> Any:
    policy, renderer = language_model
    sampler = HttpSampler(server.base_url, model, renderer.end_id, policy.config.vocab_size, patience_seconds=1)
    try:
        if folder is not None:
            sampler.load_weights(folder)
        return sampler.sample(PROMPTS, 3, SETTINGS, seed=4)
    finally:
        sampler.close()


def assert_same(elsewhere: Any, model: Any, renderer: Any) -> None:
    """The tokens of the sampler in this process, and its log-probabilities up to rounding."""
    for place, (prompt, found) in enumerate(zip(PROMPTS, elsewhere, strict=True)):
        seed = row_key(4, place) >> 1  # each prompt is a request of its own
        (expected,) = TorchSampler(model, renderer, "v").sample([prompt], 3, SETTINGS, seed)
        for one, other in zip(found, expected, strict=True):
            assert one.ids == other.ids
            assert one.finish_reason == other.finish_reason
            assert one.logps == pytest.approx(other.logps, abs=1e-5)


def test_a_snapshot_s_tokens_are_the_sampler_s(server: ModelServerProcess, language_model: Any) -> None:
    assert_same(sampled_elsewhere(server, "base", language_model), *language_model)


def test_the_openai_package_reads_the_answer(server: ModelServerProcess, language_model: Any) -> None:
    with openai.OpenAI(base_url=server.base_url, api_key="unused", max_retries=0) as client:
        done = client.completions.create(
            model="base", prompt=[5, 6, 7], n=2, seed=1, max_tokens=6, logprobs=1, extra_body={"return_token_ids": True}
        )
        plain = client.completions.create(model="base", prompt=[5, 6, 7], n=2, seed=1, max_tokens=6)
    _, renderer = language_model
    for choice, other in zip(done.choices, plain.choices, strict=True):
        extra = choice.model_extra or {}
        ids = [token for token in extra["token_ids"] if token != renderer.end_id]
        assert choice.text == renderer.decode(ids) == other.text
        assert choice.logprobs is not None
        assert choice.logprobs.tokens == [f"token_id:{token}" for token in extra["token_ids"]]
        assert other.logprobs is None
        assert "token_ids" not in (other.model_extra or {})
    assert done.usage is not None
    assert done.usage.completion_tokens == sum(len((choice.model_extra or {})["token_ids"]) for choice in done.choices)


@pytest.mark.parametrize(
    ("changes", "status", "part"),
    [
        ({"prompt": "How are you?"}, 400, "'prompt' is wrong"),
        ({"prompt": []}, 400, "'prompt' is wrong"),
        ({"prompt": [5, 100_000]}, 400, "The prompt holds 100000, and the ids of this model are 0 to"),
        ({"prompt": [5] * 400}, 400, "The prompt has 400 tokens, and the model's window 256"),
        ({"model": "nobody"}, 404, "no model 'nobody' here"),
        ({"stop_token_ids": [1]}, 400, "A reply ends here at the token"),
        ({"ignore_eos": True}, 400, "A reply ends here at the token"),
        ({"stop": "."}, 400, "'stop' is not supported here"),
        ({"echo": True}, 400, "'echo' is not supported here"),
        ({"stream": True}, 400, "'stream' is not supported here"),
        ({"n": 1000}, 400, "less than or equal to 128"),
    ],
)
def test_refusals(server: ModelServerProcess, changes: dict[str, Any], status: int, part: str) -> None:
    body = {"model": "base", "prompt": [5, 6, 7]} | changes
    response = httpx.post(server.base_url + "/completions", json=body, trust_env=False)
    assert response.status_code == status
    assert part in response.json()["error"]["message"]


def test_weights_are_served_as_they_were_sent_last(
    loading: ModelServerProcess, weights: Path, language_model: Any, post: Any
) -> None:
    body = {"model": "rollout", "prompt": [5]}
    assert "no model 'rollout' here" in post("/v1/completions", body).json()["error"]["message"]
    model, renderer = load_language_model(Path(language_model.model.name_or_path))
    for number in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.3)
        folder = save_model(model, renderer.tokenizer, weights / str(number))
        assert_same(sampled_elsewhere(loading, "rollout", language_model, folder), model, renderer)
    assert_same(sampled_elsewhere(loading, "base", language_model), *language_model)  # the snapshots are as they were
    with torch.no_grad():
        model.lm_head.weight.mul_(0.5)
    save_model(model, renderer.tokenizer, folder)  # the same place again
    assert_same(sampled_elsewhere(loading, "rollout", language_model, folder), model, renderer)
    assert loading.reload() == {"added": [], "retired": []}  # a manifest that is read again takes nothing away
    assert_same(sampled_elsewhere(loading, "rollout", language_model), model, renderer)


def test_adapters_come_and_go_by_name(
    loading: ModelServerProcess, weights: Path, language_model: Any, post: Any
) -> None:
    base = Path(language_model.model.name_or_path)
    model, renderer = load_language_model(base)
    add_lora(model, 4, 2.0, 0, base=base)
    with torch.no_grad():
        for factor in trained_state(model).values():
            factor.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    adapter = save_model(model, renderer.tokenizer, weights / "adapter")
    merged, _ = load_language_model(adapter)
    assert_same(sampled_elsewhere(loading, "run", language_model, adapter), merged, renderer)
    assert post("/v1/unload_lora_adapter", {"lora_name": "run-adapter"}).status_code == 200
    gone = post("/v1/unload_lora_adapter", {"lora_name": "run-adapter"})
    assert gone.status_code == 404
    assert "No weights were loaded as 'run-adapter'" in gone.json()["error"]["message"]


def test_weights_that_may_not_be_loaded(
    server: ModelServerProcess, loading: ModelServerProcess, weights: Path, served_folder: Path, post: Any
) -> None:
    outside, inside = str(served_folder / "snapshots" / "base"), str(weights / "nothing")

    def refused(response: httpx.Response, status: int, part: str) -> None:
        assert response.status_code == status
        assert part in response.json()["error"]["message"]

    def load(path: Any) -> dict[str, Any]:
        return {"method": "reload_weights", "kwargs": {"weights_path": path}}

    closed = httpx.post(server.base_url.removesuffix("/v1") + "/collective_rpc", json=load(outside), trust_env=False)
    refused(closed, 403, "start it with --weights-folder FOLDER")
    refused(post("/collective_rpc", load(outside)), 403, "loads weights from below")
    refused(post("/collective_rpc", load(f"{weights}/../../etc")), 403, "loads weights from below")
    refused(post("/collective_rpc", load(inside)), 404, "There is no folder")
    refused(post("/collective_rpc", load(None)), 400, "path of the weights is missing")
    refused(post("/collective_rpc", {"method": "exec", "kwargs": {}}), 400, "not 'exec'")
    (weights / "nothing").mkdir()
    refused(post("/v1/load_lora_adapter", {"lora_name": "base", "lora_path": inside}), 400, "the name of a snapshot")
    refused(post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": inside}), 400, "can be loaded from")
