"""What a command prints and how it ends: results to stdout, everything else to stderr, errors in one sentence."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from prefloop.config import DEVICE, MOST_SEED

Command = TypeVar("Command", bound=Callable[..., Any])
SEEDS = click.IntRange(0, MOST_SEED)


def emit(result: dict[str, Any], as_json: bool) -> None:
    """One JSON object, or one "key: value" line per entry for people."""
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, default=str))
        return
    for line in lines(result):
        click.echo(line)


def lines(result: dict[str, Any], indent: str = "") -> list[str]:
    """The same for people; nested objects are indented, those of a list begin with a dash."""
    printed: list[str] = []
    for key, value in result.items():
        if isinstance(value, dict):
            printed += [f"{indent}{key}:", *lines(value, indent + "  ")]
        elif isinstance(value, float):
            printed.append(f"{indent}{key}: {value:.4g}")
        elif isinstance(value, list) and all(isinstance(item, float) for item in value):
            printed.append(f"{indent}{key}: [{', '.join(f'{item:.3f}' for item in value)}]")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            printed.append(f"{indent}{key}:")
            for item in value:
                first, *others = lines(item, indent + "    ") or [""]
                printed += [f"{indent}  - {first.strip()}".rstrip(), *others]
        else:
            printed.append(f"{indent}{key}: {value}")
    return printed


def note(message: str) -> None:
    """A line of progress, to stderr."""
    click.echo(message, err=True)
    sys.stderr.flush()


def say(sentence: str) -> None:
    """What a command ends with, to stderr, on a line of its own: progress bars that an error left open are closed."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        for bar in list(tqdm._instances):
            bar.close()
    click.echo(f"prefloop: {sentence}", err=True)


def json_option(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")(command)


def device_option(command: Command) -> Command:
    return click.option(
        "--device",
        metavar="DEVICE",
        default="auto",
        show_default=True,
        callback=_known_device,
        help="Where models compute: cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.",
    )(command)


def _known_device(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not re.match(DEVICE, value):
        raise click.BadParameter(f"{value!r} is no device; give auto, cpu, cuda or cuda:0, cuda:1 ...")
    return value


def workspace_option(command: Command) -> Command:
    return click.option(
        "--workspace",
        "workspace_path",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("."),
        show_default="here",
        help="Folder of the workspace.",
    )(command)
