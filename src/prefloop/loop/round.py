"""One online round, resumable at any step. Knows the order of things; the steps themselves stand in `steps`.

The store keeps a new version of the round after each step, with the facts that later steps need. A step that was
interrupted runs again and goes on where it was: collection counts what is judged already, training resumes from its
checkpoint, the rest is short.
"""

from __future__ import annotations

import time
from pathlib import Path

from prefloop.errors import ConfigError, NotFoundError, StateError
from prefloop.loop import steps
from prefloop.loop.assistants import require_trainable
from prefloop.loop.serving import publish
from prefloop.loop.settings import RoundSettings
from prefloop.loop.snapshots import register
from prefloop.loop.steps import Bench, Tell
from prefloop.models.language import check_model
from prefloop.sandbox.tiny import CHAT_MODEL, tiny_model
from prefloop.schema import Round, Snapshot
from prefloop.store import Store
from prefloop.workspace import Workspace

STEPS = (
    ("collect", steps.collect),
    ("quality", steps.quality),
    ("preference", steps.preference),
    ("policy", steps.policy),
    ("deploy", steps.deploy),
    ("compare", steps.compare),
    ("evaluate", steps.evaluate),
    ("report", steps.report),
)
"""In order: people judge the deployed snapshot; what the judgments are worth; two PMs on two halves; PPO against the
first, watched by the second; the new snapshot beside the old; both against each other on the page; the numbers; the
page that tells it all."""

BASE_NAME = "base"


def create_workspace(folder: Path, model: str | None = None, settings: str = "") -> tuple[Workspace, Snapshot]:
    """A new workspace whose base model (by default the built-in tiny one) is its first, deployed snapshot.

    Errors:
        ConfigError: the folder holds a workspace already.
        ModelError: there is no such model; nothing is left behind.
    """
    source = Path(model) if model is not None else tiny_model(CHAT_MODEL)
    if model is not None:
        check_model(model, is_preference_model=False)
    workspace = Workspace.create(folder, settings)
    try:
        with workspace.store() as store:
            base = register(workspace, store, BASE_NAME, source if source.is_dir() else str(model))
            store.set_snapshot_state(base.id, "deployed")
            publish(workspace, store)
            return workspace, store.snapshot(base.id)
    except BaseException:
        (workspace.path / "prefloop.toml").unlink()  # so that the next try finds no half-made workspace
        raise


def start_round(store: Store, settings: RoundSettings, start: str | None = None) -> Round:
    """Begins the next round from a deployed snapshot (by default the newest).

    Errors:
        StateError: the round before is still running.
        NotFoundError: nothing is deployed.
        ConfigError: `start` is no policy, or answers after an example prompt.
    """
    last = store.round()
    if last is not None and last.state == "running":
        raise StateError(f"Round {last.number} is still running; go on with: prefloop round resume")
    deployed = store.snapshots(kind="policy", state="deployed")
    if start is None and not deployed:
        raise NotFoundError("No snapshot is deployed; deploy one with: prefloop snapshots deploy NAME")
    snapshot = store.snapshot(start) if start is not None else deployed[-1]
    if snapshot.kind != "policy":
        raise ConfigError(
            f"{snapshot.name!r} is a preference model; a round starts from a policy, name one with --from."
        )
    require_trainable(store, snapshot)
    facts = {"settings": settings.model_dump(mode="json"), "start_id": snapshot.id, "seconds": {}}
    return store.save_round(Round(number=last.number + 1 if last else 1, facts=facts))


def run_round(workspace: Workspace, store: Store, *, tell: Tell) -> Round:
    """Runs the newest round from where it stands to its end.

    Errors:
        NotFoundError: there is no round.
        StateError: it waits for people.
    """
    current = store.round()
    if current is None:
        raise NotFoundError("There is no round here; begin one with: prefloop round start")
    settings = RoundSettings.load_values(current.facts["settings"])
    names = [name for name, _ in STEPS]
    first = 0 if current.step == "created" else names.index(current.step) + 1
    for index, (name, step) in enumerate(STEPS[first:], first + 1):
        tell(f"[{index}/{len(STEPS)}] {name}")
        began = time.monotonic()
        facts = step(Bench(workspace, store, settings, current, tell))
        seconds = current.facts["seconds"] | {name: round(time.monotonic() - began, 1)}
        current = store.save_round(
            current.model_copy(update={"step": name, "facts": current.facts | facts | {"seconds": seconds}})
        )
    if current.state == "running":
        current = store.save_round(current.model_copy(update={"state": "done"}))
    return current


def promote(workspace: Workspace, store: Store) -> Round:
    """The new snapshot alone is served from now on."""
    return _settle(workspace, store, "promoted", keep="new_id", drop="start_id")


def roll_back(workspace: Workspace, store: Store) -> Round:
    """The snapshot that the round started from is served alone again."""
    return _settle(workspace, store, "rolled_back", keep="start_id", drop="new_id")


def _settle(workspace: Workspace, store: Store, state: str, keep: str, drop: str) -> Round:
    current = store.round()
    if current is None:
        raise NotFoundError("There is no round here; begin one with: prefloop round start")
    if "new_id" not in current.facts:
        raise StateError("There is no round with a new snapshot yet; see: prefloop round status")
    if current.state == "running":
        raise StateError(f"Round {current.number} is still running; finish it with: prefloop round resume")
    if current.facts[keep] == current.facts[drop]:
        raise ConfigError(f"Round {current.number} ended with the snapshot that it began with; nothing to change.")
    store.set_snapshot_state(current.facts[keep], "deployed")
    store.set_snapshot_state(current.facts[drop], "retired")
    publish(workspace, store)
    return store.save_round(current.model_copy(update={"state": state}))
