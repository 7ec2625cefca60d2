"""Data quality: what the judgments in a store are worth, torch-free.

Responsible for the numbers, their verdict in words and the page. Reads through the store's readers alone; knows no
model (scores of preference models are rows in the store) and excludes nobody.
"""

from prefloop.quality.build import quality_report, report_on
from prefloop.quality.lessons import label_smoothing, worker_weights
from prefloop.quality.measured import Measured
from prefloop.quality.nouns import (
    Agreement,
    Concentration,
    Counts,
    Duplicates,
    Finding,
    Flag,
    FlagRule,
    LengthEffect,
    NoiseModel,
    QualityReport,
    VoidReason,
    WorkerQuality,
)
from prefloop.quality.page import report_page, write_html
from prefloop.quality.rows import Comparisons, Judgments, Rows, Scores
from prefloop.quality.summary import summary
from prefloop.quality.texts import Openings
from prefloop.quality.workers import Noise, fit_noise, worker_quality

__all__ = [
    "Agreement",
    "Comparisons",
    "Concentration",
    "Counts",
    "Duplicates",
    "Finding",
    "Flag",
    "FlagRule",
    "Judgments",
    "LengthEffect",
    "Measured",
    "Noise",
    "NoiseModel",
    "Openings",
    "QualityReport",
    "Rows",
    "Scores",
    "VoidReason",
    "WorkerQuality",
    "fit_noise",
    "label_smoothing",
    "quality_report",
    "report_on",
    "report_page",
    "summary",
    "worker_quality",
    "worker_weights",
    "write_html",
]
