"""`snapshots.json`: the list of snapshots that the model server serves. Knows files, no models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from prefloop.errors import DataError, ModelError
from prefloop.schema import Snapshot

__all__ = ["model_path", "read_manifest", "write_manifest"]

_SNAPSHOTS = TypeAdapter(list[Snapshot])


def read_manifest(file: Path) -> list[Snapshot]:
    """The snapshots of a manifest that are not retired.

    Errors:
        DataError: no such file, no list of snapshots in it, or one name twice; names the file and the field.
    """
    try:
        snapshots = _SNAPSHOTS.validate_json(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{file} does not exist; give the path of a manifest (a JSON list of snapshots).") from None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}.") from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"]) or "the file"
        message = fault["msg"][0].lower() + fault["msg"][1:]
        raise DataError(f"{file} is not a manifest: {place} is wrong: {message}.") from None
    served = [snapshot for snapshot in snapshots if snapshot.state != "retired"]
    names: set[str] = set()
    for snapshot in served:
        if snapshot.name in names:
            raise DataError(f"{file} names {snapshot.name!r} twice; a served name means one snapshot.")
        names.add(snapshot.name)
    return served


def write_manifest(file: Path, snapshots: Iterable[Snapshot]) -> Path:
    """Writes a manifest whole or not at all."""
    temporary = file.with_name(f".writing-{file.name}")
    text = json.dumps([snapshot.model_dump(mode="json") for snapshot in snapshots], indent=1, ensure_ascii=False)
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(text + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    return file


def model_path(manifest: Path, snapshot: Snapshot) -> str:
    """Where a snapshot's weights are: a folder, relative to the manifest's, or else a hub id.

    Errors:
        ModelError: the path looks like a folder and is none.
    """
    folder = manifest.resolve().parent / Path(snapshot.path).expanduser()
    if folder.is_dir():
        return str(folder)
    # What may be a hub id: NAME, or OWNER/NAME where OWNER is no folder here.
    owner, _, name = snapshot.path.rpartition("/")
    is_hub_id = name and "/" not in owner and not snapshot.path.startswith((".", "~", "/"))
    if not is_hub_id or (owner and folder.parent.is_dir()):
        raise ModelError(
            f"Snapshot {snapshot.name!r} has no model at {folder}; put the folder back or retire the snapshot."
        )
    return snapshot.path
