"""TRL's preference rows, as JSON lines: with an explicit prompt (texts, or lists of messages), or an implicit one in
conversations that share their beginning. Written as conversations with an explicit prompt, which TRL recommends.
Other columns are passed over.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

from prefloop.errors import DataError
from prefloop.schema import Message, PreferencePair, Role
from prefloop.store.formats.files import Row, field, json_rows, kind_of
from prefloop.store.formats.pairs import pair_from_turns
from prefloop.store.imports import ImportedPair, Unusable
from prefloop.store.reading import judged_of, pair_of
from prefloop.store.views import ComparisonRecord


def read(path: Path) -> Iterator[ImportedPair | Unusable]:
    """The rows of a file."""
    for row in json_rows(path):
        yield pair_from_row(row)


def pair_from_row(row: Row) -> ImportedPair | Unusable:
    """One preference row in any of the three shapes.

    Errors:
        DataError: a missing field, a wrong type, an unknown role.
    """
    if "prompt" not in row.fields:
        return pair_from_turns(_messages(row, "chosen"), _messages(row, "rejected"))
    if isinstance(field(row, "prompt", str, list), str):
        prompt = [Message(role="user", text=row.fields["prompt"])]
        chosen, rejected = ([Message(role="assistant", text=field(row, name, str))] for name in ("chosen", "rejected"))
    else:
        prompt = _messages(row, "prompt")
        chosen, rejected = _messages(row, "chosen"), _messages(row, "rejected")
    return pair_from_turns([*prompt, *chosen], [*prompt, *rejected])


def _messages(row: Row, name: str) -> list[Message]:
    messages = []
    for place, item in enumerate(field(row, name, list)):
        inner = Row(f"{row.where} field {name}[{place}]", item if isinstance(item, dict) else {})
        if not isinstance(item, dict):
            raise DataError(f"{inner.where} is {kind_of(item)} and must be an object with role and content; mend it.")
        role, text = field(inner, "role", str), field(inner, "content", str)
        if role not in get_args(Role):
            raise DataError(f"{inner.where} has the role {role!r} and must have one of {', '.join(get_args(Role))}.")
        messages.append(Message(role=role, text=text))
    return messages


def preference_row(pair: PreferencePair) -> dict[str, Any]:
    """A pair as TRL reads it."""
    return {
        "prompt": [{"role": message.role, "content": message.text} for message in pair.context],
        "chosen": [{"role": "assistant", "content": pair.chosen}],
        "rejected": [{"role": "assistant", "content": pair.rejected}],
    }


def rows(records: Iterable[ComparisonRecord], drop_weakest: bool) -> Iterator[dict[str, Any]]:
    """One row for every judgment that nobody revised."""
    for pair in pairs_of(records, drop_weakest):
        yield preference_row(pair)


def pairs_of(records: Iterable[ComparisonRecord], drop_weakest: bool) -> Iterator[PreferencePair]:
    """The pair of every judgment that nobody revised."""
    for record in records:
        for judged in judged_of(record):
            if not (drop_weakest and judged.judgment.is_weakest):
                yield pair_of(judged)
