"""Plots: well-formed, the same each time, carrying their numbers, refusing what cannot be drawn."""

import math
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

import pytest

from prefloop.errors import DataError
from prefloop.report import (
    Marker,
    Plot,
    Series,
    bar_plot,
    calibration_plot,
    curve_plot,
    histogram_plot,
    interval_plot,
    line_plot,
)
from prefloop.schema import Interval

_SHARE = Interval(value=0.7, low=0.6, high=0.8, n=40, clusters=10)
_LINES = [
    Series("train PM", [1, 10, 100], [0.1, 0.5, 0.9], [0.0, 0.4, 0.8], [0.2, 0.6, 1.0]),
    Series("held-out $PM$ & <others>", [1, 10, 100], [0.1, math.nan, 0.6]),
]
_EACH: dict[str, Callable[[], Plot]] = {
    "line": lambda: line_plot(
        _LINES, title="Scores", x_label="samples", y_label="score (PM units)", markers=[Marker(10, "picked")]
    ),
    "log": lambda: line_plot(_LINES, title="Scores", x_label="samples", y_label="score (PM units)", log_x=True),
    "histogram": lambda: histogram_plot({"base": [0.0, 1.0, 1.0], "online": [2.0]}, title="Scores", x_label="score"),
    "calibration": lambda: calibration_plot({"all": [(0.5, _SHARE), (1.5, _SHARE)]}, title="Calibration"),
    "curve": lambda: curve_plot(
        {"all": [(1, _SHARE), (100, _SHARE)]}, title="Curve", x_label="x", y_label="accuracy", reference=0.5, log_x=True
    ),
    "interval": lambda: interval_plot({"base": _SHARE}, title="Elo", x_label="Elo points", reference=0.5),
    "bar": lambda: bar_plot({"1": 3, "2": 5}, title="Grades", x_label="grade", y_label="judgments"),
    "lying": lambda: bar_plot({"1": 3}, title="Grades", x_label="grade", y_label="judgments", horizontal=True),
}


@pytest.mark.parametrize("name", _EACH)
def test_svg_is_well_formed_safe_and_720_pixels_wide(name: str) -> None:
    plot = _EACH[name]()
    root = ElementTree.fromstring(plot.svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["width"] == "540pt"  # 720 CSS pixels
    assert {element.tag.rpartition("}")[2] for element in root.iter()}.isdisjoint({"script", "foreignObject", "image"})
    references = [v for e in root.iter() for k, v in e.attrib.items() if k.rpartition("}")[2] == "href"]
    assert all(reference.startswith("#") for reference in references)


@pytest.mark.parametrize("name", _EACH)
def test_the_same_numbers_give_the_same_bytes(name: str) -> None:
    assert _EACH[name]() == _EACH[name]()


def test_threads_do_not_disturb_each_other() -> None:
    alone = {name: draw().svg for name, draw in _EACH.items()}
    names = list(_EACH) * 2
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: _EACH[name]().svg, names))
    assert together == [alone[name] for name in names]


def test_plots_carry_their_numbers() -> None:
    line = _EACH["line"]()
    assert line.columns == ("series", "samples", "score (PM units)", "low", "high")
    assert line.rows[1] == ("train PM", 10, 0.5, 0.4, 0.6)
    assert line.rows[3] == ("held-out $PM$ & <others>", 1, 0.1, None, None)
    # base: two of three values in the last bin of [0, 2] at 2 bins: [0, 1) holds 0.0, [1, 2] the rest
    histogram = histogram_plot({"base": [0.0, 1.0, 1.0], "online": [2.0]}, title="", x_label="score", bins=2)
    assert histogram.rows == ((0.0, 1.0, pytest.approx(1 / 3), 0.0), (1.0, 2.0, pytest.approx(2 / 3), 1.0))
    name, difference, promised, accuracy = _EACH["calibration"]().rows[0]
    assert (name, difference, accuracy) == ("all", 0.5, _SHARE)
    assert promised == pytest.approx(1 / (1 + math.exp(-0.5)))
    assert _EACH["curve"]().rows == (("all", 1, _SHARE), ("all", 100, _SHARE))
    assert _EACH["interval"]().rows == (("base", _SHARE),)
    assert _EACH["bar"]().rows == (("1", 3), ("2", 5))


def test_a_value_without_interval_is_drawn() -> None:
    unbounded = Interval(value=3.0, low=-math.inf, high=math.inf, n=2, clusters=1)
    ElementTree.fromstring(interval_plot({"lost": unbounded}, title="Elo", x_label="Elo points").svg)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: line_plot([], title="T", x_label="x", y_label="y"), "no finite point"),
        (lambda: line_plot([Series("s", [1], [math.nan])], title="T", x_label="x", y_label="y"), "no finite point"),
        (lambda: line_plot([Series("s", [1, 2], [1])], title="T", x_label="x", y_label="y"), r"lengths \[1, 2\]"),
        (lambda: line_plot([Series("s", [0], [1])], title="T", x_label="x", y_label="y", log_x=True), "x <= 0"),
        (lambda: histogram_plot({}, title="T", x_label="x"), "0 groups"),
        (lambda: histogram_plot({"g": []}, title="T", x_label="x"), "'g'"),
        (lambda: histogram_plot({"g": [math.inf]}, title="T", x_label="x"), "'g'"),
        (lambda: calibration_plot({"a": []}, title="T"), "0 bins"),
        (lambda: curve_plot({"a": []}, title="T", x_label="x", y_label="y"), "0 points"),
        (lambda: curve_plot({"a": [(0, _SHARE)]}, title="T", x_label="x", y_label="y", log_x=True), "x <= 0"),
        (lambda: interval_plot({}, title="T", x_label="x"), "0 values"),
        (lambda: bar_plot({"a": math.nan}, title="T", x_label="x", y_label="y"), "finite"),
    ],
)
def test_what_cannot_be_drawn_is_named(draw: Callable[[], Plot], message: str) -> None:
    with pytest.raises(DataError, match=message):
        draw()


def test_importing_the_room_loads_no_matplotlib_and_no_torch() -> None:
    code = "import sys, prefloop.report; print([m for m in ('matplotlib', 'torch', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
