"""`prefloop demo`, `prefloop round ...`, `prefloop sandbox describe`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from prefloop.cli.output import SEEDS, emit, json_option, note, workspace_option
from prefloop.errors import NotFoundError
from prefloop.workspace import Workspace


@click.command()
@click.option("--no-serve", is_flag=True, help="Stop after the round instead of serving the page.")
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Draws all prompts, people and noise.")
@click.option(
    "--workspace",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to make. Default: prefloop-demo-SEED, numbered if it is finished already.",
)
@json_option
def demo(no_serve: bool, seed: int, folder: Path | None, as_json: bool) -> None:
    """One full round in a new workspace on the embedded defaults, then the page.

    A demo that was interrupted goes on where it was when the same command is given again.
    """
    from prefloop.loop.demo import demo_workspace, summary, table
    from prefloop.loop.round import run_round

    began = time.monotonic()
    workspace = demo_workspace(folder, seed)
    note(f"Workspace: {workspace.path}")
    with workspace.store() as store:
        finished = run_round(workspace, store, tell=note)
        result = summary(workspace, finished, time.monotonic() - began)
        if as_json:
            emit(result, as_json)
        else:
            click.echo(table(result))
        if not no_serve:
            from prefloop.loop.demo import serve_demo

            serve_demo(workspace, store, tell=note)


@click.group("round")
def round_() -> None:
    """One online iteration: start, status, resume, promote, rollback."""


@round_.command()
@click.argument("settings", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")
@click.option("--from", "start", metavar="SNAPSHOT", help="Start from this snapshot. Default: the newest deployed.")
@workspace_option
@json_option
def start(
    settings: Path | None, overrides: tuple[str, ...], start: str | None, workspace_path: Path, as_json: bool
) -> None:
    """Begin the next round with SETTINGS (a TOML file), and run it as far as it goes."""
    from prefloop.loop.round import run_round, start_round
    from prefloop.loop.settings import RoundSettings

    wanted = RoundSettings.load([settings] if settings else [], overrides)
    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        begun = start_round(store, wanted, start)
        note(f"Round {begun.number}")
        emit(_status(run_round(workspace, store, tell=note)), as_json)


@round_.command()
@workspace_option
@json_option
def resume(workspace_path: Path, as_json: bool) -> None:
    """Go on with the newest round where it stands."""
    from prefloop.loop.round import run_round

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        emit(_status(run_round(workspace, store, tell=note)), as_json)


@round_.command()
@workspace_option
@json_option
def status(workspace_path: Path, as_json: bool) -> None:
    """Where the newest round stands."""
    with Workspace(workspace_path).store() as store:
        current = store.round()
        if current is None:
            raise NotFoundError("There is no round here yet; begin one with: prefloop round start")
        emit(_status(current), as_json)


@round_.command()
@workspace_option
@json_option
def promote(workspace_path: Path, as_json: bool) -> None:
    """Serve the new snapshot alone."""
    from prefloop.loop.round import promote as promote_round

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        emit(_status(promote_round(workspace, store)), as_json)


@round_.command()
@workspace_option
@json_option
def rollback(workspace_path: Path, as_json: bool) -> None:
    """Serve the snapshot that the round started from alone again."""
    from prefloop.loop.round import roll_back

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        emit(_status(roll_back(workspace, store)), as_json)


@click.group()
def sandbox() -> None:
    """The tiny world."""


@sandbox.command()
@click.option("--seed", type=SEEDS, default=0, show_default=True)
@click.option("--pairs", type=click.IntRange(50), default=1000, show_default=True, help="Pairs to measure on.")
@json_option
def describe(seed: int, pairs: int, as_json: bool) -> None:
    """The tiny world, samples of it, and what is known about it."""
    from prefloop.loop.describe import describe_sandbox

    emit(describe_sandbox(seed, pairs), as_json)


def _status(current: Any) -> dict[str, Any]:
    facts = current.facts
    kept = ("start_id", "new_id", "elo", "pm", "policy", "report", "seconds", "alarms")
    return {
        "round": current.number,
        "step": current.step,
        "state": current.state,
        **{key: facts[key] for key in kept if key in facts},
    }


COMMANDS = (demo, round_, sandbox)
