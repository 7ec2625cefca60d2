"""What the name of a policy stands for: a snapshot as people meet it, or a folder's weights alone.

Responsible for finding it, for loading it so that it answers as it is shown, and for refusing a snapshot that is more
than weights where weights are all that can be used. Knows no evaluation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefloop.errors import ConfigError, ModelError
from prefloop.loop.snapshots import model_path
from prefloop.models.devices import device_named
from prefloop.models.language import load_language_model, window_tokens
from prefloop.models.preference import PreferenceModel
from prefloop.models.reading import ReplyReader
from prefloop.models.snapshot_sampling import SnapshotSampler
from prefloop.render import Renderer
from prefloop.sandbox.tiny import SHIPPED, tiny_model
from prefloop.schema import Message, SamplingSettings, Snapshot
from prefloop.store import Store
from prefloop.workspace import Workspace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Assistant:
    """A loaded policy, and the PM that picks where it shows the best of several replies."""

    snapshot: Snapshot
    model: Any
    renderer: Renderer
    picker: PreferenceModel | None
    picker_name: str

    @property
    def shown(self) -> str:
        """What its replies are besides those of its weights; empty where they are nothing else."""
        return ", ".join([*extras(self.snapshot, self.picker_name), *_settings(self.snapshot.sampling)])

    @property
    def is_plain(self) -> bool:
        """Its weights alone say how likely each reply is."""
        sampling = self.snapshot.sampling
        settings = (sampling.temperature, sampling.top_p, sampling.top_k)
        return not extras(self.snapshot) and settings == (1.0, 1.0, 0)

    def room_tokens(self, max_response_tokens: int) -> int:
        """What the window leaves for a context."""
        return window_tokens(self.model) - max_response_tokens

    def sampler(self, contexts: Sequence[Sequence[Message]], room_tokens: int) -> SnapshotSampler:
        """A `Sampler` of what it shows in answer to these contexts, which are asked in at most `room_tokens` each."""
        picker = None if self.picker is None else ReplyReader(self.picker)
        return SnapshotSampler(self.model, self.renderer, self.snapshot, contexts, room_tokens, picker)


def load_assistant(workspace: Workspace, store: Store, name: str, device: str = "auto") -> Assistant:
    """The policy of a folder, a snapshot's name or a name that ships, on a device (as `device_named` has it).

    Errors:
        ModelError: none of them, or it cannot be loaded.
    """
    place = device_named(device)
    snapshot = named_snapshot(workspace, store, Path(name))
    weights = load_language_model(snapshot.path).to(place)
    if snapshot.preference_model_id is None:
        return Assistant(snapshot, *weights, None, "")
    chooser = store.snapshot(snapshot.preference_model_id)
    return Assistant(snapshot, *weights, PreferenceModel.load(model_path(workspace, chooser)).to(place), chooser.name)


def named_snapshot(workspace: Workspace | None, store: Store | None, path: Path) -> Snapshot:
    """A model folder (under plain settings); where there is none at `path`, the snapshot of that name, or a model that
    ships. Its own `path` is where the weights are. Without a workspace there are no snapshots.

    Errors:
        ModelError: none of them.
    """
    if path.is_dir():
        return Snapshot(name=str(path), hash="", path=str(path))
    name = path.name
    known = {} if store is None else {snapshot.name: snapshot for snapshot in store.snapshots()}
    if workspace is not None and name in known:
        return known[name].model_copy(update={"path": model_path(workspace, known[name])})
    if name in SHIPPED:
        return Snapshot(name=name, hash="", path=str(tiny_model(name)))
    names = ", ".join(known) or "none"
    raise ModelError(f"{path} is no model folder and {name!r} is no snapshot (there are: {names}); check the name.")


def resolve_model(workspace: Workspace | None, store: Store | None, path: Path) -> Path:
    """The weights of `named_snapshot`, for what takes weights alone: training, and whatever a PM is named for.

    Errors:
        ModelError: there is no such model.
        ConfigError: a snapshot whose replies are more than those of its weights.
    """
    snapshot = named_snapshot(workspace, store, path)
    if more := extras(snapshot):
        others = [] if store is None else store.snapshots()
        made_of = next((one.name for one in others if one.id == snapshot.parent_id), snapshot.path)
        raise ConfigError(
            f"The snapshot {snapshot.name!r} is more than a model (its replies are {' and '.join(more)}), and here "
            f"weights alone can be used; name what it was made of: {made_of!r}."
        )
    return Path(snapshot.path)


def extras(snapshot: Snapshot, picker: str = "") -> list[str]:
    """What stands between the snapshot's weights and its replies, apart from sampling settings."""
    found = []
    if snapshot.best_of_k > 1:
        found.append(f"the best of {snapshot.best_of_k}" + (f" by {picker}" if picker else ""))
    if snapshot.prompt:
        found.append(f"given after an example prompt of {len(snapshot.prompt)} turns")
    return found


def require_trainable(store: Store, snapshot: Snapshot) -> None:
    """Whether PPO may start from a snapshot that people judge: it trains the weights alone.

    The best of k replies is a policy's own, one of them picked, so training goes on from it and a warning says what
    goes; behind an example prompt the same weights are another assistant than the one that is trained.

    Errors:
        ConfigError: it answers after an example prompt.
    """
    if snapshot.prompt:
        bare = next((one.name for one in store.snapshots() if one.id == snapshot.parent_id and not one.prompt), None)
        raise ConfigError(
            f"The replies of {snapshot.name!r} are given after an example prompt of {len(snapshot.prompt)} turns, and "
            "PPO trains weights alone, which answer otherwise without it; distil it first (prefloop train distill) and "
            "start from that" + (f", or start from {bare!r}." if bare else ", or from a snapshot without one.")
        )
    if sentence := trained_alone(snapshot):
        _log.warning(sentence)


def trained_alone(snapshot: Snapshot) -> str:
    """What training on from a snapshot leaves behind; empty where it is nothing but its weights."""
    if not (more := extras(snapshot)):
        return ""
    return (
        f"People judge replies of {snapshot.name!r} that are {' and '.join(more)}; PPO trains its weights alone, and "
        "the new snapshot shows one plain reply of them."
    )


def _settings(sampling: SamplingSettings) -> list[str]:
    """The settings that are not the defaults, as words of one list."""
    plain = SamplingSettings()
    other = [
        f"{name.replace('_', ' ')} {value:g}" if isinstance(value, (int, float)) else f"{name} {list(value)}"
        for name, value in sampling
        if value != getattr(plain, name)
    ]
    return [f"drawn at {', '.join(other)}"] if other else []
