"""The registry keeps models by content."""

import shutil
from pathlib import Path

import pytest

from prefloop.engine import read_manifest
from prefloop.engine.registry import Registry
from prefloop.errors import ConfigError, ModelError, NotFoundError
from prefloop.loop.round import create_workspace
from prefloop.loop.serving import manifest_of, open_study, publish
from prefloop.loop.snapshots import add, content_hash, model_path, register
from prefloop.sandbox.tiny import CHAT_MODEL, EXAMPLE_PROMPT, PMP_MODEL, tiny_model
from prefloop.schema import SamplingSettings, Tranche


def test_a_new_workspace_serves_its_base(tmp_path: Path) -> None:
    workspace, base = create_workspace(tmp_path / "ws")
    assert base.state == "deployed"
    [served] = read_manifest(manifest_of(workspace))
    assert served.id == base.id
    assert content_hash(Path(model_path(workspace, base))) == content_hash(tiny_model(CHAT_MODEL))


def test_the_hash_covers_weights_and_settings(tmp_path: Path) -> None:
    workspace, base = create_workspace(tmp_path / "ws")
    with workspace.store() as store:
        cold = register(workspace, store, "cold", tiny_model(CHAT_MODEL), sampling=SamplingSettings(temperature=0.5))
        assert cold.hash != base.hash
        assert cold.path == base.path  # the same weights are kept once
        assert register(workspace, store, "base", tiny_model(CHAT_MODEL)) == store.snapshot("base")
        with pytest.raises(ModelError, match="'base' exists with other content"):
            register(workspace, store, "base", tiny_model(CHAT_MODEL), sampling=SamplingSettings(temperature=0.5))


def test_a_changed_byte_is_another_model(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model(CHAT_MODEL), copy)
    assert content_hash(copy) == content_hash(tiny_model(CHAT_MODEL))
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert content_hash(copy) != content_hash(tiny_model(CHAT_MODEL))


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    workspace, _ = create_workspace(tmp_path / "ws")
    (tmp_path / "empty").mkdir()
    with workspace.store() as store, pytest.raises(ModelError, match=r"config\.json"):
        register(workspace, store, "x", tmp_path / "empty")


def test_retiring_takes_a_snapshot_out_of_the_manifest(tmp_path: Path) -> None:
    workspace, base = create_workspace(tmp_path / "ws")
    with workspace.store() as store:
        store.set_snapshot_state(base.id, "retired")
        publish(workspace, store)
    assert read_manifest(manifest_of(workspace)) == []


def test_best_of_k_is_served_with_the_pm_that_picks(tmp_path: Path) -> None:
    workspace, base = create_workspace(tmp_path / "ws")
    with workspace.store() as store:
        picker = register(workspace, store, "pm", tiny_model(PMP_MODEL), kind="preference_model")
        best = add(workspace, store, "best16", "base", best_of_k=16, picker="pm")
        assert (best.best_of_k, best.preference_model_id, best.parent_id) == (16, picker.id, base.id)
        assert best.path == base.path
        # k and the PM are part of what it is, and the same again is the same snapshot
        assert len({best.hash, base.hash, add(workspace, store, "best4", "base", best_of_k=4, picker="pm").hash}) == 3
        assert add(workspace, store, "best16", "base", best_of_k=16, picker="pm") == best
        store.set_snapshot_state(best.id, "deployed")
        publish(workspace, store)
        assert open_study(store, "picked").tranche == Tranche.REJECTION_SAMPLED
        registry = Registry(manifest_of(workspace))
        try:
            assistant = registry.assistant("best16")
            assert assistant.scorer is not None
            assert assistant.scorer.snapshot.id == picker.id
        finally:
            registry.close()
        # a PM that is retired by itself still picks, until its snapshot goes too
        store.set_snapshot_state(picker.id, "retired")
        publish(workspace, store)
        assert {served.name for served in read_manifest(manifest_of(workspace))} == {"base", "best16", "pm"}
        store.set_snapshot_state(best.id, "retired")
        publish(workspace, store)
        assert [served.name for served in read_manifest(manifest_of(workspace))] == ["base"]


def test_another_pm_of_the_same_content_picks_the_same(tmp_path: Path) -> None:
    """The hash names what is served, wherever the workspace is: not the ids of its rows."""
    hashes = set()
    for folder in ("one", "two"):
        workspace, _ = create_workspace(tmp_path / folder)
        with workspace.store() as store:
            register(workspace, store, "pm", tiny_model(PMP_MODEL), kind="preference_model")
            hashes.add(add(workspace, store, "best", "base", best_of_k=4, picker="pm").hash)
    assert len(hashes) == 1


def test_an_example_prompt_is_part_of_a_snapshot(tmp_path: Path) -> None:
    workspace, base = create_workspace(tmp_path / "ws")
    with workspace.store() as store:
        polite = add(workspace, store, "polite", "base", prompt=EXAMPLE_PROMPT, sampling={"temperature": 0.5})
        assert polite.hash != base.hash
        assert polite.prompt[-1].role == "assistant"
        register(workspace, store, "pm", tiny_model(PMP_MODEL), kind="preference_model")
        best = add(workspace, store, "polite-best", "polite", best_of_k=4, picker="pm")
        assert (best.prompt, best.sampling) == (polite.prompt, polite.sampling)
        (tmp_path / "half.json").write_text('[{"role": "user", "text": "hello"}]')
        with pytest.raises(ConfigError, match="has 1 turns and must end with an assistant's"):
            add(workspace, store, "half", "base", prompt=str(tmp_path / "half.json"))
        (tmp_path / "wrong.json").write_text('[{"role": "user"}]')
        with pytest.raises(ConfigError, match=r"0\.text is wrong"):
            add(workspace, store, "wrong", "base", prompt=str(tmp_path / "wrong.json"))
        with pytest.raises(ConfigError, match="cannot be read"):
            add(workspace, store, "none", "base", prompt=str(tmp_path / "none.json"))


def test_a_pick_that_cannot_be(tmp_path: Path) -> None:
    workspace, _ = create_workspace(tmp_path / "ws")
    with workspace.store() as store:
        register(workspace, store, "pm", tiny_model(PMP_MODEL), kind="preference_model")
        with pytest.raises(ConfigError, match=r"best of 4; name the PM that picks"):
            add(workspace, store, "x", "base", best_of_k=4)
        with pytest.raises(ConfigError, match="nothing to pick from"):
            add(workspace, store, "x", "base", picker="pm")
        with pytest.raises(ConfigError, match="'base' is a policy and cannot pick"):
            add(workspace, store, "x", "base", best_of_k=4, picker="base")
        with pytest.raises(ConfigError, match="only a policy's replies"):
            add(workspace, store, "x", "pm", kind="preference_model", best_of_k=4, picker="pm")
        with pytest.raises(NotFoundError, match="'pn'"):
            add(workspace, store, "x", "base", best_of_k=4, picker="pn")
        with pytest.raises(ModelError, match="which is no policy; give another model or --kind preference_model"):
            add(workspace, store, "x", "pm")
        assert [snapshot.name for snapshot in store.snapshots()] == ["base", "pm"]
