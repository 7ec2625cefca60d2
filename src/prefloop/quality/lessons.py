"""What the report gives to training: how often a label is wrong, and how much each worker's judgments should weigh.

Knows the report's nouns; what a preference-model run does with them is its own matter.
"""

from __future__ import annotations

from prefloop.errors import DataError
from prefloop.quality.measured import Measured
from prefloop.quality.nouns import QualityReport
from prefloop.stats import accuracy_ceiling

__all__ = ["label_smoothing", "worker_weights"]


def label_smoothing(report: QualityReport) -> Measured:
    """For the setting of that name: 1 - the accuracy ceiling of two workers' agreement, weakest grades left out as in
    training. Labels that miss a common truth independently with e agree in (1-e)^2 + e^2; where people differ by taste
    rather than by mistake it is the least share that no model can get right.
    """
    agreement = report.agreement_without_weakest.raw
    if agreement.interval is None:
        return agreement
    if agreement.interval.value <= 0.5:
        return Measured(unknown="Two workers agree no more often than chance, so labels tell nothing of a truth.")
    best = accuracy_ceiling(agreement.interval)
    ends = {"value": 1 - best.value, "low": 1 - best.high, "high": 1 - best.low}
    return Measured(interval=best.model_copy(update=ends))


def worker_weights(report: QualityReport) -> dict[str, float]:
    """Worker id -> weight, for a run's `worker_weights`: of all whose noise is known, 1 on average over them.

    Errors:
        DataError: nobody's noise is known.
    """
    weights = {worker.worker_id: worker.weight for worker in report.workers if worker.weight is not None}
    if not weights:
        raise DataError(f"No worker's weight is known: {report.noise.typical.unknown or 'nobody judged.'}")
    return weights
