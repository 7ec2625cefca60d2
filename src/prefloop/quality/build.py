"""Builds a quality report from a store. The order of the work; the numbers are made in `measures` and `workers`."""

from __future__ import annotations

from prefloop.quality import measures
from prefloop.quality.nouns import QualityReport
from prefloop.quality.rows import read_rows
from prefloop.quality.verdict import Limits, verdict
from prefloop.quality.workers import worker_quality
from prefloop.schema import Mode, Tranche
from prefloop.store import Store


def quality_report(
    store: Store,
    *,
    mode: Mode | None = None,
    tranche: Tranche | None = None,
    study_id: str | None = None,
    limits: Limits | None = None,
    seed: int = 0,
) -> QualityReport:
    """What the judgments of a store (or of one mode, tranche or study) are worth.

    Each judgment counts once: a worker's latest on a comparison. Void comparisons are counted and used for nothing.
    What cannot be known is said with its reason; no judgments at all is not an error.

    Errors:
        NotFoundError: no such study.
    """
    study = None if study_id is None else store.study(study_id)
    rows = read_rows(store, mode, tranche, study_id)
    judgments = rows.judgments
    counts = measures.counts(rows, seed)
    agreement = measures.agreement(judgments, seed)
    retest = measures.retest(judgments, seed)
    side_a = measures.side_a(judgments, seed)
    finished_first = measures.finished_first(judgments, seed)
    present = [each for each in Mode if counts.by_mode[each] > 0]
    length = {each: measures.length([row for row in judgments if row.mode == each], seed) for each in present}
    duplicates = measures.duplicates(rows, seed)
    people = {worker.id: worker for worker in store.workers()}
    workers = worker_quality(judgments, rows.openings, people, seed)
    parts = [str(part.value) for part in (mode, tranche) if part] + ([f"study {study.name!r}"] if study else [])
    return QualityReport(
        scope=", ".join(parts) or "everything in the store",
        verdict=verdict(
            counts, agreement, retest, side_a, finished_first, length, duplicates, workers, limits or Limits()
        ),
        counts=counts,
        agreement=agreement,
        agreement_without_weakest=measures.agreement([row for row in judgments if not row.is_weakest], seed),
        retest=retest,
        side_a=side_a,
        finished_first=finished_first,
        length=length,
        decision_seconds=measures.decision_seconds(judgments, seed),
        duplicates=duplicates,
        workers=workers,
    )
