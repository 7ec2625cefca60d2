"""The registry within this process: sharing, swapping, retiring, and what happens when decoding fails."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from prefloop.engine import Registry, create_model_server, read_manifest, write_manifest
from prefloop.engine.decoding import Job
from prefloop.errors import ModelError, NotFoundError, StateError
from prefloop.models.adapters import add_lora, trained_state
from prefloop.models.language import load_language_model, new_llama, save_model, train_tokenizer
from prefloop.schema import Message, SamplingSettings, Snapshot

BODY: dict[str, Any] = {"model": "base", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6, "seed": 1}


@pytest.fixture
def manifest(served_folder: Path) -> Path:
    """A manifest of the test's own beside the shared models."""
    file = served_folder / "registry.json"
    write_manifest(file, read_manifest(served_folder / "snapshots.json"))
    return file


@pytest.fixture
def registry(manifest: Path) -> Iterator[Registry]:
    registry = Registry(manifest, device="cpu", max_rows=2)
    yield registry
    registry.close()


def http(registry: Registry, **options: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_model_server(registry, "token"), **options)
    return httpx.AsyncClient(transport=transport, base_url="http://server")


def test_snapshots_of_the_same_weights_share_them(registry: Registry) -> None:
    threads = {entry.snapshot.name: entry.thread for entry in registry.assistants()}
    assert threads["base"] is threads["prompted"] is threads["best"] is not threads["endless"]
    base = registry.assistant("base")
    assert registry.assistant(base.snapshot.id) is base
    assert registry.scorer("id-of-pm") is registry.scorer("pm")
    for name in ("pm", "old", ""):
        with pytest.raises(NotFoundError, match="the names served are: base, prompted, best, endless"):
            registry.assistant(name)
    with pytest.raises(NotFoundError, match="no preference model 'base' here; the names served are: pm"):
        registry.scorer("base")


async def test_a_reload_keeps_what_stays_and_ends_what_goes(registry: Registry, manifest: Path) -> None:
    snapshots = {snapshot.name: snapshot for snapshot in read_manifest(manifest)}
    base, endless, scorer = registry.assistant("base"), registry.assistant("endless"), registry.scorer("pm")
    running = Job(
        [5, 6], SamplingSettings(max_response_tokens=200, temperature=0.0), [0, 1, 2], endless.renderer.decode
    )
    endless.thread.submit(running)
    other = snapshots["pm"].model_copy(update={"name": "other-pm", "id": "other"})
    write_manifest(manifest, [snapshots["base"], snapshots["pm"], other])
    reloaded = registry.reload()
    assert reloaded == (["other-pm"], ["prompted", "best", "endless"])
    assert registry.assistant("base").thread is base.thread
    assert registry.scorer("other-pm")._scorer is scorer._scorer, "the same folder is loaded once"
    with pytest.raises(StateError, match="just been retired"):
        endless.thread.submit(Job([5], SamplingSettings(), [0], endless.renderer.decode))
    endings = [
        update.finish_reason async for updates in running.updates() for update in updates if update.finish_reason
    ]
    assert endings == ["length"] * 3, "a reply that had begun is finished"
    endless.thread.join(10)
    assert endless.thread.running_rows == 0


def test_best_of_k_needs_its_preference_model(manifest: Path) -> None:
    write_manifest(manifest, [snapshot for snapshot in read_manifest(manifest) if snapshot.name in ("base", "best")])
    with pytest.raises(ModelError, match="'best' picks the best of 4 with the preference model 'id-of-pm', which"):
        Registry(manifest, device="cpu")


