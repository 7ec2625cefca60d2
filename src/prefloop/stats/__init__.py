"""Torch-free statistics: clustered intervals, ratings, agreement, reliability of raters, calibration, bias,
duplicates, fits, the best of n samples.

Responsible for numbers with their intervals (95%, clustered by conversation or worker). Knows nothing of the store,
of models or of people: arrays and labels come in, `schema.Interval` and small frozen nouns go out. What cannot be
estimated raises a DataError whose sentence says what is missing.
"""

from prefloop.stats.agreement import accuracy_ceiling, cohen_kappa, krippendorff_alpha, raw_agreement
from prefloop.stats.best_of import best_of_kl_bound, best_of_values, top_k_kl
from prefloop.stats.bias import LengthBias, length_bias, logit, logit_point, position_bias
from prefloop.stats.calibration import AboveThreshold, Calibration, CalibrationBin, accuracy_above, calibration
from prefloop.stats.concentration import gini, top_share
from prefloop.stats.cycles import Cycles, cycles
from prefloop.stats.diversity import distinct_share, effective_kinds, mean_difference, rarefied_kinds
from prefloop.stats.duplicates import NearDuplicate, duplicate_groups, near_duplicates, normalised
from prefloop.stats.fits import (
    LEAST_POINTS,
    FittedPoint,
    LineAndBand,
    LinearFit,
    covariance_of_shares,
    fitted_line,
    line_of_means,
    line_of_shares,
    line_over_runs,
    linear_fit,
)
from prefloop.stats.grouped import grouped_means, grouped_shares
from prefloop.stats.intervals import (
    bootstrap_interval,
    clustered_mean,
    clustered_ratio,
    clustered_share,
    label_codes,
    run_mean,
    wilson,
    win_rate,
)
from prefloop.stats.optimisation import (
    LinearPart,
    Parting,
    RiseFit,
    StopPlace,
    fit_rises,
    linear_part,
    parting,
    stop_place,
)
from prefloop.stats.planning import judgments_to_see, worth_of_labels
from prefloop.stats.rating import ELO_PER_NAT, EloTable, PairRecord, bradley_terry, elo, expected_win_rate
from prefloop.stats.reliability import Reliability, noise_of, reliability
from prefloop.stats.screening import (
    at_least_chances,
    coin_chances,
    excess_chances,
    longest_runs,
    run_chances,
    score_chances,
)

__all__ = [
    "ELO_PER_NAT",
    "LEAST_POINTS",
    "AboveThreshold",
    "Calibration",
    "CalibrationBin",
    "Cycles",
    "EloTable",
    "FittedPoint",
    "LengthBias",
    "LineAndBand",
    "LinearFit",
    "LinearPart",
    "NearDuplicate",
    "PairRecord",
    "Parting",
    "Reliability",
    "RiseFit",
    "StopPlace",
    "accuracy_above",
    "accuracy_ceiling",
    "at_least_chances",
    "best_of_kl_bound",
    "best_of_values",
    "bootstrap_interval",
    "bradley_terry",
    "calibration",
    "clustered_mean",
    "clustered_ratio",
    "clustered_share",
    "cohen_kappa",
    "coin_chances",
    "covariance_of_shares",
    "cycles",
    "distinct_share",
    "duplicate_groups",
    "effective_kinds",
    "elo",
    "excess_chances",
    "expected_win_rate",
    "fit_rises",
    "fitted_line",
    "gini",
    "grouped_means",
    "grouped_shares",
    "judgments_to_see",
    "krippendorff_alpha",
    "label_codes",
    "length_bias",
    "line_of_means",
    "line_of_shares",
    "line_over_runs",
    "linear_fit",
    "linear_part",
    "logit",
    "logit_point",
    "longest_runs",
    "mean_difference",
    "near_duplicates",
    "noise_of",
    "normalised",
    "parting",
    "position_bias",
    "rarefied_kinds",
    "raw_agreement",
    "reliability",
    "run_chances",
    "run_mean",
    "score_chances",
    "stop_place",
    "top_k_kl",
    "top_share",
    "wilson",
    "win_rate",
    "worth_of_labels",
]
