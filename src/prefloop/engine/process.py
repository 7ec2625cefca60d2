"""The model server as a child process: start, wait, reload, restart, stop. Knows no models and needs no torch."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx

from prefloop.engine.serve import TOKEN_VARIABLE
from prefloop.errors import StateError, UnavailableError

__all__ = ["ModelServerProcess"]

_PASSIVE_WAITING = {"OMP_WAIT_POLICY": "passive"}
"""The server shares its cores with the page and with training: OpenMP threads that spin while they wait for each other
slow all of them down many times over where threads outnumber cores."""
_STOP_SECONDS = 5.0
_LAST_WORDS_BYTES = 2000


class ModelServerProcess:
    """A model server that lives as long as the `with` block, and never longer than this process.

    The child watches a pipe that this process holds, so it ends too when this process is killed.

    Args:
        manifest: JSON list of snapshots.
        port: 0 takes any free one; a restart keeps it.
        threads: CPU threads of a forward pass.
        device: auto, cpu, cuda ...
        weights_folder: from below it a PPO run elsewhere may load the weights that it samples from.
        log: file that the server's messages are added to; without one they are kept until the end.
        start_timeout_seconds: for loading the models.

    Errors:
        UnavailableError: from start and restart, with the server's own sentence: the port is taken, a model is
            missing, it did not start in time.
    """

    def __init__(
        self,
        manifest: Path,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        threads: int | None = None,
        device: str = "auto",
        max_rows: int = 128,
        weights_folder: Path | None = None,
        log: Path | None = None,
        start_timeout_seconds: float = 300.0,
    ) -> None:
        self.manifest, self.host, self.port = Path(manifest), host, port
        self._threads, self._device, self._max_rows = threads, device, max_rows
        self._weights_folder = weights_folder
        self._log = log
        self._start_timeout_seconds = start_timeout_seconds
        self._token = secrets.token_urlsafe(24)
        self._process: subprocess.Popen[bytes] | None = None
        self._messages: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def base_url(self) -> str:
        """Address for `OpenAIResponder` and `HttpScorer`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    @property
    def pid(self) -> int:
        """The child's process id.

        Errors:
            StateError: it has not been started.
        """
        return self._started().pid

    @property
    def is_running(self) -> bool:
        """Whether the child lives."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts the child and waits until it answers."""
        if self.is_running:
            return
        self.stop()
        self._messages = self._log.open("ab") if self._log is not None else tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            self._command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._messages,
            env=_PASSIVE_WAITING | os.environ | {TOKEN_VARIABLE: self._token},
        )
        try:
            self.port = self._ready_line(self._process)["port"]
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends the child, at first kindly, and frees its port."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        if self._messages is not None:
            self._messages.close()
            self._messages = None

    def restart(self) -> None:
        """Stops the child and starts it again at the same port, with the manifest as it is now."""
        self.stop()
        self.start()

    def reload(self) -> dict[str, list[str]]:
        """Lets the running server read its manifest again; returns the names {"added", "retired"}.

        Errors:
            UnavailableError: the server does not answer, or says no (a model is missing, say): it serves as before.
        """
        self._started()
        try:
            response = httpx.post(
                f"{self.base_url.removesuffix('/v1')}/admin/reload",
                headers={"Authorization": f"Bearer {self._token}"},
                timeout=self._start_timeout_seconds,
                trust_env=False,
            )
        except httpx.HTTPError as error:
            raise UnavailableError(f"The model server does not answer ({error}); start it again.") from None
        if response.status_code != 200:
            raise UnavailableError(f"The model server did not reload: {response.json()['error']['message']}")
        reloaded: dict[str, list[str]] = response.json()
        return reloaded

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise StateError("The model server has not been started; call start() or use it in a with block.")
        return self._process

    def _command(self) -> list[str]:
        command = [sys.executable, "-m", "prefloop.engine", "--child", "--manifest", str(self.manifest)]
        command += ["--host", self.host, "--port", str(self.port)]
        command += ["--device", self._device, "--max-rows", str(self._max_rows)]
        if self._threads is not None:
            command += ["--threads", str(self._threads)]
        if self._weights_folder is not None:
            command += ["--weights-folder", str(self._weights_folder)]
        return command

    def _ready_line(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        lines: list[bytes] = []
        assert process.stdout is not None
        reader = threading.Thread(target=lambda out: lines.append(out.readline()), args=(process.stdout,), daemon=True)
        reader.start()
        reader.join(self._start_timeout_seconds)
        if reader.is_alive():
            process.kill()
            reader.join()
            raise UnavailableError(
                f"The model server was not ready after {self._start_timeout_seconds:g} seconds; "
                "give it more time or a smaller model."
            )
        if not lines[0]:
            process.wait()
            raise UnavailableError(self._last_words(process.returncode))
        ready: dict[str, Any] = json.loads(lines[0])
        return ready

    def _last_words(self, code: int) -> str:
        """The last line that the child wrote: its own sentence where it knew what was wrong."""
        assert self._messages is not None
        with open(self._messages.name if self._log else os.dup(self._messages.fileno()), "rb") as messages:
            messages.seek(0, os.SEEK_END)
            messages.seek(max(0, messages.tell() - _LAST_WORDS_BYTES))
            lines = [line for line in messages.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else "no message"
        return last if code == 2 else f"The model server ended with exit code {code} while starting: {last}"
