"""Plots as standalone SVG text from numbers, each with its numbers as a table. Knows no page and no store.

One style: colour-blind safe (Okabe-Ito) and told apart by dash and marker as well, light background, 720 CSS pixels
wide, text as outlines (so that no font is needed and nothing shifts). The same numbers give the same bytes.
matplotlib is imported on the first plot and not before; a lock keeps its global settings to one thread at a time.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, pairwise
from types import MappingProxyType
from typing import Any

from prefloop.errors import DataError
from prefloop.report.numbers import Cell, format_number
from prefloop.schema import Interval

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4D4D4D")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_INK, _FAINT = "#222222", "#8A8A8A"
_WIDTH_INCHES, _HEIGHT_INCHES = 7.5, 4.0  # 720 x 384 CSS pixels
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "prefloop",
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "text.parse_math": False,
    "text.color": _INK,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "legend.frameon": False,
}
_drawing = threading.Lock()


@dataclass(frozen=True)
class Series:
    """One line: points (x, y), and an interval band where `low` and `high` are given. NaN leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None


@dataclass(frozen=True)
class Marker:
    """A vertical line at `x` with a name (the snapshot that was chosen, say)."""

    x: float
    label: str


@dataclass(frozen=True)
class Plot:
    """A drawn plot, what it shows in words, and its numbers."""

    title: str
    svg: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def line_plot(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    markers: Sequence[Marker] = (),
    y_range: tuple[float, float] | None = None,
    fitted: Mapping[str, Series] = MappingProxyType({}),
) -> Plot:
    """Several series over one x axis. Labels carry their units.

    Args:
        fitted: by name of a series the curve fitted to it, drawn in its colour; its own points are not joined then.

    Errors:
        DataError: no finite point at all, sequences of different lengths, x <= 0 on a logarithmic axis.
    """
    _check_series(series, title, log_x)
    with _figure() as (figure, axes, save):
        for line, (colour, dash, mark) in zip(series, _looks(), strict=False):
            shown = mark if len(line.x) <= 40 else None
            curve = fitted.get(line.name)
            joined = "" if curve else dash
            axes.plot(line.x, line.y, color=colour, linestyle=joined, marker=mark if curve else shown, label=line.name)
            if curve:
                axes.plot(curve.x, curve.y, color=colour, linestyle=dash, linewidth=1.4, label=curve.name)
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.18, linewidth=0)
        if log_x:
            _plain_log_ticks(axes)
        elif all(float(x).is_integer() for line in series for x in line.x):
            axes.locator_params(axis="x", integer=True)  # there is no turn 1.5
        if y_range is not None:
            axes.set_ylim(*y_range)
        for marker, dash in zip(markers, ((0, (4, 2)), (0, (1, 2))), strict=False):
            axes.axvline(marker.x, color=_INK, linewidth=1.2, linestyle=dash, label=marker.label)
        axes.set(xlabel=x_label, ylabel=y_label)
        if len(series) > 1 or markers or fitted:
            _legend(figure)
        svg = save(title)
    has_band = any(line.low is not None for line in series)
    columns = ("series", x_label, y_label, *(("low", "high") if has_band else ()))
    rows: list[tuple[Cell, ...]] = []
    for line in series:
        for i, (x, y) in enumerate(zip(line.x, line.y, strict=True)):
            band = (line.low[i], line.high[i]) if line.low is not None and line.high is not None else (None, None)
            rows.append((line.name, x, y, *(band if has_band else ())))
    return Plot(title, svg, columns, tuple(rows))


def histogram_plot(
    groups: Mapping[str, Sequence[float]],
    *,
    title: str,
    x_label: str,
    y_label: str = "share of each group",
    bins: int = 30,
) -> Plot:
    """Histograms of several groups over common bins; each group's bars sum to 1, so that sizes do not hide shapes.

    Errors:
        DataError: a group that is empty or holds a number that is not finite.
    """
    import numpy as np

    if not groups:
        raise DataError(f"The histogram {title!r} has 0 groups; give at least one.")
    for name, values in groups.items():
        if len(values) == 0 or not np.isfinite(np.asarray(values, dtype=float)).all():
            raise DataError(f"Group {name!r} of {title!r} needs finite numbers, at least one; leave the group out.")
    edges = np.histogram_bin_edges(np.concatenate([np.asarray(v, dtype=float) for v in groups.values()]), bins=bins)
    shares = {name: np.histogram(values, edges)[0] / len(values) for name, values in groups.items()}
    with _figure() as (figure, axes, save):
        for (name, share), (colour, dash, _) in zip(shares.items(), _looks(), strict=False):
            label = f"{name} (n {format_number(len(groups[name]))})"
            axes.stairs(share, edges, color=colour, fill=True, alpha=0.15)
            axes.stairs(share, edges, color=colour, linestyle=dash, linewidth=1.8, label=label)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.set_ylim(bottom=0)
        _legend(figure)
        svg = save(title)
    rows = [
        (float(low), float(high), *(float(share[i]) for share in shares.values()))
        for i, (low, high) in enumerate(pairwise(edges))
    ]
    return Plot(title, svg, ("from", "to", *shares), tuple(rows))


