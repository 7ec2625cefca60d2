"""Typed settings: defaults <- TOML files <- `--set key=value`. Knows nothing of what a setting does.

Unknown keys fail and name the nearest key. Paths in a file are relative to that file. The hash of the settings
that are not the defaults names a run.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from prefloop.errors import ConfigError
from prefloop.schema import HELD_OUT_SHARE

WORKSPACE_FILE = "prefloop.toml"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
"""What runs and snapshots may be called: their names become parts of file names and of URLs."""
DEVICE = r"^(auto|cpu|cuda(:[0-9]+)?)$"
"""What a device may be called in settings and options; 'auto' takes a GPU if there is one."""
MOST_SEED = 2**32 - 1
"""Of a seed, in settings and options: generators take 64 bits, and a run multiplies its seed by a million and more."""
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]


QualitySubject = Literal[
    "judgments",
    "agreement",
    "side",
    "first",
    "length",
    "workers",
    "retest",
    "void",
    "weakest",
    "repeated",
    "identical",
    "pace",
    "leaks",
    "drift",
    "researchers",
]
"""What a finding of the quality report is about."""


class Config(BaseModel):
    """Base of every settings class: frozen, strict about keys. Field descriptions carry units and consequences."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and bool not in (kind, *get_args(kind)):  # pydantic would take true for 1
            raise ValueError("a truth value cannot stand here")
        return value

    @classmethod
    def load(cls, files: Iterable[Path] = (), overrides: Iterable[str] = (), below: Self | None = None) -> Self:
        """Defaults (or `below`), then each TOML file, then each `dotted.key=value` (later wins).

        Errors:
            ConfigError: a missing or broken file, an unknown key (with the nearest known one), a wrong type.
        """
        data: dict[str, Any] = {} if below is None else below.model_dump()
        read: list[str] = []
        for file in files:
            data = _merge(data, _read_toml(cls, Path(file)))
            read.append(str(file))
        for override in overrides:
            data = _merge(data, _parse_override(override))
            read = [*(place for place in read if place != "--set"), "--set"]
        return cls._validate(data, " and ".join(read))

    @classmethod
    def load_values(cls, values: dict[str, Any]) -> Self:
        """From what `model_dump` gave (a config.json, say)."""
        return cls._validate(values)

    @classmethod
    def _validate(cls, data: dict[str, Any], origin: str = "") -> Self:
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigError(_sentence(cls, error, origin)) from None

    def digest(self) -> str:
        """The first 12 hex digits of the SHA-256 over what differs from the defaults: a new setting renames nothing."""
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


class DataSettings(Config):
    root: Path | None = Field(None, description="folder of data sets; recipes name files below it")


class DatabaseSettings(Config):
    url: str = Field("sqlite:///prefloop.db", description="SQLAlchemy URL; SQLite paths are relative to the workspace")


class ServeSettings(Config):
    host: str = Field("127.0.0.1", min_length=1, description="address that the page listens on")
    port: int = Field(8400, ge=0, le=65535, description="port of the page; 0 takes any free one")
    return_hosts: tuple[str, ...] = Field(
        ("app.prolific.com",), description="hosts that the end page may lead back to; no other address is shown"
    )
    model_server: str = Field("", description="URL of an OpenAI-compatible server; empty starts our own")
    model_server_port: int = Field(0, ge=0, le=65535, description="port of our own model server; 0 takes any free one")


