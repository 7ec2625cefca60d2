"""Plots and self-contained HTML reports from numbers, torch-free.

Responsible for how numbers look: digits, intervals, plots, pages. Knows nothing of where they come from.
"""

from prefloop.report.numbers import Cell, format_cell, format_count, format_interval, format_number
from prefloop.report.pages import Reply, Report, Tile, Transcript
from prefloop.report.plots import (
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

__all__ = [
    "Cell",
    "Marker",
    "Plot",
    "Reply",
    "Report",
    "Series",
    "Tile",
    "Transcript",
    "bar_plot",
    "calibration_plot",
    "curve_plot",
    "format_cell",
    "format_count",
    "format_interval",
    "format_number",
    "histogram_plot",
    "interval_plot",
    "line_plot",
]
