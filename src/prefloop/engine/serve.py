"""Runs the model server in this process: takes the port, loads the models, says that it is ready, serves."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from pathlib import Path

import uvicorn

from prefloop.engine.app import create_model_server
from prefloop.engine.registry import Registry
from prefloop.errors import UnavailableError

__all__ = ["TOKEN_VARIABLE", "end_with_parent", "serve"]

TOKEN_VARIABLE = "PREFLOOP_ENGINE_TOKEN"
"""Environment variable of the admin token; an argument would show in the list of processes."""
_SHUTDOWN_SECONDS = 2


def serve(
    manifest: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    threads: int | None = None,
    device: str = "auto",
    max_rows: int = 128,
    admin_token: str | None = None,
    weights_folder: Path | None = None,
    is_child: bool = False,
) -> None:
    """Serves the snapshots of `manifest` until interrupted.

    One line on stdout says that the server is ready: {"host", "port", "pid"}.

    Args:
        port: 0 takes any free one.
        threads: CPU threads of a forward pass; None leaves the choice to torch.
        weights_folder: from below it a PPO run elsewhere may load the weights that it samples from.
        is_child: ends with the parent, when standard input ends.

    Errors:
        UnavailableError: the port is taken.
        DataError, ModelError: the manifest or a model of it is wrong.
    """
    if is_child:
        end_with_parent()
    listener = _listen(host, port)
    with listener:
        if threads is not None:
            import torch

            torch.set_num_threads(threads)
        registry = Registry(manifest, device=device, max_rows=max_rows)
        app = create_model_server(registry, admin_token or os.environ.get(TOKEN_VARIABLE), weights_folder)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            timeout_keep_alive=60,
        )
        print(json.dumps({"host": host, "port": listener.getsockname()[1], "pid": os.getpid()}), flush=True)
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads stdout from here on
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)  # taken from here on: who comes while the models load waits
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"The model server cannot listen on {host} port {port} ({error.strerror}); choose another port or stop "
            "what uses it."
        ) from None
    return listener


def end_with_parent() -> None:
    """Ends this process at once when standard input ends: a pipe of which the parent holds the other end."""

    def watch() -> None:
        # Below Python's buffers, whose lock a waiting thread would hold while the interpreter shuts down.
        while os.read(sys.stdin.fileno(), 1):
            pass
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
