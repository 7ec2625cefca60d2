"""The hh-rlhf format: JSON lines of `chosen` and `rejected`, each a text "\\n\\nHuman: ...\\n\\nAssistant: ...".

What is exported is byte for byte what was imported: a turn's text is what stands between two headers without one
space after the colon, and where that does not give the text back (no space there, say), the text itself is kept.
The harmless files hold the less harmful reply as `chosen`, so `chosen` is the preferred one in every mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from prefloop.schema import Message, Role
from prefloop.store.formats.files import field, json_rows
from prefloop.store.formats.pairs import NO_TURNS, pair_from_turns
from prefloop.store.imports import ImportedPair, Unusable
from prefloop.store.reading import judged_of, pair_of
from prefloop.store.views import ComparisonRecord

_HEADER = re.compile(r"\n\n(Human|Assistant):")
_ROLES: dict[str, Role] = {"Human": "user", "Assistant": "assistant"}
_HEADERS: dict[Role, str] = {role: f"\n\n{name}: " for name, role in _ROLES.items()}

NOT_EXPRESSIBLE = "turns that hh-rlhf texts cannot hold (a system turn, or a header inside of a text)"


def parse(text: str) -> list[Message] | None:
    """The turns of a text; None where it does not begin with a header."""
    begin, *rest = _HEADER.split(text)
    if begin.strip() or not rest:
        return None
    return [
        Message(role=_ROLES[name], text=body.removeprefix(" "))
        for name, body in zip(rest[::2], rest[1::2], strict=True)
    ]


def build(turns: Sequence[Message]) -> str | None:
    """The text of turns; None where parsing it would not give the same turns back."""
    if any(turn.role not in _HEADERS for turn in turns):
        return None
    text = "".join(_HEADERS[turn.role] + turn.text for turn in turns)
    return text if parse(text) == list(turns) else None


def read(path: Path) -> Iterator[ImportedPair | Unusable]:
    """The rows of a file."""
    for row in json_rows(path):
        texts: tuple[str, str] = (field(row, "chosen", str), field(row, "rejected", str))
        chosen, rejected = parse(texts[0]), parse(texts[1])
        if chosen is None or rejected is None:
            yield Unusable(NO_TURNS)
        else:
            is_exact = (build(chosen), build(rejected)) == texts
            yield pair_from_turns(chosen, rejected, None if is_exact else texts)


def rows(records: Iterable[ComparisonRecord], drop_weakest: bool) -> Iterator[dict[str, str] | Unusable]:
    """One row for every judgment that nobody revised."""
    for record in records:
        for judged in judged_of(record):
            if drop_weakest and judged.judgment.is_weakest:
                continue
            if record.import_texts is not None:
                text_a, text_b = record.import_texts
                is_a = judged.judgment.preferred == "a"
                yield {"chosen": text_a, "rejected": text_b} if is_a else {"chosen": text_b, "rejected": text_a}
                continue
            pair = pair_of(judged)
            chosen, rejected = (
                build([*pair.context, Message(role="assistant", text=reply)]) for reply in (pair.chosen, pair.rejected)
            )
            if chosen is None or rejected is None:
                yield Unusable(NOT_EXPRESSIBLE)
            else:
                yield {"chosen": chosen, "rejected": rejected}