class QualitySettings(Config):
    """What the quality report warns of, what it flags in a worker, and which warnings close the gate."""

    least_alpha: float = Field(0.2, ge=0.0, le=1.0, description="Krippendorff's alpha below which agreement is weak")
    most_side_share: float = Field(0.55, ge=0.0, le=1.0, description="share of judgments for one side")
    most_length_share: float = Field(0.65, ge=0.0, le=1.0, description="share of judgments for the longer reply")
    most_first_share: float = Field(0.6, ge=0.0, le=1.0, description="share for the side that finished first")
    most_void_share: float = Field(0.05, ge=0.0, le=1.0, description="share of comparisons that are void")
    most_weakest_share: float = Field(0.4, ge=0.0, le=1.0, description="share of judgments with the weakest grades")
    most_repeated_openings: float = Field(0.2, ge=0.0, le=1.0, description="of conversations that open like another")
    most_identical_responses: float = Field(0.05, ge=0.0, le=1.0, description="of comparisons with equal sides")
    least_retest: float = Field(0.6, ge=0.0, le=1.0, description="of repeated judgments that agree")
    most_too_fast: float = Field(0.3, ge=0.0, le=1.0, description="share of people's judgments made faster than read")
    fastest_characters_per_second: float = Field(
        100.0, gt=0.0, description="of both replies from the first token on; 100 is four times ordinary reading"
    )
    fastest_typing: float = Field(
        15.0, gt=0.0, description="characters a second of a long user turn; 15 is 180 words a minute"
    )
    false_alarms: float = Field(
        0.05, gt=0.0, lt=1.0, description="chance that one kind of flag falls on any of all workers, all being honest"
    )
    least_difference: float = Field(
        0.1, ge=0.0, le=1.0, description="a worker's share must differ by so much as well to be flagged"
    )
    least_researchers: float = Field(
        0.6, ge=0.0, le=1.0, description="agreement of workers with researchers; the paper's was 0.63"
    )
    held_out_share: float = Field(
        HELD_OUT_SHARE,
        gt=0.0,
        lt=1.0,
        description="of conversations that runs hold out; the report looks for leaks into them",
    )
    most_leaks: float = Field(0.05, ge=0.0, le=1.0, description="share of held-out openings that training nearly has")
    gate: tuple[QualitySubject, ...] = Field(
        (), description="warnings on these make `prefloop quality` end with exit code 1; empty: none does"
    )
    gate_needs_known: bool = Field(
        False, description="what the gate names must be known as well: not knowing closes it like a warning"
    )


class WorkspaceSettings(Config):
    """`prefloop.toml`."""

    data: DataSettings = DataSettings()
    database: DatabaseSettings = DatabaseSettings()
    serve: ServeSettings = ServeSettings()
    quality: QualitySettings = QualitySettings()


def _read_toml(cls: type[Config], file: Path) -> dict[str, Any]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{file} does not exist; give the path of a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid TOML: {error}; mend that line.") from None
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from None
    return _resolve_paths(cls, data, file.resolve().parent)


def _resolve_paths(cls: type[Config], data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Makes values of Path fields absolute, relative to the file that they stand in."""
    resolved = dict(data)
    for name, field in cls.model_fields.items():
        if name not in data:
            continue
        kinds = {field.annotation, *get_args(field.annotation)}
        value = data[name]
        nested = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Config)]
        if nested and isinstance(value, dict):
            resolved[name] = _resolve_paths(nested[0], value, folder)
        elif Path in kinds and isinstance(value, str):
            resolved[name] = folder / Path(value).expanduser()
        elif tuple[Path, ...] in kinds and isinstance(value, list):
            resolved[name] = [folder / Path(item).expanduser() for item in value]
        elif field.annotation == dict[str, Path] and isinstance(value, dict):
            resolved[name] = {key: folder / Path(item).expanduser() for key, item in value.items()}
    return resolved


def _parse_override(override: str) -> dict[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r} is not of the form key=value; write for example --set seed=1.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text  # a bare word is a string
    nested: dict[str, Any] = {}
    *outer, last = key.strip().split(".")
    inner = nested
    for part in outer:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return nested


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _sentence(cls: type[Config], error: ValidationError, origin: str) -> str:
    """The first fault, in one sentence; `origin` names the files that were read."""
    mend = f"; mend it in {origin}" if origin else ""
    fault = error.errors()[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _known_keys(cls)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
        return f"Unknown key {key!r} in {cls.__name__}; did you mean {near[0]!r}?"
    if fault["type"] == "missing":
        return f"{cls.__name__} needs {key!r}; set it in the file or with --set {key}=..."
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if fault["type"] == "value_error" and not key:  # settings that do not go together; the message names them
        return f"{cls.__name__}: {message}{mend}."
    return f"{cls.__name__}: {key} = {fault['input']!r} is wrong: {message}{mend}."


def _known_keys(cls: type[Config], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in cls.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Config):
                keys += _known_keys(kind, f"{prefix}{name}.")
    return keys
