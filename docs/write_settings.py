"""Writes docs/settings.md from the settings classes: `make docs`. The page is never edited by hand."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import prefloop
from prefloop.config import Config

PAGE = Path(__file__).with_name("settings.md")
HEAD = """# Settings

Written by `make docs` from the classes themselves; a setting wins over its default in a TOML file, and over both with
`--set key=value`. An unknown key is an error that names the nearest one. Paths in a file are relative to that file.
"""


def settings_classes() -> list[type[Config]]:
    """Every settings class of the package, in order of module and place."""
    for module in pkgutil.walk_packages(prefloop.__path__, "prefloop."):
        if not module.name.endswith("__main__") and ".migrations." not in module.name:
            importlib.import_module(module.name)
    found: list[type[Config]] = []
    open_classes: list[type[Config]] = [Config]
    while open_classes:
        for cls in open_classes.pop().__subclasses__():
            if cls.__module__.startswith("prefloop.") and cls not in found:
                found.append(cls)
                open_classes.append(cls)
    return sorted(found, key=lambda cls: (cls.__module__, cls.__name__))


def settings_page() -> str:
    """The text of docs/settings.md: one table for each class that no other one holds."""
    classes = settings_classes()
    held = {part for cls in classes for field in cls.model_fields.values() for part in _parts(field.annotation)}
    inner = {part for part in held if not _has_command(part)}
    page = HEAD
    for cls in classes:
        if cls not in inner:
            page += (
                f"\n## {cls.__name__}\n\n{_sentence(cls)}\n\n| key | values | default | meaning |\n|---|---|---|---|\n"
            )
            page += "".join(f"| {' | '.join(row)} |\n" for row in _rows(cls))
    return page


def _rows(cls: type[Config], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, field in cls.model_fields.items():
        nested = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, Config)]
        if nested and _has_command(nested[0]):
            yield f"`{prefix}{name}.*`", f"as of {nested[0].__name__}", "", field.description or ""
            continue
        if nested:
            named = "NAME." if get_origin(field.annotation) is dict else ""
            yield from _rows(nested[0], f"{prefix}{name}.{named}")
            continue
        limits = [_limit(one) for one in field.metadata if _limit(one)]
        values = ", ".join([_values(field.annotation), *limits])
        default = "(needed)" if field.is_required() else _default(field.default)
        meaning = (field.description or "").replace("|", "\\|")
        yield f"`{prefix}{name}`", values, default, meaning


def _has_command(part: Any) -> bool:
    """Whether a settings class is a command's own file: it has a table of its own even where another one holds it."""
    return isinstance(part, type) and issubclass(part, Config) and (part.__doc__ or "").startswith("`prefloop ")


def _sentence(cls: type[Config]) -> str:
    return (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _parts(annotation: Any) -> tuple[Any, ...]:
    return (annotation, *get_args(annotation))


def _values(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join("empty" if part is NoneType else _values(part) for part in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_values(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"table of names to {_values(get_args(annotation)[1])}s"
    if get_origin(annotation) is Annotated:
        kind, *limits = get_args(annotation)
        said = [_limit(one) for field in limits for one in field.metadata]
        return ", ".join([_values(kind), *said])
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
    if annotation in words:
        return words[annotation]
    return " or ".join(f"`{member}`" for member in annotation)  # an enumeration


def _limit(constraint: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = {sign: getattr(constraint, key) for key, sign in signs.items() if hasattr(constraint, key)}
    return " ".join(
        f"{sign} {value}" if isinstance(value, int) else f"{sign} {value:g}" for sign, value in found.items()
    )


def _default(value: Any) -> str:
    if value is None:
        return "empty"
    if value in ((), ""):
        return "`[]`" if value == () else '`""`'
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    PAGE.write_text(settings_page(), encoding="utf-8")
