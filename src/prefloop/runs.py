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
import logging
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from prefloop import __version__
from prefloop.config import Config
from prefloop.errors import ConfigError, DataError, NotFoundError
from prefloop.schema import now

_log = logging.getLogger(__name__)
_Row = TypeVar("_Row")

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
        return _begun(_known(Path(parent), stage, config, name), config) is not None

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
            DataError: the run's own config.json is damaged.
        """
        run = cls(_own(Path(parent), stage, config, name))
        settings = run.path / "config.json"
        known = _known(Path(parent), stage, config, name)
        begun = _begun(known, config)
        if resume and begun is None:
            raise NotFoundError(f"{run.path} holds no run with these settings; {_nearest(known, config)}.")
        if resume and begun is not None:
            return cls(begun)
        if begun is not None:
            raise ConfigError(f"{begun} exists already; go on with --resume, or change the settings or the name.")
        if settings.is_file():  # it was begun when a default was another one
            apart = ", ".join(_apart(known[run.path], config))
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
        """All rows logged so far; a half-written last line (a killed run) is left out.

        Errors:
            DataError: another line is damaged.
        """
        if not self._metrics.is_file():
            return []
        lines = self._metrics.read_bytes().split(b"\n")
        return [
            _object(line, self._metrics, "delete that line to go on without it", place)
            for place, line in enumerate(lines[:-1], 1)
            if line
        ]

    def rewind(self, step: int) -> None:
        """Keeps the rows whose `step` is at most `step`: what came after the checkpoint is computed again."""
        rows = [row for row in self.metrics() if row.get("step", 0) <= step]
        temporary = self._metrics.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        os.replace(temporary, self._metrics)


def _own(parent: Path, stage: str, config: Config, name: str) -> Path:
    """Where a run that begins now goes."""
    return parent / f"{stage}-{name}-{config.digest()}"


def _known(parent: Path, stage: str, config: Config, name: str) -> dict[Path, dict[str, Any]]:
    """Folders of runs of this stage and name, whatever their settings, and those; damaged ones of others are skipped.

    Errors:
        DataError: the damaged ones are those of the run with this config.
    """
    wanted = re.compile(f"{re.escape(f'{stage}-{name}')}-[0-9a-f]{{12}}")
    found = {}
    for file in sorted(parent.glob("*/config.json")):
        if not wanted.fullmatch(file.parent.name):
            continue
        try:
            found[file.parent] = read_json(file)
        except DataError as error:
            if file.parent == _own(parent, stage, config, name):
                raise
            _log.warning("%s is passed over: %s", file.parent, error)
    return found


def _begun(known: Mapping[Path, dict[str, Any]], config: Config) -> Path | None:
    """The folder whose settings, defaults filled in, are these."""
    for path, settings in known.items():
        with contextlib.suppress(ConfigError):  # settings of another version
            if type(config).load_values(settings) == config:
                return path
    return None


def _nearest(known: Mapping[Path, dict[str, Any]], config: Config) -> str:
    """What to do where there is no run with these settings: which other run has the name, and what differs."""
    others = {run.name: _apart(settings, config) for run, settings in known.items()}
    if not others:
        return "start it without --resume"
    nearest = min(others, key=lambda run: len(others[run]))
    return f"{nearest} differs in {', '.join(others[nearest])}: set that to go on with it, or start without --resume"


def _apart(settings: dict[str, Any], config: Config) -> list[str]:
    """The settings in which a run differs, with both values; what an older version did not have is at its default."""
    there = dict(_flat(settings))
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


def read_json(
    file: Path, remedy: str = "put it back from a copy, or begin the run anew under another name"
) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Args:
        remedy: what an error says to do.

    Errors:
        DataError: the file is damaged.
    """
    return _object(file.read_bytes(), file, remedy)


def read_rows(file: Path, read: Callable[[bytes], _Row], remedy: str) -> list[_Row]:
    """What pydantic's `read` makes of each line of a file of a run; `remedy` as in `read_json`.

    Errors:
        DataError: a line is damaged.
    """
    rows = []
    for place, line in enumerate(file.read_bytes().splitlines(), 1):  # of bytes: a text may hold what str splits at
        try:
            rows.append(read(line))
        except ValidationError as error:
            fault = error.errors()[0]["msg"]
            raise DataError(f"{file} is damaged in line {place} ({fault}); {remedy}.") from None
    return rows


def _object(text: bytes, file: Path, remedy: str, line: int = 0) -> dict[str, Any]:
    """One JSON object; `line` is its place in a file of several."""
    try:
        found: Any = json.loads(text)
        if isinstance(found, dict):
            return found
        at, fault = line or 1, "it holds no object"
    except json.JSONDecodeError as error:
        at, fault = line or error.lineno, error.msg
    except UnicodeDecodeError as error:
        at, fault = line or text.count(b"\n", 0, error.start) + 1, "it is no UTF-8"
    raise DataError(f"{file} is damaged in line {at} ({fault}); {remedy}.")


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
