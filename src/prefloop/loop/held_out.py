"""Comparisons that nobody trained on: neither policies nor the preference models (PMs) that are to judge them.

Responsible for finding out what a PM's own run kept apart. Knows no evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from prefloop.loop.data import split
from prefloop.loop.snapshots import model_path
from prefloop.runs import read_json
from prefloop.schema import HELD_OUT_SHARE, PreferencePair
from prefloop.store import Store
from prefloop.workspace import Workspace

_OTHER_DATA = ("ranked_files", "sandbox_contrasts", "sandbox_judgments")
"""Settings of a PM run that learned from something else than the workspace's comparisons."""


class HeldOut(NamedTuple):
    """`notes` say, with counts, where PMs kept less apart, and where nothing is left that one of them has not seen."""

    pairs: Sequence[PreferencePair]
    notes: tuple[str, ...]


def held_out(
    workspace: Workspace, store: Store, pairs: Sequence[PreferencePair], preference_models: Mapping[str, Path]
) -> HeldOut:
    """The held-out pairs that these PMs, by name and folder, have not learned from either.

    Where a PM learned from all of a kind that would be left, the pairs are those of the others, and a note says so.
    """
    wide = split(pairs, HELD_OUT_SHARE).held_out
    kept = {name: kept_share(workspace, store, path) for name, path in preference_models.items()}
    less = {name: share for name, share in kept.items() if share is not None and share < HELD_OUT_SHARE}
    narrow = {name: split(wide, share).held_out for name, share in less.items()}
    usable = [part for part in narrow.values() if part]
    found = min(usable, key=len) if usable else wide
    notes = []
    for name, share in less.items():
        if narrow[name]:
            notes.append(
                f"{name} was trained with {share:g} of the conversations held out and not {HELD_OUT_SHARE:g}, so of "
                f"{len(wide):,} held-out comparisons the {len(found):,} that it has not seen are taken."
            )
        else:
            notes.append(
                f"{name} was trained with {share:g} of the conversations held out, so it may have seen all "
                f"{len(found):,} comparisons that are taken here, and its scores and accuracies on them are too high; "
                f"train one with held_out_share = {HELD_OUT_SHARE:g}."
            )
    return HeldOut(found, tuple(notes))


def kept_share(workspace: Workspace, store: Store, path: Path) -> float | None:
    """The share of the workspace's conversations that the run of a PM kept apart; None where that is not known, or
    where it learned from other data.
    """
    folder = training_folder(path, workspace, store)
    settings = None if folder is None else folder / "config.json"
    if settings is None or not settings.is_file():
        return None
    run = read_json(settings)
    if any(run.get(name) for name in _OTHER_DATA) or "held_out_share" not in run:
        return None
    return float(run["held_out_share"])


def training_folder(path: Path, workspace: Workspace | None, store: Store | None) -> Path | None:
    """The run that trained a PM: around its model, or the one that its snapshot names."""
    folders = [path.parent]
    if workspace is not None and store is not None:
        folders += [
            workspace.runs / snapshot.run_id
            for snapshot in store.snapshots(kind="preference_model")
            if snapshot.run_id and Path(model_path(workspace, snapshot)).resolve() == path.resolve()
        ]
    return next((folder for folder in folders if (folder / "metrics.jsonl").is_file()), None)
