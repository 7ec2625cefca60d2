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
    apart = {name: kept_apart(workspace, store, path) for name, path in preference_models.items()}
    less = {name: one for name, one in apart.items() if one is not None and one.share < HELD_OUT_SHARE}
    narrow = {name: split(wide, one.share).held_out for name, one in less.items()}
    usable = [part for part in narrow.values() if part]
    found = min(usable, key=len) if usable else wide
    notes = []
    for name, one in less.items():
        if narrow[name]:
            notes.append(
                f"{name} {one} and not {HELD_OUT_SHARE:g}, so of {len(wide):,} held-out comparisons "
                f"the {len(found):,} that it has not seen are taken."
            )
        else:
            notes.append(
                f"{name} {one}, so it may have seen all {len(found):,} comparisons that are taken "
                "here, and its scores and accuracies on them are too high; train one with held_out_share = "
                f"{HELD_OUT_SHARE:g}."
            )
    return HeldOut(found, tuple(notes))


class KeptApart(NamedTuple):
    """The least share of the workspace's conversations that a PM's run kept apart, or one that it started from."""

    share: float
    is_of_a_start: bool

    def __str__(self) -> str:
        did = "started from a model that was trained" if self.is_of_a_start else "was trained"
        return f"{did} with {self.share:g} of the conversations held out"


def kept_apart(workspace: Workspace, store: Store, path: Path) -> KeptApart | None:
    """What a PM has not learned from, nor what it started from; None where no run is known or all had other data."""
    found: list[KeptApart] = []
    seen: set[Path] = set()
    while path.resolve() not in seen and (folder := training_folder(path, workspace, store)) is not None:
        run = read_json(folder / "config.json")
        if "held_out_share" in run and not any(run.get(name) for name in _OTHER_DATA):
            found.append(KeptApart(float(run["held_out_share"]), is_of_a_start=bool(seen)))
        seen.add(path.resolve())
        path = Path(run.get("start", ""))
    return min(found, default=None)


def training_folder(path: Path, workspace: Workspace | None, store: Store | None) -> Path | None:
    """The run that trained a PM: around its model, or the one that its snapshot names; None: not known."""
    folders = [path.parent]
    if workspace is not None and store is not None:
        folders += [
            workspace.runs / snapshot.run_id
            for snapshot in store.snapshots(kind="preference_model")
            if snapshot.run_id and Path(model_path(workspace, snapshot)).resolve() == path.resolve()
        ]
    return next((folder for folder in folders if _trained_a_pm(folder)), None)


def _trained_a_pm(folder: Path) -> bool:
    files = ("config.json", "metrics.jsonl")
    return folder.name.startswith("preference-") and all((folder / name).is_file() for name in files)
