"""Evaluations: of preference models, policies and ratings. Reach a model only through `Responder`, `Sampler`, `Scorer`.

Know no training; results are nouns with intervals, rows of the store where one is given, and HTML pages.
"""

from prefloop.evals.baselines import Agreement, TfidfRegression, worker_agreement
from prefloop.evals.best_of import BesidePolicy, BestOfEvaluation, BestOfPoint, evaluate_best_of
from prefloop.evals.best_of_report import write_best_of_report
from prefloop.evals.cleanliness import Cleanliness, Suspicion, Treated, Treatment, evaluate_cleanliness, suspicion
from prefloop.evals.cleanliness_report import write_cleanliness_report
from prefloop.evals.comparisons import LogpAccuracy, logp_accuracy, people_win_rate
from prefloop.evals.distill import Behaviour, DistillEvaluation, evaluate_distillation
from prefloop.evals.elo import SnapshotElo, evaluate_elo
from prefloop.evals.policy import PolicyEvaluation, SideBySide, evaluate_policy
from prefloop.evals.policy_page import write_policy_page
from prefloop.evals.preference import (
    PairScores,
    PreferenceEvaluation,
    ScoredPair,
    evaluate_preference,
    fitted_temperature,
    score_pairs,
)
from prefloop.evals.preference_difference import PreferenceDifference, preference_differences
from prefloop.evals.preference_report import (
    add_preference_sections,
    write_preference_report,
    write_preference_reports,
)
from prefloop.evals.scan_report import write_scan_report
from prefloop.evals.scans import ScanEvaluation, ScanFailure, ScanPoint, Trial, evaluate_scan

__all__ = [
    "Agreement",
    "Behaviour",
    "BesidePolicy",
    "BestOfEvaluation",
    "BestOfPoint",
    "Cleanliness",
    "DistillEvaluation",
    "LogpAccuracy",
    "PairScores",
    "PolicyEvaluation",
    "PreferenceDifference",
    "PreferenceEvaluation",
    "ScanEvaluation",
    "ScanFailure",
    "ScanPoint",
    "ScoredPair",
    "SideBySide",
    "SnapshotElo",
    "Suspicion",
    "TfidfRegression",
    "Treated",
    "Treatment",
    "Trial",
    "add_preference_sections",
    "evaluate_best_of",
    "evaluate_cleanliness",
    "evaluate_distillation",
    "evaluate_elo",
    "evaluate_policy",
    "evaluate_preference",
    "evaluate_scan",
    "fitted_temperature",
    "logp_accuracy",
    "people_win_rate",
    "preference_differences",
    "score_pairs",
    "suspicion",
    "worker_agreement",
    "write_best_of_report",
    "write_cleanliness_report",
    "write_policy_page",
    "write_preference_report",
    "write_preference_reports",
    "write_scan_report",
]
