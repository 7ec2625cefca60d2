"""Is it the PM or the policy? Measures, causes, and the page that tells them. Knows no run folder and no store."""

from prefloop.evals.diagnosis.measure import MOST_PAIRS, Judge, measure_layout, measure_replies, pair_accuracy
from prefloop.evals.diagnosis.nouns import Cause, Diagnosis, Evidence, Finding
from prefloop.evals.diagnosis.page import write_diagnosis
from prefloop.evals.diagnosis.verdicts import diagnose

__all__ = [
    "MOST_PAIRS",
    "Cause",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Judge",
    "diagnose",
    "measure_layout",
    "measure_replies",
    "pair_accuracy",
    "write_diagnosis",
]
