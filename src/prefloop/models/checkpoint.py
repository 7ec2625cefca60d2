"""Checkpoints: safetensors plus JSON, written whole or not at all. Knows nothing of what the tensors mean.

    <folder>/step-00000120/
        tensors.safetensors
        state.json            step and whatever is not a tensor (cursors, counters, optimiser groups)

A checkpoint is written under a temporary name, flushed to disk, then renamed; a half-written one is never loaded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.errors import ModelError

_TEMPORARY = ".writing-"


@dataclass(frozen=True)
class Checkpoint:
    """What `save_checkpoint` wrote."""

    path: Path
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix.`, without it."""
        start = prefix + "."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int | None = 2
) -> Path:
    """Writes one checkpoint atomically and drops all but the newest `keep` (None keeps all)."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{step:08d}"
    temporary = folder / f"{_TEMPORARY}{step:08d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file(
        {name: value.detach().contiguous().cpu() for name, value in tensors.items()}, temporary / "tensors.safetensors"
    )
    (temporary / "state.json").write_text(json.dumps({"step": step} | dict(state)), encoding="utf-8")
    for path in (*temporary.iterdir(), temporary):
        _flush(path)
    replace_folder(temporary, final)
    if keep is not None:
        for old in _finished(folder)[:-keep]:
            shutil.rmtree(old)
    return final


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest finished checkpoint, or None.

    Errors:
        ModelError: its files were damaged after they were written.
    """
    finished = _finished(folder)
    if not finished:
        return None
    path = finished[-1]
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        step = int(state.pop("step"))
        tensors = load_file(path / "tensors.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"The checkpoint {path} is damaged ({error}); delete it to go on from the one before."
        ) from None
    return Checkpoint(path, step, tensors, state)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's state as flat tensors and JSON: `load_optimizer_state` takes both back."""
    full = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value
        for index, slots in full["state"].items()
        for name, value in slots.items()
        if isinstance(value, Tensor)
    }
    return tensors, {"param_groups": full["param_groups"]}


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Puts back what `optimizer_state` gave."""
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": slots, "param_groups": state["param_groups"]})


def replace_folder(temporary: Path, final: Path) -> None:
    """Renames `temporary` to `final` (which is replaced) and flushes the folder that holds them."""
    if final.exists():
        shutil.rmtree(final)
    os.rename(temporary, final)
    _flush(final.parent)


def _finished(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*")) if folder.is_dir() else []


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
