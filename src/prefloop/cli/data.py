"""Commands on a workspace and its data: init, import, export, quality, snapshots, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from prefloop.cli.output import device_option, emit, json_option, note, workspace_option
from prefloop.errors import ConfigError, GateError, NotFoundError
from prefloop.schema import Mode, Snapshot, Tranche
from prefloop.workspace import Workspace

if TYPE_CHECKING:
    from prefloop.store import Store

_FORMATS = ("hh-rlhf", "trl", "jsonl", "parquet")
mode_option = click.option("--mode", type=click.Choice([mode.value for mode in Mode]), help="helpful or red_team.")
tranche_option = click.option(
    "--tranche", type=click.Choice([tranche.value for tranche in Tranche]), help="Kind of the deployed model."
)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--model", help="Base model: a Hugging Face folder or hub id. Default: the built-in tiny model.")
@json_option
def init(folder: Path, model: str | None, as_json: bool) -> None:
    """Make a workspace in FOLDER with its base model as the first snapshot."""
    from prefloop.loop.round import create_workspace

    workspace, base = create_workspace(folder, model)
    emit({"workspace": str(workspace.path), "snapshot": base.name, "hash": base.hash}, as_json)


@click.command("import")
@click.argument("format", type=click.Choice(_FORMATS))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--tranche", type=click.Choice([t.value for t in Tranche]), default="base", show_default=True)
@click.option("--mode", type=click.Choice([m.value for m in Mode]), default="helpful", show_default=True)
@workspace_option
@json_option
def import_(format: str, files: tuple[Path, ...], tranche: str, mode: str, workspace_path: Path, as_json: bool) -> None:
    """Take judged comparisons in from FILES. A file with a broken line is refused whole."""
    from prefloop.store.formats import import_file

    workspace = Workspace(workspace_path)
    imported: dict[str, Any] = {}
    with workspace.store() as store:
        for file in files:
            report = import_file(store, format, data_file(workspace, file), tranche, mode)
            imported[str(file)] = report.model_dump()
            note(f"{file}: {report.imported} imported")  # what a broken file behind it cannot take back
    emit(imported, as_json)


@click.command()
@click.argument("format", type=click.Choice(_FORMATS))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@mode_option
@tranche_option
@click.option("--keep-weakest", is_flag=True, help="Keep judgments of grade 4 and 5, which training leaves out.")
@click.option("--overwrite", is_flag=True, help="Replace FILE if there is one.")
@workspace_option
@json_option
def export(
    format: str,
    file: Path,
    mode: str | None,
    tranche: str | None,
    keep_weakest: bool,
    overwrite: bool,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """Write judged comparisons to FILE (gzipped where its name ends in .gz)."""
    from prefloop.store.formats import export_file

    if file.exists() and not overwrite:
        raise ConfigError(f"{file} exists already; name another file, or replace it with --overwrite.")
    with Workspace(workspace_path).store() as store:
        report = export_file(store, format, file, mode, tranche, drop_weakest=not keep_weakest)
    emit({"file": str(file), **report.model_dump()}, as_json)


@click.command()
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the report as a page too.")
@mode_option
@tranche_option
@click.option("--study", "study_name", metavar="NAME", help="Only what belongs to this study (name or id).")
@click.option("--pm", metavar="SNAPSHOT", help="First let this preference model score what it has not scored yet.")
@device_option
@click.option(
    "--worker-weights",
    "weights_file",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the workers' weights as JSON, for a run's worker_weights.",
)
@workspace_option
@json_option
def quality(
    html: Path | None,
    mode: str | None,
    tranche: str | None,
    study_name: str | None,
    pm: str | None,
    device: str,
    weights_file: Path | None,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """Report what the judgments are worth: counts, agreement, biases, duplicates, workers.

    Exit code 1 where the workspace's settings make a gate of it (quality.gate) and it says no.
    """
    from prefloop.quality import quality_report, summary, worker_weights, write_html
    from prefloop.runs import write_json

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        part: dict[str, Any] = {"mode": Mode(mode) if mode else None, "tranche": Tranche(tranche) if tranche else None}
        if study_name is not None:
            part["study_id"] = _study_id(store, study_name)
        if pm is not None:
            from prefloop.loop.scoring import score_comparisons

            note(f"{score_comparisons(workspace, store, pm, device)} replies scored by {pm}")
        report = quality_report(store, **part, limits=workspace.settings.quality, processes=2)
    if html is not None:
        write_html(report, html)
        note(f"Wrote {html}")
    if weights_file is not None:
        weights = worker_weights(report)
        write_json(weights_file, weights)
        note(f"Wrote {weights_file}: {len(weights)} weights")
    if as_json:
        emit(report.model_dump(mode="json"), as_json)
    else:
        click.echo(summary(report))
    if report.gate:
        raise GateError(f"The gate of the settings (quality.gate) is closed. {' '.join(report.gate)}")


def _study_id(store: Store, name: str) -> str:
    studies = store.studies()
    for study in studies:
        if name in (study.id, study.name):
            return study.id
    known = ", ".join(study.name for study in studies) or "none"
    raise NotFoundError(f"There is no study {name!r} (there are: {known}); check the name.")


@click.group()
def snapshots() -> None:
    """The models of a workspace: list, add, deploy, retire."""


@snapshots.command("list")
@workspace_option
@json_option
def list_snapshots(workspace_path: Path, as_json: bool) -> None:
    """All snapshots."""
    with Workspace(workspace_path).store() as store:
        rows = [_row(snapshot) for snapshot in store.snapshots()]
    emit({row["name"]: row for row in rows} if not as_json else {"snapshots": rows}, as_json)


@snapshots.command("export")
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
@workspace_option
@json_option
def export_snapshot(name: str, folder: Path, workspace_path: Path, as_json: bool) -> None:
    """Write the model of snapshot NAME to FOLDER as a plain Hugging Face folder; an adapter is merged into its base."""
    from prefloop.loop.snapshots import export_model

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        emit({"snapshot": name, "model": str(export_model(workspace, store.snapshot(name), folder))}, as_json)


@snapshots.command("add")
@click.argument("name")
@click.argument("model")
@click.option("--kind", type=click.Choice(["policy", "preference_model"]), default="policy", show_default=True)
@click.option("--best-of", type=click.IntRange(1), default=1, help="Sample so many replies and show the best by --pm.")
@click.option("--pm", "picker", metavar="SNAPSHOT", help="The preference model that picks.")
@click.option(
    "--prompt", metavar="FILE", help="Example dialogues before every conversation: JSON, a list of {role, text}."
)
@click.option("--temperature", type=click.FloatRange(0.0, 10.0), help="Of its replies. Default: 1.")
@click.option("--max-response-tokens", type=click.IntRange(1), help="Where its replies are cut off. Default: 128.")
@workspace_option
@json_option
def add_snapshot(
    name: str,
    model: str,
    kind: str,
    best_of: int,
    picker: str | None,
    prompt: str | None,
    temperature: float | None,
    max_response_tokens: int | None,
    workspace_path: Path,
    as_json: bool,
) -> None:
    """Keep MODEL (a Hugging Face folder, a hub id or a snapshot) as a snapshot called NAME.

    MODEL may be a snapshot that is there: `prefloop snapshots add best16 base --best-of 16 --pm my_pm` makes an
    assistant of the same weights that shows the best of 16 replies, complete.
    """
    from prefloop.loop.snapshots import add

    workspace = Workspace(workspace_path)
    given = {"temperature": temperature, "max_response_tokens": max_response_tokens}
    with workspace.store() as store:
        snapshot = add(
            workspace,
            store,
            name,
            model,
            kind=kind,
            best_of_k=best_of,
            picker=picker,
            prompt=prompt,
            sampling={key: value for key, value in given.items() if value is not None},
        )
    emit(_row(snapshot), as_json)


def _state_command(name: str, state: str, help: str) -> None:
    @snapshots.command(name, help=help)
    @click.argument("snapshot")
    @workspace_option
    @json_option
    def change(snapshot: str, workspace_path: Path, as_json: bool) -> None:
        from prefloop.loop.serving import publish

        workspace = Workspace(workspace_path)
        with workspace.store() as store:
            found = store.snapshot(snapshot)
            store.set_snapshot_state(found.id, state)  # type: ignore[arg-type]
            publish(workspace, store)
            emit(_row(store.snapshot(found.id)), as_json)


_state_command("deploy", "deployed", "Serve SNAPSHOT (name or id), beside those that are deployed already.")
_state_command("retire", "retired", "Serve SNAPSHOT (name or id) no longer; it stays in the workspace.")


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Tell what this machine can do, and what is missing."""
    from prefloop.loop.doctor import examine

    found = examine()
    emit(found, as_json)
    if found["missing"]:
        raise GateError(f"Missing: {', '.join(found['missing'])}.")


def _row(snapshot: Snapshot) -> dict[str, Any]:
    kept = ["id", "name", "kind", "state", "hash", "path", "created_at"]
    kept += ["best_of_k", "preference_model_id"] if snapshot.best_of_k > 1 else []
    row = {key: value for key, value in snapshot.model_dump(mode="json").items() if key in kept}
    return row | ({"prompt_turns": len(snapshot.prompt)} if snapshot.prompt else {})


def data_file(workspace: Workspace, file: Path) -> Path:
    """A path as given, or below data.root."""
    if file.exists() or file.is_absolute() or workspace.data_root is None:
        return file
    below = workspace.data_root / file
    if not below.exists():
        raise NotFoundError(f"There is no {file} here nor below data.root ({workspace.data_root}); check the path.")
    return below


COMMANDS = (init, import_, export, quality, snapshots, doctor)
