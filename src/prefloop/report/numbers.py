"""How numbers are written for people: digits that the interval supports, the interval, and n. Knows no page."""

from __future__ import annotations

import math

from prefloop.schema import Interval

Cell = str | int | float | Interval | None
"""What stands in a table. None is what is not known, written as a dash."""
UNKNOWN = "–"


def format_number(value: float, digits: int | None = None) -> str:
    """A number with thousands separators and a real minus sign; three significant digits unless told otherwise."""
    if not math.isfinite(value):
        return UNKNOWN if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if digits is None:
        if isinstance(value, int) or float(value).is_integer():
            digits = 0
        elif abs(value) < 1e-4:
            return f"{value:.1e}".replace("-", "−")
        else:
            digits = min(max(0, 2 - math.floor(math.log10(abs(value)))), 5)
    text = f"{value:,.{digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) != 0 else text.lstrip("-")


def format_interval(interval: Interval) -> str:
    """`0.74 [0.71, 0.77]`; where there is no interval, `0.74 (no interval)`."""
    if not (math.isfinite(interval.low) and math.isfinite(interval.high)):
        return f"{format_number(interval.value)} (no interval)"
    digits = _digits((interval.high - interval.low) / 2)
    value, low, high = (format_number(v, digits) for v in (interval.value, interval.low, interval.high))
    return value if interval.low == interval.high else f"{value} [{low}, {high}]"


def format_count(interval: Interval) -> str:
    """`n 320, 80 clusters`: the observations and what they come from."""
    text = f"n {format_number(interval.n)}"
    if interval.clusters is None or interval.clusters == interval.n:
        return text
    return f"{text}, {format_number(interval.clusters)} cluster{'' if interval.clusters == 1 else 's'}"


def format_cell(cell: Cell) -> str:
    """Text of one table cell, without n."""
    if cell is None:
        return UNKNOWN
    if isinstance(cell, str):
        return cell
    return format_interval(cell) if isinstance(cell, Interval) else format_number(cell)


def _digits(half_width: float) -> int:
    """Digits after the point at which the interval still moves."""
    if half_width <= 0 or 0.01 <= half_width < 1:
        return 2
    return min(max(0, 1 - math.floor(math.log10(half_width)) - (half_width < 1)), 5)
