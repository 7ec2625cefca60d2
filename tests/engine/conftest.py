"""A folder of tiny random models with a manifest, and a real server process over it.

"base" answers at random, "endless" (the same weights in a window of a million tokens) never ends when it is greedy,
"prompted" and "best" are "base" behind an example prompt and behind the preference model "pm".
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.engine import ModelServerProcess, write_manifest
from prefloop.models.language import load_language_model, new_llama, save_model, train_tokenizer
from prefloop.models.preference import PreferenceModel
from prefloop.schema import Message, SamplingSettings, Snapshot

WINDOW = 256


@pytest.fixture(scope="session")
def served_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models below snapshots/, and snapshots.json over them."""
    folder = tmp_path_factory.mktemp("served")
    tokenizer = train_tokenizer(["How are you today? I am fine, thank you. Größe ☃ 你好 " * 3], 400)
    model = new_llama(tokenizer, hidden=32, layers=2, heads=2, window_tokens=WINDOW, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)  # sharper than chance, so that prompts matter
    save_model(model, tokenizer, folder / "snapshots" / "base")
    model.config.max_position_embeddings = 1_000_000
    save_model(model, tokenizer, folder / "snapshots" / "endless")
    preference_model = PreferenceModel.from_language_model(folder / "snapshots" / "base", seed=0)
    preference_model.save(folder / "snapshots" / "pm")
    write_manifest(folder / "snapshots.json", _snapshots())
    return folder


def _snapshots() -> list[Snapshot]:
    path = "snapshots/base"
    return [
        Snapshot(name="base", hash="1", path=path, sampling=SamplingSettings(max_response_tokens=24)),
        Snapshot(
            name="prompted",
            hash="2",
            path=path,
            prompt=(Message(role="system", text="You are fine."), Message(role="user", text="How are you?")),
            sampling=SamplingSettings(temperature=0.0, max_response_tokens=8),
        ),
        Snapshot(
            name="best",
            hash="3",
            path=path,
            best_of_k=4,
            preference_model_id="id-of-pm",
            sampling=SamplingSettings(max_response_tokens=12),
        ),
        Snapshot(
            name="endless",
            hash="6",
            path="snapshots/endless",
            sampling=SamplingSettings(temperature=0.0, max_response_tokens=50_000),
        ),
        Snapshot(id="id-of-pm", name="pm", hash="4", path="snapshots/pm", kind="preference_model"),
        Snapshot(name="old", hash="5", path="snapshots/gone", state="retired"),
    ]


@pytest.fixture(scope="session")
def server(served_folder: Path) -> Iterator[ModelServerProcess]:
    with ModelServerProcess(served_folder / "snapshots.json", threads=1, device="cpu") as process:
        yield process


@pytest.fixture(scope="session")
def language_model(served_folder: Path) -> Any:
    return load_language_model(served_folder / "snapshots" / "base")
