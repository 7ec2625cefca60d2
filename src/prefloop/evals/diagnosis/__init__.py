"""Is it the PM or the policy? Measures, causes, and the page that tells them. Knows no run folder and no store."""

from prefloop.evals.diagnosis.measure import Judge, measure_layout, measure_reading, measure_replies
from prefloop.evals.diagnosis.nouns import Cause, Diagnosis, Evidence, Finding
from prefloop.evals.diagnosis.page import write_diagnosis
from prefloop.evals.diagnosis.verdicts import diagnose

__all__ = [
    "Cause",
    "Diagnosis",
    "Evidence",
    "Finding",
    "Judge",
    "diagnose",
    "measure_layout",
    "measure_reading",
    "measure_replies",
    "write_diagnosis",
]