def calibration_plot(curves: Mapping[str, Sequence[tuple[float, Interval]]], *, title: str) -> Plot:
    """Accuracy against the absolute score difference, beside what a calibrated score promises, 1/(1+exp(-difference)).

    Args:
        curves: by name, (mean absolute difference, accuracy) of each bin (paper Figure 9).

    Errors:
        DataError: no bins.
    """
    if not any(curves.values()):
        raise DataError(f"The calibration plot {title!r} has 0 bins; score some pairs first.")
    furthest = max(difference for points in curves.values() for difference, _ in points)
    with _figure() as (figure, axes, save):
        grid = [furthest * 1.05 * i / 100 for i in range(101)]
        promise = [1 / (1 + math.exp(-x)) for x in grid]
        axes.plot(
            grid, promise, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)), label="calibrated: 1/(1+exp(−difference))"
        )
        for (name, points), (colour, dash, mark) in zip(curves.items(), _looks(), strict=False):
            _whiskered(axes, [d for d, _ in points], [a for _, a in points], colour, dash, mark, name)
        lowest = min(accuracy.low for points in curves.values() for _, accuracy in points)
        axes.set_ylim(min(0.45, lowest - 0.02), 1.02)
        axes.set_xlim(left=0)
        axes.set(xlabel="absolute score difference (PM units)", ylabel="accuracy (share of pairs)")
        _legend(figure)
        svg = save(title)
    rows = [
        (name, difference, 1 / (1 + math.exp(-difference)), accuracy)
        for name, points in curves.items()
        for difference, accuracy in points
    ]
    return Plot(title, svg, ("scores", "mean difference", "promised", "accuracy"), tuple(rows))


