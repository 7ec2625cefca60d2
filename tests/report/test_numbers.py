"""How numbers are written."""

import math

import pytest

from prefloop.report import format_cell, format_count, format_interval, format_number
from prefloop.schema import Interval


def _interval(value: float, low: float, high: float, n: int = 10, clusters: int | None = None) -> Interval:
    return Interval(value=value, low=low, high=high, n=n, clusters=clusters)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.7412, "0.741"),
        (-1.5, "−1.50"),
        (1234567, "1,234,567"),
        (3.0, "3"),
        (1234.56, "1,235"),
        (0.00002, "2.0e−05"),
        (-0.0, "0"),
        (math.nan, "–"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        (_interval(0.7412, 0.7123, 0.7689), "0.74 [0.71, 0.77]"),  # half width 0.028: two digits
        (_interval(113.24, 85.1, 151.2), "113 [85, 151]"),  # 33: none
        (_interval(7.52, 5.1, 9.9), "7.5 [5.1, 9.9]"),  # 2.4: one
        (_interval(0.001, -0.0029, 0.0041), "0.001 [−0.003, 0.004]"),  # 0.0035: three
        (_interval(0.5, 0.0, 1.0), "0.50 [0.00, 1.00]"),
        (_interval(-0.001, -0.5, 0.4), "0.00 [−0.50, 0.40]"),  # no minus zero
        (_interval(0.0, 0.0, 0.0), "0.00"),  # an anchor: exact
        (_interval(2.5, -math.inf, math.inf), "2.50 (no interval)"),
    ],
)
def test_intervals(interval: Interval, text: str) -> None:
    assert format_interval(interval) == text


def test_counts() -> None:
    assert format_count(_interval(0, 0, 0, 1200, 300)) == "n 1,200, 300 clusters"
    assert format_count(_interval(0, 0, 0, 2, 1)) == "n 2, 1 cluster"
    assert format_count(_interval(0, 0, 0, 7, 7)) == format_count(_interval(0, 0, 0, 7)) == "n 7"


def test_cells() -> None:
    assert [format_cell(cell) for cell in (None, "text", 3, 0.25)] == ["–", "text", "3", "0.250"]
