"""Serving a workspace: the page in this process, the model server as its child. Knows both; knows no training.

`publish` writes the manifest of what is deployed; a page that is being served sees the change and lets its model
server reload, so that snapshots come and go without a restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from prefloop.client import OpenAIResponder
from prefloop.engine.manifest import write_manifest
from prefloop.engine.process import ModelServerProcess
from prefloop.errors import NotFoundError, UnavailableError
from prefloop.schema import Mode, Snapshot, SnapshotShare, Study, Tranche
from prefloop.store import Store
from prefloop.workspace import Workspace

_WATCH_SECONDS = 2.0
_SWITCH_SECONDS = 0.0005
_START_SECONDS = 180.0
_STOP_SECONDS = 10.0


def manifest_of(workspace: Workspace) -> Path:
    """The list of what the model server serves; its paths are relative to the workspace."""
    return workspace.path / "snapshots.json"


def publish(workspace: Workspace, store: Store) -> Path:
    """Writes the manifest: every deployed snapshot, and the PMs that pick for them, deployed or not."""
    deployed = store.snapshots(state="deployed")
    listed = {snapshot.id for snapshot in deployed}
    pickers = {str(snapshot.preference_model_id) for snapshot in deployed if snapshot.best_of_k > 1} - listed
    needed = [store.snapshot(picker).model_copy(update={"state": "deployed"}) for picker in sorted(pickers)]
    return write_manifest(manifest_of(workspace), [*deployed, *needed])


def serve(
    workspace: Workspace, store: Store, *, host: str, port: int, on_ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serves the page (and, unless the settings name another, the model server) until interrupted.

    Errors:
        UnavailableError: the port is taken, or the model server does not start.
        NotFoundError: nothing is deployed.
    """
    import uvicorn

    from prefloop.web import create_app

    _deployed(store)
    listener = listen(host, port)
    url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    settings = workspace.settings
    with contextlib.ExitStack() as stack:
        stack.enter_context(listener)
        engine: ModelServerProcess | None = None
        model_server = settings.serve.model_server
        if not model_server:
            threads = max(1, (os.cpu_count() or 2) // 2)  # the page and the people's requests need the others
            engine = stack.enter_context(
                ModelServerProcess(
                    publish(workspace, store),
                    settings.serve.model_server_port,
                    threads=threads,
                    log=workspace.path / "model-server.log",
                )
            )
            model_server = engine.base_url
        responder = OpenAIResponder(model_server)
        app = create_app(settings, store, responder, quality_report=workspace.path / "quality.html")
        inner = app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def lifespan(application: Any) -> AsyncIterator[None]:
            async with inner(application):
                watch = asyncio.create_task(_watch(engine)) if engine is not None else None
                on_ready(url)
                yield
                if watch is not None:
                    watch.cancel()
                await responder.aclose()

        app.router.lifespan_context = lifespan
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=3, timeout_keep_alive=60
        )
        _without_long_pauses()
        uvicorn.Server(config).run(sockets=[listener])


@contextlib.contextmanager
def served(workspace: Workspace) -> Iterator[str]:
    """Serves the workspace in a child process, as `prefloop serve` does; gives the page's address.

    The child watches a pipe that this process holds, so it ends too when this process is killed.
    """
    log = workspace.path / "page.log"
    command = [
        sys.executable,
        "-m",
        "prefloop",
        "serve",
        "--workspace",
        str(workspace.path),
        "--port",
        "0",
        "--json",
        "--child",
    ]
    with log.open("ab") as messages:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, stdin=subprocess.PIPE)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                last = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-1]
                raise UnavailableError(f"The page did not start: {last or 'no message'}; see {log}.")
            yield str(json.loads(line)["url"])
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def open_study(store: Store, name: str, mode: Mode = Mode.HELPFUL) -> Study:
    """The study of that name; where there is none, a new one over the deployed snapshots.

    Errors:
        NotFoundError: nothing is deployed.
    """
    known = next((study for study in store.studies() if study.name == name), None)
    if known is not None:
        return known
    deployed = _deployed(store)
    study = Study(
        name=name,
        mode=mode,
        tranche=Tranche.REJECTION_SAMPLED if any(s.best_of_k > 1 for s in deployed) else Tranche.ONLINE,
        snapshots=tuple(SnapshotShare(snapshot_id=snapshot.id) for snapshot in deployed),
        compare="distinct" if len(deployed) > 1 else "any",
    )
    return store.add_study(study)


def invitation(store: Store, url: str, study: Study, uses: int | None = None) -> str:
    """A link by which people join a study."""
    return f"{url}/join/{store.add_invitation(study.id, 'worker', None, uses)}"


def listen(host: str, port: int) -> socket.socket:
    """Takes a port before anything is started.

    Errors:
        UnavailableError: it is taken, or the host is not ours.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"The page cannot listen on {host} port {port} ({error.strerror}); choose another with --port, or stop "
            "what uses it."
        ) from None
    return listener


def _without_long_pauses() -> None:
    """Python's own settings suit work that nobody waits for; here somebody waits for every first word.

    A thread of the store may keep the interpreter for half a millisecond, not five, while the event loop wants it; and
    the garbage collector leaves alone what was there before the first request, which is nearly all there is.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()


def _deployed(store: Store) -> list[Snapshot]:
    deployed = store.snapshots(kind="policy", state="deployed")
    if not deployed:
        raise NotFoundError("No snapshot is deployed; deploy one with: prefloop snapshots deploy NAME")
    return deployed


async def _watch(engine: ModelServerProcess) -> None:
    """Reloads the model server when the manifest changes."""
    seen = engine.manifest.stat().st_mtime_ns
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        changed = engine.manifest.stat().st_mtime_ns
        if changed != seen:
            seen = changed
            try:
                await asyncio.to_thread(engine.reload)
            except UnavailableError as error:
                print(f"prefloop: {error}", file=sys.stderr, flush=True)