async def test_more_replies_than_rows_wait_for_their_turn(registry: Registry) -> None:
    """Two rows run at once here."""
    async with http(registry) as client:
        many = (await client.post("/v1/chat/completions", json=BODY | {"n": 7})).json()
        few = (await client.post("/v1/chat/completions", json=BODY | {"n": 1})).json()
    assert len(many["choices"]) == 7
    assert many["choices"][0] == few["choices"][0]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_while_decoding_is_told_and_the_next_request_served(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    decoder: Any = registry.assistant("base").thread._decoder
    weight = decoder.model.lm_head.weight
    good = weight.clone()
    with torch.no_grad():
        weight.fill_(float("nan"))
    async with http(registry) as client:
        response = await client.post("/v1/chat/completions", json=BODY | {"stream": stream, "n": 3})
        if stream:
            assert '"error":{"message":"The model gives logits that are not finite' in response.text
            assert "[DONE]" not in response.text
        else:
            assert response.status_code == 503
            assert "not finite" in response.json()["error"]["message"]
        with torch.no_grad():
            weight.copy_(good)
        assert registry.running_rows == 0

        def out_of_memory() -> None:
            raise MemoryError

        with monkeypatch.context() as patch:
            patch.setattr(decoder, "step", out_of_memory)
            response = await client.post("/v1/chat/completions", json=BODY | {"stream": stream})
        assert "MemoryError while decoding." in response.text
        assert (await client.post("/v1/chat/completions", json=BODY)).status_code == 200


async def test_administration_is_for_this_machine(registry: Registry) -> None:
    async with http(registry, client=("10.0.0.7", 123)) as client:
        response = await client.post("/admin/reload", headers={"Authorization": "Bearer token"})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    async with http(registry) as client:
        response = await client.post("/admin/reload", headers={"Authorization": "Bearer token"})
        assert response.json() == {"added": [], "retired": []}


async def test_a_base_model_stops_at_the_other_side_s_header(tmp_path: Path) -> None:
    """Without a chat template the layout is hh: what would be the person's next turn is not part of the reply."""
    tokenizer = train_tokenizer(["\n\nHuman: hello\n\nAssistant: well, well " * 5], 300)
    tokenizer.chat_template = None
    model = new_llama(tokenizer, hidden=16, layers=1, heads=2, window_tokens=128, seed=0)
    save_model(model, tokenizer, tmp_path / "raw")
    write_manifest(tmp_path / "m.json", [Snapshot(name="raw", hash="1", path="raw")])
    registry = Registry(tmp_path / "m.json", device="cpu")
    assistant = registry.assistant("raw")
    assert assistant.own_stop == ("\n\nHuman:",)
    decoder: Any = assistant.thread._decoder
    replies = assistant.renderer.text_ids("well, well\n\nHuman: hello")
    prompt_tokens: list[int] = []

    class Script(torch.nn.Module):
        """Says the reply above, whatever it is asked."""

        def forward(self, input_ids: Any, position_ids: Any, **_: Any) -> Any:
            place = int(position_ids[0, 0]) - prompt_tokens[0] + 1
            logits = torch.full((1, 1, len(tokenizer)), -1e9)
            logits[0, 0, replies[place]] = 0.0
            return type("Output", (), {"logits": logits})

    prompt_tokens.append(len(assistant.renderer.fit([Message(role="user", text="Hi")], 100).ids))
    script = Script()
    script.base_model = model.base_model
    decoder.model = script
    async with http(registry) as client:
        reply = (await client.post("/v1/chat/completions", json=BODY | {"model": "raw", "max_tokens": 30})).json()
    registry.close()
    assert reply["choices"][0]["message"]["content"] == "well, well"
    assert reply["choices"][0]["finish_reason"] == "stop"


async def test_adapters_over_one_base_answer_for_themselves_and_share_its_weights(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["mend the blue cup"] * 20, 290)
    plain = new_llama(tokenizer, hidden=32, layers=2, heads=4, window_tokens=64, seed=0)
    base = save_model(plain, tokenizer, tmp_path / "base")
    for seed in (1, 2):
        model = load_language_model(base).model
        add_lora(model, 4, 4.0, seed, base=base)
        with torch.no_grad():
            for value in trained_state(model).values():
                value.add_(0.3 * torch.randn(value.shape, generator=torch.Generator().manual_seed(seed)))
        adapter = save_model(model, tokenizer, tmp_path / f"adapter{seed}")
        merged = load_language_model(adapter)
        save_model(merged.model, tokenizer, tmp_path / f"merged{seed}")
    names = ("adapter1", "base", "adapter2", "merged1", "merged2")
    manifest = write_manifest(tmp_path / "manifest.json", [Snapshot(name=n, hash=n, path=n) for n in names])
    registry = Registry(manifest, device="cpu")
    try:
        weights = {Path(path).name: one for path, one in registry._served.weights.items()}
        assert weights["adapter1"].base is weights["adapter2"].base is weights["base"].base
        async with http(registry) as client:
            texts = []
            for name in names:
                answer = await client.post("/v1/chat/completions", json=BODY | {"model": name, "max_tokens": 24})
                texts.append(answer.json()["choices"][0]["message"]["content"])
        assert texts[0] == texts[3]
        assert texts[2] == texts[4]
        assert len(set(texts)) == 3
    finally:
        registry.close()
