"""`prefloop study ...`: studies from TOML files, and what they show around their chat tasks."""

from __future__ import annotations

from pathlib import Path

import click

from prefloop.cli.output import emit, json_option, workspace_option
from prefloop.schema import ComparisonState
from prefloop.workspace import Workspace

set_option = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting.")


@click.group()
def study() -> None:
    """Collection tasks: add, list, phases."""


@study.command()
@click.argument("settings", required=False, type=click.Path(path_type=Path, dir_okay=False))
@set_option
@workspace_option
@json_option
def add(settings: Path | None, overrides: tuple[str, ...], workspace_path: Path, as_json: bool) -> None:
    """Begin a study with SETTINGS (a TOML file), or with --set name=... alone."""
    from prefloop.store.study_settings import add_study
    from prefloop.study import StudySettings

    wanted = StudySettings.load([settings] if settings else [], overrides)
    with Workspace(workspace_path).store() as store:
        begun = add_study(store, wanted)
        emit({"study": begun.name, "id": begun.id, "phases": wanted.phases.digest()}, as_json)


@study.command("list")
@workspace_option
@json_option
def list_(workspace_path: Path, as_json: bool) -> None:
    """All studies and how far they are."""
    with Workspace(workspace_path).store() as store:
        rows = {}
        for known in store.studies():
            progress = store.progress(known.id)
            rows[known.id] = {
                "name": known.name,
                "mode": known.mode.value,
                "state": known.state,
                "judged": progress.comparisons[ComparisonState.JUDGED],
                "target": known.target_comparisons,
                "workers": progress.workers,
            }
        emit(rows, as_json)


@study.command()
@click.argument("name")
@click.argument("settings", required=False, type=click.Path(path_type=Path, dir_okay=False))
@set_option
@workspace_option
@json_option
def phases(name: str, settings: Path | None, overrides: tuple[str, ...], workspace_path: Path, as_json: bool) -> None:
    """Show what study NAME shows around its chat tasks, or set it from SETTINGS (a TOML file) and --set.

    A file replaces all phases; --set alone changes the present ones. A running study takes them at once; a changed
    text needs a new version, and people are then asked again.
    """
    from prefloop.store.study_settings import find_study
    from prefloop.study import StudyPhases

    with Workspace(workspace_path).store() as store:
        found = find_study(store, name)
        current = store.study_phases(found.id)
        if settings or overrides:
            files = [settings] if settings else []
            below = None if settings else current
            current = store.set_study_phases(found.id, StudyPhases.load(files, overrides, below=below))
        emit(current.model_dump(mode="json"), as_json)


@study.command()
@click.argument("name")
@workspace_option
@json_option
def care(name: str, workspace_path: Path, as_json: bool) -> None:
    """How the people of study NAME fare, as a whole: reading, breaks, skips, feelings. Nothing about one person."""
    from prefloop.stats import clustered_mean, wilson
    from prefloop.store.care import FEWEST_PEOPLE
    from prefloop.store.study_settings import find_study

    with Workspace(workspace_path).store() as store:
        counts = store.care_counts(find_study(store, name).id)
    facts = counts.model_dump(mode="json", exclude={"feelings"})
    if counts.feelings is None:
        facts["feelings"] = f"Told once {FEWEST_PEOPLE} people were asked."
    else:
        told = {}
        for question, points in counts.feelings.items():
            silent, total = points.get(0, 0), sum(points.values())
            given = [float(point) for point, times in points.items() if point for _ in range(times)]
            mean = clustered_mean(given) if given else None
            told[question] = {
                "mean_of_1_to_5": mean.model_dump(mode="json") if mean else "Nobody said.",
                "rather_not_say": wilson(silent, total).model_dump(mode="json"),
            }
        facts["feelings"] = told
    emit(facts, as_json)


COMMANDS = (study,)
