"""The snapshot registry: models by content hash below `snapshots/`, and which of them are deployed.

A snapshot's hash covers the files of its model, its example prompt, its sampling settings and best-of-k. Knows files
and the store; loads no model.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from prefloop.config import NAME
from prefloop.errors import ConfigError, ModelError
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
    preference_model_id: str | None = None,
    parent_id: str | None = None,
    run_id: str | None = None,
) -> Snapshot:
    """Copies a model folder into the workspace under its hash and keeps it as a snapshot; a hub id stays a hub id.

    The same content under the same name gives the snapshot that is there already.

    Errors:
        ConfigError: a name that cannot be part of a file name.
        ModelError: the folder is no model; the name belongs to another content already.
    """
    if not re.fullmatch(NAME, name):
        raise ConfigError(
            f"{name!r} cannot name a snapshot; use up to 80 letters, digits, dots, dashes and underscores, the first a "
            "letter or digit."
        )
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
        "preference_model": preference_model_id,
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
            "preference_model_id": preference_model_id,
        }
    )
    store.add_snapshot(snapshot)
    return snapshot


def model_path(workspace: Workspace, snapshot: Snapshot) -> str:
    """Where a snapshot's model is: a folder of the workspace, or a hub id."""
    below = workspace.path / snapshot.path
    return str(below) if below.is_dir() else snapshot.path


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
