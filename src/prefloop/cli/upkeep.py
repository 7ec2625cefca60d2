"""`prefloop backup`, `restore` and `payments`: what keeps a collection safe and its people paid."""

from __future__ import annotations

from pathlib import Path

import click

from prefloop.cli.output import emit, json_option, workspace_option
from prefloop.workspace import Workspace


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@workspace_option
@json_option
def backup(file: Path, workspace_path: Path, as_json: bool) -> None:
    """Write a consistent copy of the database to FILE, also while the page is being served."""
    from prefloop.store.backups import backup as write

    emit({"backup": str(file), "bytes": write(Workspace(workspace_path).database_url, file)}, as_json)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@workspace_option
@json_option
def restore(file: Path, workspace_path: Path, as_json: bool) -> None:
    """Make the workspace's database out of the backup FILE; refused where there is one already."""
    from prefloop.store.backups import restore as read

    workspace = Workspace(workspace_path)
    read(file, workspace.database_url)
    with workspace.store() as store:
        emit({"restored": str(file), "studies": len(store.studies()), "workers": len(store.workers())}, as_json)


@click.command()
@click.argument("study")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--overwrite", is_flag=True, help="Replace FILE if there is one.")
@workspace_option
@json_option
def payments(study: str, file: Path, overwrite: bool, workspace_path: Path, as_json: bool) -> None:
    """Write the payment list of STUDY to FILE (CSV): time, tasks, credited time, bonuses, sums paid."""
    from prefloop.errors import ConfigError
    from prefloop.store.study_settings import find_study
    from prefloop.web import payment_csv

    if file.exists() and not overwrite:
        raise ConfigError(f"{file} exists already; name another file, or replace it with --overwrite.")
    with Workspace(workspace_path).store() as store:
        earnings = store.earnings(find_study(store, study).id)
    file.write_text(payment_csv(earnings), encoding="utf-8", newline="")
    emit({"payments": str(file), "workers": len(earnings)}, as_json)


COMMANDS = (backup, restore, payments)
