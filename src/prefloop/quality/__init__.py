"""Data quality: what the judgments in a store are worth, torch-free.

Responsible for the numbers, their verdict in words and the page. Reads through the store's readers alone; knows no
model (scores of preference models are rows in the store) and excludes nobody.
"""

from prefloop.quality.build import quality_report
from prefloop.quality.nouns import (
    Agreement,
    Counts,
    Duplicates,
    Finding,
    LengthEffect,
    Measured,
    QualityReport,
    VoidReason,
    WorkerQuality,
)
from prefloop.quality.page import write_html
from prefloop.quality.verdict import Limits

__all__ = [
    "Agreement",
    "Counts",
    "Duplicates",
    "Finding",
    "LengthEffect",
    "Limits",
    "Measured",
    "QualityReport",
    "VoidReason",
    "WorkerQuality",
    "quality_report",
    "write_html",
]
