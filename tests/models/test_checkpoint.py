"""Checkpoints: exact, atomic, and a resumed optimiser walks the same path as an uninterrupted one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prefloop.errors import ModelError
from prefloop.models.checkpoint import latest_checkpoint, load_optimizer_state, optimizer_state, save_checkpoint


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    tensors = {
        "model.weight": torch.randn(3, 4).T,  # not contiguous
        "model.scale": torch.tensor(2.5, dtype=torch.bfloat16),
        "modelling": torch.arange(5),
    }
    path = save_checkpoint(tmp_path / "checkpoints", 7, tensors, {"cursor": 12, "order": [3, 1, 2]})
    loaded = latest_checkpoint(tmp_path / "checkpoints")
    assert loaded is not None
    assert (loaded.path, loaded.step, loaded.state) == (path, 7, {"cursor": 12, "order": [3, 1, 2]})
    assert loaded.tensors.keys() == tensors.keys()
    for name, value in tensors.items():
        assert loaded.tensors[name].dtype == value.dtype
        assert torch.equal(loaded.tensors[name], value)
    assert loaded.part("model").keys() == {"weight", "scale"}  # and not "modelling"


def test_none_yet(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "none") is None


def test_the_newest_is_taken_and_the_oldest_go(tmp_path: Path) -> None:
    for step in (8, 9, 10, 100):
        save_checkpoint(tmp_path, step, {"a": torch.tensor(step)}, {})
    loaded = latest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.step == loaded.tensors["a"].item() == 100
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000010", "step-00000100"]


def test_all_are_kept_where_asked_for(tmp_path: Path) -> None:
    for step in range(4):
        save_checkpoint(tmp_path, step, {"a": torch.zeros(1)}, {}, keep=None)
    assert len(list(tmp_path.iterdir())) == 4


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 1, {"a": torch.zeros(2)}, {"n": 1})
    save_checkpoint(tmp_path, 1, {"a": torch.ones(2)}, {"n": 2})
    loaded = latest_checkpoint(tmp_path)
    assert loaded is not None
    assert loaded.state == {"n": 2}
    assert loaded.tensors["a"].tolist() == [1, 1]


def test_a_half_written_one_is_never_loaded(tmp_path: Path) -> None:
    """Killed at every moment at which a file or folder changes: the newest whole checkpoint is there and exact."""
    program = (
        "import os, signal, sys, torch\n"
        "from pathlib import Path\n"
        "from prefloop.models import checkpoint\n"
        "folder, moment = Path(sys.argv[1]), sys.argv[2]\n"
        "checkpoint.save_checkpoint(folder, 1, {'a': torch.full((1000,), 1.0)}, {})\n"
        "def die(*arguments, **named): os.kill(os.getpid(), signal.SIGKILL)\n"
        "owner, _, name = moment.rpartition('.')\n"
        "setattr(os if owner == 'os' else checkpoint, name, die)\n"
        "checkpoint.save_checkpoint(folder, 2, {'a': torch.full((1000,), 2.0)}, {})\n"
    )
    moments = ("checkpoint.save_file", "checkpoint._flush", "os.rename")
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / moment), moment]) for moment in moments]
    for moment, process in zip(moments, running, strict=True):
        assert process.wait() == -9, moment
        loaded = latest_checkpoint(tmp_path / moment)
        assert loaded is not None
        assert loaded.step == 1
        assert loaded.tensors["a"].eq(1.0).all()
        assert any(path.name.startswith(".writing-") for path in (tmp_path / moment).iterdir())
        save_checkpoint(tmp_path / moment, 2, {"a": torch.full((1000,), 2.0)}, {})  # what was left is no obstacle
        assert {path.name for path in (tmp_path / moment).iterdir()} == {"step-00000001", "step-00000002"}


@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise"])
def test_a_damaged_one_is_named(tmp_path: Path, name: str, damage: str) -> None:
    path = save_checkpoint(tmp_path, 1, {"a": torch.zeros(1000)}, {})
    file = path / name
    if damage == "gone":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if damage == "cut" else os.urandom(len(content)))
    with pytest.raises(ModelError, match=r"step-00000001 is damaged .*; delete it to go on from the one before"):
        latest_checkpoint(tmp_path)


def _walk(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    losses = []
    for step in steps:
        inputs = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        loss = model(inputs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_resumed_equals_uninterrupted(tmp_path: Path, kind: str) -> None:
    def fresh(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))
        groups = [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0},
        ]
        if kind == "adamw":
            return model, torch.optim.AdamW(groups, lr=0.05, betas=(0.8, 0.9))
        return model, torch.optim.SGD(groups, lr=0.05, momentum=0.9)

    model, optimizer = fresh(0)
    _walk(model, optimizer, range(5))
    optimizer.param_groups[0]["lr"] = 0.025  # a schedule's value is kept too
    tensors, state = optimizer_state(optimizer)
    save_checkpoint(
        tmp_path,
        5,
        {f"model.{key}": value for key, value in model.state_dict().items()}
        | {f"optimizer.{key}": value for key, value in tensors.items()},
        {"optimizer": state},
    )
    expected = _walk(model, optimizer, range(5, 10))

    other, other_optimizer = fresh(1)
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    other.load_state_dict(checkpoint.part("model"))
    load_optimizer_state(other_optimizer, checkpoint.part("optimizer"), checkpoint.state["optimizer"])
    assert other_optimizer.param_groups[0]["lr"] == 0.025
    assert _walk(other, other_optimizer, range(5, 10)) == expected  # bit for bit
    for mine, theirs in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
