"""Run folders: resolved settings, provenance, metrics and the place of checkpoints. Knows nothing of what ran.

runs/<stage>-<name>-<digest>/
    config.json       the resolved settings
    provenance.json   version, commit, packages, machine, data
    metrics.jsonl     one JSON object a step
    threads.json      see train.threads
    checkpoints/      see models.checkpoint
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from prefloop import __version__
from prefloop.config import Config
from prefloop.errors import ConfigError, NotFoundError
from prefloop.schema import now

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "numpy")


class RunFolder:
    """One run's folder. `metrics.jsonl` grows by `log`; a resumed run first rewinds it to its checkpoint."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self._metrics = self.path / "metrics.jsonl"

    @classmethod
    def exists(cls, parent: Path, stage: str, config: Config, name: str = "run") -> bool:
        """Whether this run was begun before."""
        return (Path(parent) / f"{stage}-{name}-{config.digest()}" / "config.json").is_file()

    @classmethod
    def create(
        cls, parent: Path, stage: str, config: Config, *, name: str = "run", resume: bool = False, **facts: Any
    ) -> RunFolder:
        """The folder of this run below `parent`, named by stage, name and the digest of its settings.

        `facts` (data manifest hashes, say) go into provenance.json.

        Errors:
            ConfigError: the run exists and `resume` is False.
            NotFoundError: there is nothing to resume.
        """
        run = cls(Path(parent) / f"{stage}-{name}-{config.digest()}")
        settings = run.path / "config.json"
        if resume:
            if not settings.is_file():
                raise NotFoundError(f"{run.path} holds no run with these settings; start it without --resume.")
            return run
        if settings.is_file():
            raise ConfigError(f"{run.path} exists already; go on with --resume, or change the settings or the name.")
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        write_json(run.path / "provenance.json", provenance() | {"stage": stage, "name": name} | facts)
        write_json(settings, config.model_dump(mode="json"))
        return run

    def log(self, row: dict[str, Any]) -> None:
        """Appends one row; it is on disk when this returns."""
        line = json.dumps(row, allow_nan=True)
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()

    def metrics(self) -> list[dict[str, Any]]:
        """All rows logged so far; a half-written last line (a killed run) is left out."""
        if not self._metrics.is_file():
            return []
        lines = self._metrics.read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines[:-1] if line]

    def rewind(self, step: int) -> None:
        """Keeps the rows whose `step` is at most `step`: what came after the checkpoint is computed again."""
        rows = [row for row in self.metrics() if row.get("step", 0) <= step]
        temporary = self._metrics.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(temporary, self._metrics)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` to a temporary name, flushes, renames: a half-written file is never seen."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def provenance() -> dict[str, Any]:
    """What produced a run: version, commit, packages, machine, time."""
    return {
        "prefloop": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "started_at": now().isoformat(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> dict[str, Any] | None:
    """The commit of a source checkout; None for an installed package."""
    source = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", "-C", str(source), *arguments], capture_output=True, text=True, check=True)
        return result.stdout.strip()

    try:
        return {"id": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
