"""The snapshot registry: models by content hash below `snapshots/`, and which of them are deployed.

A snapshot's hash covers the files of its model, its example prompt, its sampling settings and best-of-k. Knows files
and the store; loads a model to export it alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefloop.config import NAME
from prefloop.errors import ConfigError, ModelError
from prefloop.loop.example_prompt import example_prompt
from prefloop.schema import Message, SamplingSettings, Snapshot
from prefloop.store import Store
from prefloop.workspace import Workspace

_NOT_THE_MODEL = (".md", ".txt~", ".lock")


def register(
    workspace: Workspace,
    store: Store,
    name: str,
    source: str | Path,
    *,
    kind: str = "policy",
    prompt: Sequence[Message] = (),
    sampling: SamplingSettings | None = None,
    best_of_k: int = 1,
    preference_model: Snapshot | None = None,
    parent_id: str | None = None,
    run_id: str | None = None,
) -> Snapshot:
    """Copies a model folder into the workspace under its hash and keeps it as a snapshot; a hub id stays a hub id.

    The same content under the same name gives the snapshot that is there already.

    Args:
        best_of_k: replies sampled to each message, of which `preference_model` picks the one that is shown.

    Errors:
        ConfigError: a name that cannot be part of a file name; best-of-k without a PM, or a PM without best-of-k.
        ModelError: the folder is no model; the name belongs to another content already.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"{name!r} cannot name a snapshot; use up to 80 letters, digits, dots, dashes and underscores, the first a "
            "letter or digit."
        )
    _check_pick(name, kind, best_of_k, preference_model)
    sampling = sampling or SamplingSettings()
    folder = Path(source)
    is_folder = folder.is_dir()
    if is_folder and not (folder / "config.json").is_file():
        raise ModelError(f"{folder} holds no config.json, so it is no model folder; give a Hugging Face folder.")
    if not is_folder and (folder.is_absolute() or str(source).startswith(".")):
        raise ModelError(f"There is no model folder at {folder}; check the path.")
    settings = {
        "prompt": [message.model_dump() for message in prompt],
        "sampling": sampling.model_dump(),
        "best_of_k": best_of_k,
        "preference_model": None if preference_model is None else preference_model.hash,
    }
    weights = content_hash(folder) if is_folder else str(source)
    digest = hashlib.sha256(f"{weights} {json.dumps(settings, sort_keys=True)}".encode()).hexdigest()
    known = next((snapshot for snapshot in store.snapshots() if snapshot.name == name), None)
    if known is not None:
        if known.hash != digest:
            raise ModelError(f"A snapshot named {name!r} exists with other content; choose another name.")
        return known
    path = str(source) if not is_folder else str(_copied(folder, workspace.snapshots / weights[:16], workspace.path))
    snapshot = Snapshot.model_validate(
        {
            "name": name,
            "hash": digest,
            "path": path,
            "kind": kind,
            "parent_id": parent_id,
            "run_id": run_id,
            "prompt": tuple(prompt),
            "sampling": sampling,
            "best_of_k": best_of_k,
            "preference_model_id": None if preference_model is None else preference_model.id,
        }
    )
    store.add_snapshot(snapshot)
    return snapshot


def add(
    workspace: Workspace,
    store: Store,
    name: str,
    model: str,
    *,
    kind: str = "policy",
    best_of_k: int = 1,
    picker: str | None = None,
    prompt: str | None = None,
    sampling: Mapping[str, Any] | None = None,
) -> Snapshot:
    """`prefloop snapshots add`: a model that is checked, or the weights of a snapshot under other settings.

    A snapshot's example prompt and sampling settings are taken on unless others are given.

    Args:
        picker: name of the PM snapshot that picks.
        prompt: a file of example dialogues, or the name of one that ships (see `example_prompt`).

    Errors:
        ModelError: the model cannot be loaded, or is of the other kind.
        ConfigError: settings that do not go together.
        NotFoundError: no such PM.
    """
    from prefloop.models.language import check_model

    parent = next((known for known in store.snapshots() if known.name == model), None)
    if parent is not None and not Path(model).is_dir():
        source = model_path(workspace, parent)
        below = parent.sampling.model_dump()
    else:
        parent, source, below = None, model, {}
    check_model(source, is_preference_model=kind == "preference_model")
    messages = () if parent is None else parent.prompt
    return register(
        workspace,
        store,
        name,
        source,
        kind=kind,
        prompt=messages if prompt is None else example_prompt(Path(prompt)),
        sampling=SamplingSettings.model_validate({**below, **(sampling or {})}),
        best_of_k=best_of_k,
        preference_model=None if picker is None else store.snapshot(picker),
        parent_id=None if parent is None else parent.id,
    )


def _check_pick(name: str, kind: str, best_of_k: int, preference_model: Snapshot | None) -> None:
    """Errors: ConfigError where k, the PM that picks and the kind of the snapshot do not go together."""
    if best_of_k > 1 and preference_model is None:
        raise ConfigError(f"Snapshot {name!r} is to show the best of {best_of_k}; name the PM that picks (--pm).")
    if preference_model is None:
        return
    if best_of_k == 1:
        raise ConfigError(f"Snapshot {name!r} has a PM and nothing to pick from; say of how many (--best-of K).")
    if kind != "policy":
        raise ConfigError(f"Snapshot {name!r} is a preference model; only a policy's replies are picked from.")
    if preference_model.kind != "preference_model":
        raise ConfigError(f"{preference_model.name!r} is a policy and cannot pick; name a preference model.")


def model_path(workspace: Workspace, snapshot: Snapshot) -> str:
    """Where a snapshot's model is: a folder of the workspace, or a hub id."""
    below = workspace.path / snapshot.path
    return str(below) if below.is_dir() else snapshot.path


def export_model(workspace: Workspace, snapshot: Snapshot, folder: Path) -> Path:
    """Writes a snapshot's model as a plain Hugging Face folder, an adapter merged into its base.

    Errors:
        ConfigError: there is something at `folder` already.
        ModelError: the model cannot be loaded.
    """
    from prefloop.models.language import load_language_model, save_model
    from prefloop.models.preference import PreferenceModel

    if folder.exists():
        raise ConfigError(f"{folder} exists already; give a folder that does not.")
    path = model_path(workspace, snapshot)
    if snapshot.kind == "preference_model":
        return PreferenceModel.load(path).save(folder)
    model, renderer = load_language_model(path)
    return save_model(model, renderer.tokenizer, folder)


def content_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of a model folder's files."""
    whole = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and not file.name.startswith(".") and file.suffix not in _NOT_THE_MODEL:
            whole.update(f"{file.relative_to(folder).as_posix()}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as opened:
                whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def _copied(source: Path, target: Path, root: Path) -> Path:
    """The folder below the workspace, relative to it; copied under a temporary name first."""
    if not target.is_dir():
        temporary = target.with_name(f".copying-{target.name}-{os.getpid()}")
        shutil.copytree(source, temporary)
        os.replace(temporary, target)
    return target.relative_to(root)
