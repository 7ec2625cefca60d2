"""The registry keeps models by content."""

import shutil
from pathlib import Path

import pytest

from prefloop.engine import read_manifest
from prefloop.errors import ModelError
from prefloop.loop.round import create_workspace
from prefloop.loop.serving import manifest_of, publish
from prefloop.loop.snapshots import content_hash, model_path, register
from prefloop.sandbox.tiny import CHAT_MODEL, tiny_model
from prefloop.schema import SamplingSettings


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
