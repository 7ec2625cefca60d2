"""`prefloop serve` and `prefloop model-server`."""

from __future__ import annotations

from pathlib import Path

import click

from prefloop.cli.output import emit, json_option, note, workspace_option
from prefloop.schema import Mode
from prefloop.workspace import Workspace


@click.command()
@click.option("--host", help="Address to listen on. Default: the setting serve.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Port of the page; 0 takes any free one.")
@click.option(
    "--study", metavar="NAME", help="Open a study of this name over the deployed snapshots, if there is none."
)
@click.option("--mode", type=click.Choice([mode.value for mode in Mode]), default="helpful", help="Of a new study.")
@click.option("--child", is_flag=True, hidden=True, help="End when standard input ends.")
@workspace_option
@json_option
def serve(
    host: str | None, port: int | None, study: str | None, mode: str, child: bool, workspace_path: Path, as_json: bool
) -> None:
    """Serve the page and the model server until interrupted."""
    from prefloop.engine import end_with_parent
    from prefloop.loop.serving import invitation, open_study
    from prefloop.loop.serving import serve as serve_workspace
    from prefloop.web import setup_link

    if child:
        end_with_parent()
    workspace = Workspace(workspace_path)
    settings = workspace.settings.serve
    with workspace.store() as store:
        if study is not None:
            open_study(store, study, Mode(mode))

        def ready(url: str) -> None:
            if as_json:
                emit({"url": url}, as_json)
                return
            if store.has_owner():
                emit({"page": url, "researchers": f"{url}/researcher"}, as_json)
            else:
                emit({"page": url, "make the owner's account (good once)": setup_link(store, url)}, as_json)
            for known in store.studies():
                if known.state == "open":
                    emit({f"invitation to {known.name}": invitation(store, url, known)}, as_json)
            note("Stop with Ctrl-C.")

        serve_workspace(
            workspace, store, host=host or settings.host, port=settings.port if port is None else port, on_ready=ready
        )


@click.command("model-server")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8500, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a forward pass.")
@click.option(
    "--weights-folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A PPO run elsewhere may load weights from below it and sample from them.",
)
@workspace_option
def model_server(host: str, port: int, threads: int | None, weights_folder: Path | None, workspace_path: Path) -> None:
    """Serve the deployed snapshots to any OpenAI client, and PM scores."""
    from prefloop.engine import serve as serve_models
    from prefloop.loop.serving import publish

    workspace = Workspace(workspace_path)
    with workspace.store() as store:
        manifest = publish(workspace, store)
    serve_models(manifest, host=host, port=port, threads=threads, weights_folder=weights_folder)


COMMANDS = (serve, model_server)
