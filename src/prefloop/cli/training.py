"""`prefloop train lm|distill|preference|policy RUN.toml`, `prefloop prompts generate RUN.toml`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from prefloop.cli.output import Command, emit, json_option, workspace_option
from prefloop.workspace import Workspace


@click.group()
def train() -> None:
    """Train a language model, a preference model or a policy as RUN.toml says."""


def _run_options(command: Command) -> Command:
    options: list[Callable[[Any], Any]] = [
        click.argument("run", type=click.Path(path_type=Path, dir_okay=False)),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of the file."),
        click.option("--resume", is_flag=True, help="Go on from the run's last checkpoint."),
        click.option("--dry-run", is_flag=True, help="Print the resolved settings and stop; writes nothing."),
        workspace_option,
        json_option,
    ]
    for option in reversed(options):
        command = option(command)
    return command


@train.command()
@_run_options
def lm(run: Path, overrides: tuple[str, ...], resume: bool, dry_run: bool, workspace_path: Path, as_json: bool) -> None:
    """A language model on the workspace's conversations, or on the tiny world's."""
    from prefloop.loop.runs import resolved_language_run, run_language_model
    from prefloop.train.lm import LanguageRun

    settings = LanguageRun.load([run], overrides)
    if dry_run:
        emit(resolved_language_run(Workspace(workspace_path), settings), as_json)
    else:
        emit(run_language_model(Workspace(workspace_path), settings, resume=resume), as_json)


@train.command()
@_run_options
def distill(
    run: Path, overrides: tuple[str, ...], resume: bool, dry_run: bool, workspace_path: Path, as_json: bool
) -> None:
    """A model that answers without an example prompt as its teacher does with it."""
    from prefloop.loop.distillation import resolved_distillation, run_distillation
    from prefloop.train.distill import DistillRun

    settings = DistillRun.load([run], overrides)
    if dry_run:
        emit(resolved_distillation(Workspace(workspace_path), settings), as_json)
    else:
        emit(run_distillation(Workspace(workspace_path), settings, resume=resume), as_json)


@train.command()
@_run_options
def preference(
    run: Path, overrides: tuple[str, ...], resume: bool, dry_run: bool, workspace_path: Path, as_json: bool
) -> None:
    """A preference model on the workspace's judgments, or PM pre-training on ranked answers or contrast pairs.

    With --dry-run also steps, tokens, and the memory and time that the run will take here, from a few steps of it.
    """
    from prefloop.loop.runs import estimate_preference_run, run_preference
    from prefloop.train.preference_settings import PreferenceRun

    settings = PreferenceRun.load([run], overrides)
    if dry_run:
        emit(estimate_preference_run(Workspace(workspace_path), settings), as_json)
    else:
        emit(run_preference(Workspace(workspace_path), settings, resume=resume), as_json)


@train.command()
@_run_options
def policy(
    run: Path, overrides: tuple[str, ...], resume: bool, dry_run: bool, workspace_path: Path, as_json: bool
) -> None:
    """A policy with PPO against one preference model, watched by another.

    With --dry-run also the memory and time that the run will take here, from two batches of it, and what to change
    where it does not fit. Several processes share a run under `torchrun`.
    """
    from prefloop.loop.runs import estimate_policy_run, run_policy
    from prefloop.train.policy_settings import PolicyRun

    settings = PolicyRun.load([run], overrides)
    if dry_run:
        emit(estimate_policy_run(Workspace(workspace_path), settings), as_json)
    else:
        emit(run_policy(Workspace(workspace_path), settings, resume=resume), as_json)


@click.group()
def prompts() -> None:
    """Prompts for training policies."""


@prompts.command()
@click.argument("run", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting of the file.")
@workspace_option
@json_option
def generate(run: Path, overrides: tuple[str, ...], workspace_path: Path, as_json: bool) -> None:
    """More prompts from a language model that reads a few of people's; filtered, the dropped ones counted."""
    from prefloop.loop.prompts import run_prompts
    from prefloop.train.prompts import PromptsRun

    emit(run_prompts(Workspace(workspace_path), PromptsRun.load([run], overrides)), as_json)


COMMANDS = (train, prompts)
