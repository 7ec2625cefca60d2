"""A report: one self-contained HTML file without scripts or remote resources, and the same facts as JSON beside it.

Responsible for layout and for writing both files whole or not at all. Knows nothing of what the numbers mean; whatever
comes in is text and is escaped.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import jinja2

from prefloop.errors import DataError, UserError
from prefloop.report.numbers import Cell, format_cell, format_count
from prefloop.report.plots import Plot
from prefloop.schema import Interval, Message

_MOST_PLOT_ROWS = 60
Tone = Literal["plain", "good", "warning", "bad"]


@dataclass(frozen=True)
class Tile:
    """One key number: a short label, the value, and a few words."""

    label: str
    value: Cell
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Reply:
    """One of the replies shown side by side under a context."""

    heading: str
    text: str
    note: str = ""


@dataclass(frozen=True)
class Transcript:
    """A conversation and the replies to it, side by side."""

    title: str
    context: Sequence[Message]
    replies: Sequence[Reply]


class Report:
    """Collects sections and their contents in reading order; every adding method returns the report itself.

    Args:
        title: the page's heading.
        summary: one or two sentences below it.
        created_at: printed below the title; the present time unless given.
    """

    def __init__(self, title: str, summary: str = "", created_at: datetime | None = None) -> None:
        self.title = title
        self.summary = summary
        self.created_at = created_at or datetime.now(UTC)
        self._sections: list[dict[str, Any]] = []

    def section(self, title: str, text: str = "") -> Report:
        """Begins a section; what follows stands in it."""
        self._sections.append({"title": title, "id": self._anchor(title), "blocks": []})
        return self.paragraph(text) if text else self

    def paragraph(self, text: str, tone: Tone = "plain") -> Report:
        """A paragraph; a tone other than plain draws it as a note."""
        return self._add({"kind": "paragraph", "text": text, "tone": tone})

    def bullets(self, items: Sequence[str]) -> Report:
        """A list of sentences."""
        return self._add({"kind": "bullets", "items": list(items)})

    def tiles(self, tiles: Sequence[Tile]) -> Report:
        """Key numbers side by side."""
        return self._add({"kind": "tiles", "tiles": list(tiles)})

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "") -> Report:
        """A table; numbers and intervals stand right, an interval shows its n.

        Errors:
            DataError: a row with another number of cells than columns.
        """
        for number, row in enumerate(rows):
            if len(row) != len(columns):
                raise DataError(
                    f"Row {number} of {caption!r} has {len(row)} cells for {len(columns)} columns; align them."
                )
        return self._add(
            {"kind": "table", "columns": list(columns), "rows": [list(r) for r in rows], "caption": caption}
        )

    def plot(self, plot: Plot, text: str = "") -> Report:
        """A plot with its title, a sentence, and its numbers in a table that opens."""
        return self._add({"kind": "plot", "plot": plot, "text": text})

    def transcripts(self, transcripts: Sequence[Transcript]) -> Report:
        """Conversations with replies side by side; the first is open."""
        return self._add({"kind": "transcripts", "transcripts": list(transcripts)})

    def html(self) -> str:
        """The page."""
        return _environment().get_template("report.html.j2").render(report=self, sections=self._sections)

    def data(self) -> dict[str, Any]:
        """The same facts as plain JSON values; numbers that are not finite become null."""
        return {
            "title": self.title,
            "summary": self.summary,
            "created_at": self.created_at.isoformat(),
            "sections": [
                {"title": section["title"], "blocks": [_plain(block) for block in section["blocks"]]}
                for section in self._sections
            ],
        }

    def write(self, path: Path, data: Mapping[str, Any] | None = None) -> Path:
        """Writes `path` (HTML) and the JSON beside it (`data` where given, else `self.data()`); returns `path`.

        Errors:
            UserError: the folder cannot be written.
        """
        path = Path(path)
        facts = json.dumps(self.data() if data is None else data, indent=2, ensure_ascii=False, allow_nan=False)
        for target, text in ((path.with_suffix(".json"), facts + "\n"), (path, self.html())):
            _write_whole(target, text)
        return path

    def _anchor(self, title: str) -> str:
        """A name for links to the section; a title used before gets the section's number."""
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        taken = {section["id"] for section in self._sections}
        return f"{name}-{len(self._sections) + 1}" if name in taken else name

    def _add(self, block: dict[str, Any]) -> Report:
        if not self._sections:
            self._sections.append({"title": "", "id": "top", "blocks": []})
        self._sections[-1]["blocks"].append(block)
        return self


def _write_whole(path: Path, text: str) -> None:
    """A reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"The report {path} cannot be written ({error.strerror}); choose another path.") from None


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("prefloop.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        cell=format_cell,
        count=lambda cell: format_count(cell) if isinstance(cell, Interval) else "",
        is_number=lambda cell: cell is None or isinstance(cell, (int, float, Interval)),
        numeric_columns=_numeric_columns,
        data_uri=lambda svg: "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(),
        thinned=_thinned,
    )
    return environment


def _numeric_columns(rows: Sequence[Sequence[Cell]]) -> list[bool]:
    """Which columns hold numbers (what is not known aside), so that heading and cells align."""
    columns = zip(*rows, strict=True)
    return [
        any(not isinstance(cell, str) and cell is not None for cell in column)
        and all(not isinstance(cell, str) for cell in column)
        for column in columns
    ]


def _thinned(rows: Sequence[Sequence[Cell]]) -> Sequence[Sequence[Cell]]:
    """At most 60 rows, evenly taken, the last one included."""
    if len(rows) <= _MOST_PLOT_ROWS:
        return rows
    places = {round(i * (len(rows) - 1) / (_MOST_PLOT_ROWS - 1)) for i in range(_MOST_PLOT_ROWS)}
    return [rows[place] for place in sorted(places)]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (Interval, Message)):
        return _plain(value.model_dump())
    if isinstance(value, Plot):
        return {"title": value.title, "columns": _plain(value.columns), "rows": _plain(value.rows)}
    if isinstance(value, (Tile, Reply, Transcript)):
        return {name: _plain(part) for name, part in vars(value).items()}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value.item() if hasattr(value, "item") else value
