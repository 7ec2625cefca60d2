"""Comparisons in a file that are evaluated on and never stored (HHH-style: written by experts, in named groups).

JSON lines in any of TRL's shapes, `{"prompt", "chosen", "rejected"}` with texts or lists of messages; an optional
"group" (honest, harmless ...) names the slice of a row. Knows no model.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from prefloop.errors import DataError
from prefloop.schema import PreferencePair
from prefloop.store.database import checked_text
from prefloop.store.formats.files import check_exists, field, json_rows
from prefloop.store.formats.trl import pair_from_row
from prefloop.store.imports import Unusable

NO_GROUP = "no group"


class ComparisonFile(NamedTuple):
    """The usable rows, the group of each, and how many others there were by reason."""

    pairs: list[PreferencePair]
    groups: list[str]
    skipped: dict[str, int]


def read_comparisons(path: Path) -> ComparisonFile:
    """All comparisons of a file.

    Errors:
        NotFoundError: no such file.
        DataError: a line that cannot be parsed or has the wrong types, a group that is no Unicode, or no usable row.
    """
    check_exists(path)
    pairs: list[PreferencePair] = []
    groups: list[str] = []
    skipped: Counter[str] = Counter()
    for number, row in enumerate(json_rows(path), start=1):
        pair = pair_from_row(row)
        if isinstance(pair, Unusable):
            skipped[pair.reason] += 1
            continue
        group = field(row, "group", str) if "group" in row.fields else NO_GROUP
        groups.append(checked_text(group, f"{row.where} field 'group'"))
        pairs.append(
            PreferencePair(
                context=pair.context,
                chosen=pair.chosen,
                rejected=pair.rejected,
                comparison_id=f"{path.name} row {number}",
                turn=1 + sum(message.role == "assistant" for message in pair.context),
            )
        )
    if not pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        raise DataError(f"{path} holds no usable comparison ({reasons}); mend it or give another file.")
    return ComparisonFile(pairs, groups, dict(skipped))
