"""Torch-free statistics: clustered intervals, ratings, agreement, calibration, bias, duplicates, fits.

Responsible for numbers with their intervals (95%, clustered by conversation or worker). Knows nothing of the store,
of models or of people: arrays and labels come in, `schema.Interval` and small frozen nouns go out. What cannot be
estimated raises a DataError whose sentence says what is missing.
"""

from prefloop.stats.agreement import krippendorff_alpha, raw_agreement
from prefloop.stats.bias import LengthBias, length_bias, logit, position_bias
from prefloop.stats.calibration import AboveThreshold, Calibration, CalibrationBin, accuracy_above, calibration
from prefloop.stats.duplicates import NearDuplicate, duplicate_groups, near_duplicates, normalised
from prefloop.stats.fits import LinearFit, linear_fit
from prefloop.stats.intervals import (
    bootstrap_interval,
    clustered_mean,
    clustered_ratio,
    clustered_share,
    wilson,
    win_rate,
)
from prefloop.stats.rating import ELO_PER_NAT, EloTable, PairRecord, bradley_terry, elo, expected_win_rate

__all__ = [
    "ELO_PER_NAT",
    "AboveThreshold",
    "Calibration",
    "CalibrationBin",
    "EloTable",
    "LengthBias",
    "LinearFit",
    "NearDuplicate",
    "PairRecord",
    "accuracy_above",
    "bootstrap_interval",
    "bradley_terry",
    "calibration",
    "clustered_mean",
    "clustered_ratio",
    "clustered_share",
    "duplicate_groups",
    "elo",
    "expected_win_rate",
    "krippendorff_alpha",
    "length_bias",
    "linear_fit",
    "logit",
    "near_duplicates",
    "normalised",
    "position_bias",
    "raw_agreement",
    "wilson",
    "win_rate",
]
