"""How the quality page says a number, its reason and a count. Knows the page builder and measured numbers."""

from __future__ import annotations

from prefloop.quality.measured import Measured
from prefloop.report import Report, format_count, format_interval, format_number


def number_or_reason(page: Report, name: str, part: Measured) -> None:
    """A paragraph with the number and its n, or why it is not known."""
    if part.interval is None:
        page.paragraph(f"{name}: not known. {part.unknown}")
    else:
        page.paragraph(f"{name}: {format_interval(part.interval)} ({format_count(part.interval)}).")


def plural(count: int, noun: str) -> str:
    """A count and its noun."""
    return f"{format_number(count)} {noun}{'' if count == 1 else 's'}"


def clipped(text: str, most: int = 120) -> str:
    """The beginning of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"
