"""Run folders: resolved settings, provenance, metrics and the place of checkpoints. Knows nothing of what ran.

runs/<stage>-<name>-<digest>/
    config.json       the resolved settings
    provenance.json   version, commit, packages, machine, data
    metrics.jsonl     one JSON object a step
    threads.json      see train.threads
    checkpoints/      see models.checkpoint
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
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
        return _begun(Path(parent), stage, config, name) is not None

    @classmethod
    def create(
        cls, parent: Path, stage: str, config: Config, *, name: str = "run", resume: bool = False, **facts: Any
    ) -> RunFolder:
        """The folder of this run below `parent`, named by stage, name and the digest of its settings.

        A run that was begun is known by its settings, whatever an older version called its folder.

        `facts` (data manifest hashes, say) go into provenance.json.

        Errors:
            ConfigError: the run exists and `resume` is False.
            NotFoundError: there is nothing to resume; where a run of this name is there, what sets it apart.
        """
        run = cls(Path(parent) / f"{stage}-{name}-{config.digest()}")
        settings = run.path / "config.json"
        begun = _begun(Path(parent), stage, config, name)
        if resume and begun is None:
            nearest = _nearest(Path(parent), stage, name, config)
            raise NotFoundError(f"{run.path} holds no run with these settings; {nearest}.")
        if resume and begun is not None:
            return cls(begun)
        if begun is not None:
            raise ConfigError(f"{begun} exists already; go on with --resume, or change the settings or the name.")
        if settings.is_file():  # it was begun when a default was another one
            apart = ", ".join(_apart(run.path, config))
            raise ConfigError(f"{run.path} exists already and differs in {apart}; give this run another name.")
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


def _runs(parent: Path, stage: str, name: str) -> list[Path]:
    """Folders of runs of this stage and name, whatever their settings."""
    wanted = re.compile(f"{re.escape(f'{stage}-{name}')}-[0-9a-f]{{12}}")
    return [file.parent for file in sorted(parent.glob("*/config.json")) if wanted.fullmatch(file.parent.name)]


def _begun(parent: Path, stage: str, config: Config, name: str) -> Path | None:
    """The folder whose settings, defaults filled in, are these."""
    for path in _runs(parent, stage, name):
        with contextlib.suppress(ConfigError):  # settings of another version
            if type(config).load_values(json.loads((path / "config.json").read_text(encoding="utf-8"))) == config:
                return path
    return None


def _nearest(parent: Path, stage: str, name: str, config: Config) -> str:
    """What to do where there is no run with these settings: which other run has the name, and what differs."""
    others = {run.name: _apart(run, config) for run in _runs(parent, stage, name)}
    if not others:
        return "start it without --resume"
    nearest = min(others, key=lambda run: len(others[run]))
    return f"{nearest} differs in {', '.join(others[nearest])}: set that to go on with it, or start without --resume"


def _apart(run: Path, config: Config) -> list[str]:
    """The settings in which a run differs, with both values; what an older version did not have is at its default."""
    there = dict(_flat(json.loads((run / "config.json").read_text(encoding="utf-8"))))
    here = dict(_flat(config.model_dump(mode="json")))
    unset = dict(_flat(config.model_dump(mode="json", exclude_defaults=True)))
    return [
        f"{key} ({json.dumps(there[key])} there, {json.dumps(here.get(key))} here)"
        if key in there
        else f"{key} (not set there, {json.dumps(here[key])} here)"
        for key in {**here, **there}
        if (there[key] != here.get(key) if key in there else key in unset)
    ]


def _flat(settings: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of all depths, as --set takes them."""
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


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