def curve_plot(
    curves: Mapping[str, Sequence[tuple[float, Interval]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    reference: float | None = None,
    reference_label: str = "",
    log_x: bool = False,
    lines: Sequence[Series] = (),
) -> Plot:
    """Values with their 95% whiskers over a number: by name, (x, value) of each point.

    Args:
        lines: fitted lines with their bands, drawn behind the points.

    Errors:
        DataError: no points, or x <= 0 on a logarithmic axis.
    """
    if not any(curves.values()):
        raise DataError(f"The curve {title!r} has 0 points; give at least one.")
    if log_x and any(x <= 0 for points in curves.values() for x, _ in points):
        raise DataError(f"The curve {title!r} has x <= 0 on a logarithmic axis; leave that point out.")
    with _figure() as (figure, axes, save):
        for (name, points), (colour, dash, mark) in zip(curves.items(), _looks(), strict=False):
            _whiskered(axes, [x for x, _ in points], [value for _, value in points], colour, dash, mark, name)
        for line in lines:
            axes.plot(line.x, line.y, color=_FAINT, linewidth=1.2, zorder=0, label=line.name)
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=_FAINT, alpha=0.18, linewidth=0, zorder=0)
        if log_x:
            _plain_log_ticks(axes)
        if reference is not None:
            look = {"color": _INK, "linewidth": 1.2, "linestyle": (0, (4, 2)), "zorder": 0}
            axes.axhline(reference, label=reference_label or None, **look)
        axes.set(xlabel=x_label, ylabel=y_label)
        if len(curves) > 1 or lines or reference_label:
            _legend(figure)
        svg = save(title)
    rows = [(name, x, value) for name, points in curves.items() for x, value in points]
    return Plot(title, svg, ("series", x_label, y_label), tuple(rows))


def interval_plot(
    values: Mapping[str, Interval],
    *,
    title: str,
    x_label: str,
    reference: float | None = None,
    reference_label: str = "",
) -> Plot:
    """A dot and its 95% whiskers per name, first on top; an open dot is a value without an interval.

    Errors:
        DataError: no values.
    """
    if not values:
        raise DataError(f"The interval plot {title!r} has 0 values; give at least one.")
    with _figure(max(1.6, 0.9 + 0.32 * len(values))) as (figure, axes, save):
        for place, interval in enumerate(values.values()):
            has_interval = math.isfinite(interval.low) and math.isfinite(interval.high)
            if has_interval:
                axes.plot([interval.low, interval.high], [place, place], color=_COLOURS[0], linewidth=2.2)
            face = _COLOURS[0] if has_interval else "white"
            axes.plot([interval.value], [place], marker="o", markersize=7, color=_COLOURS[0], markerfacecolor=face)
        if reference is not None:
            axes.axvline(
                reference, color=_INK, linewidth=1.2, linestyle=(0, (4, 2)), zorder=0, label=reference_label or None
            )
        names = [f"{_shortened(name)} (n {format_number(interval.n)})" for name, interval in values.items()]
        axes.set_yticks(range(len(values)), names)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.set(xlabel=x_label)
        if reference_label:
            _legend(figure)
        svg = save(title)
    return Plot(title, svg, ("", x_label), tuple(values.items()))


def bar_plot(values: Mapping[str, float], *, title: str, x_label: str, y_label: str, horizontal: bool = False) -> Plot:
    """Bars with their numbers at the ends. `x_label` names the categories and `y_label` the lengths, either way up.

    Errors:
        DataError: no values, or one that is not finite.
    """
    if not values or not all(math.isfinite(value) for value in values.values()):
        raise DataError(f"The bar plot {title!r} needs finite numbers, at least one; leave the others out.")
    names = [_shortened(name) for name in values]
    with _figure(max(1.6, 0.9 + 0.32 * len(values)) if horizontal else _HEIGHT_INCHES) as (_, axes, save):
        if horizontal:
            bars = axes.barh(range(len(names)), list(values.values()), color=_COLOURS[0], height=0.7)
            axes.set_yticks(range(len(names)), names)
            axes.invert_yaxis()
            axes.set(xlabel=y_label, ylabel=x_label)
        else:
            bars = axes.bar(range(len(names)), list(values.values()), color=_COLOURS[0], width=0.7)
            axes.set_xticks(range(len(names)), names)
            axes.set(xlabel=x_label, ylabel=y_label)
        axes.bar_label(bars, [format_number(value) for value in values.values()], padding=3)
        axes.margins(**({"x": 0.12} if horizontal else {"y": 0.12}))
        axes.grid(visible=False, axis="y" if horizontal else "x")
        svg = save(title)
    return Plot(title, svg, (x_label, y_label), tuple(values.items()))


@contextmanager
def _figure(height_inches: float = _HEIGHT_INCHES) -> Iterator[tuple[Any, Any, Callable[[str], str]]]:
    """A figure and its axes in the one style, and what turns them into SVG text."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with _drawing, matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH_INCHES, height_inches), layout="constrained", facecolor="white")
        canvas: Any = FigureCanvasSVG(figure)

        def save(title: str) -> str:
            buffer = io.StringIO()
            canvas.print_svg(buffer, metadata={"Date": None, "Title": title, "Creator": "prefloop"})
            text = buffer.getvalue()
            return text[text.index("<svg") :]

        yield figure, figure.add_subplot(), save


def _legend(figure: Any) -> None:
    """Above the axes, in as many columns as fit, so that it never covers a point."""
    _, labels = figure.axes[0].get_legend_handles_labels()
    if labels:
        columns = max(1, min(len(labels), 80 // (max(len(label) for label in labels) + 6)))
        figure.legend(loc="outside upper left", ncols=columns)


def _plain_log_ticks(axes: Any) -> None:
    """A logarithmic x axis with 1, 2, 5, 10 ... written out."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0,) if high / low > 1000 else (1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(value)))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _looks() -> Iterator[tuple[str, Any, str]]:
    """Colour, dash and marker of each series in turn."""
    return zip(cycle(_COLOURS), cycle(_DASHES), cycle(_MARKERS), strict=False)


def _whiskered(
    axes: Any, x: Sequence[float], values: Sequence[Interval], colour: str, dash: Any, mark: str, name: str
) -> None:
    below = [interval.value - interval.low for interval in values]
    above = [interval.high - interval.value for interval in values]
    y = [interval.value for interval in values]
    axes.errorbar(x, y, yerr=[below, above], color=colour, linestyle=dash, marker=mark, capsize=2.5, label=name)


def _shortened(name: str, most: int = 36) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"


def _check_series(series: Sequence[Series], title: str, log_x: bool) -> None:
    for line in series:
        lengths = {len(line.x), len(line.y), *(len(band) for band in (line.low, line.high) if band is not None)}
        if len(lengths) > 1:
            raise DataError(
                f"Series {line.name!r} of {title!r} has x, y and bands of lengths {sorted(lengths)}; align them."
            )
        if log_x and any(x <= 0 for x in line.x):
            raise DataError(
                f"Series {line.name!r} of {title!r} has x <= 0 on a logarithmic axis; leave that point out."
            )
    if not any(math.isfinite(y) for line in series for y in line.y):
        raise DataError(f"The plot {title!r} has no finite point; give it at least one.")
