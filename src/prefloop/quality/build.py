"""Builds a quality report from a store. The order of the work; the numbers are made elsewhere in this room."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial

import numpy as np

from prefloop.config import QualitySettings
from prefloop.quality import measures
from prefloop.quality.drift import drift
from prefloop.quality.flags import flag_rules
from prefloop.quality.items import item_report
from prefloop.quality.lessons import label_smoothing
from prefloop.quality.nouns import QualityReport
from prefloop.quality.reading import Part, read_rows
from prefloop.quality.rows import MODES, Ints, Rows
from prefloop.quality.text_facts import TextFacts
from prefloop.quality.verdict import closed_gate, verdict
from prefloop.quality.workers import noise_fit, worker_quality
from prefloop.schema import Mode, Tranche, Worker
from prefloop.store import Store


def quality_report(
    store: Store,
    *,
    mode: Mode | None = None,
    tranche: Tranche | None = None,
    study_id: str | None = None,
    limits: QualitySettings | None = None,
    seed: int = 0,
    processes: int = 1,
) -> QualityReport:
    """What the judgments of a store (or of one mode, tranche or study) are worth.

    Each judgment counts once: a worker's latest on a comparison. Void comparisons are counted and used for nothing.
    What cannot be known is said with its reason; no judgments at all is not an error. With two `processes` a store of
    many comparisons is done in about half the time, to the same numbers.

    Errors:
        NotFoundError: no such study.
    """
    study = None if study_id is None else store.study(study_id)
    parts = [str(part.value) for part in (mode, tranche) if part] + ([f"study {study.name!r}"] if study else [])
    part = Part(mode, tranche, study_id)
    people = {worker.id: worker for worker in store.workers()}
    names = {snapshot.id: snapshot.name for snapshot in store.snapshots()}
    names |= {one.id: one.name for one in store.studies()}
    scope = ", ".join(parts) or "everything in the store"
    limits = limits or QualitySettings()
    if processes < 2 or store.middle(*part) is None:
        return report_on(read_rows(store, part), people, names, scope=scope, limits=limits, seed=seed)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as helper:
        rows = read_rows(store, part, helper)
        return report_on(rows, people, names, scope=scope, limits=limits, seed=seed, helper=helper)


def report_on(
    rows: Rows,
    people: Mapping[str, Worker],
    names: Mapping[str, str] | None = None,
    *,
    scope: str,
    limits: QualitySettings,
    seed: int,
    helper: Executor | None = None,
) -> QualityReport:
    """The report on rows that were read already.

    Args:
        people: workers by id.
        names: of snapshots and studies by id.
        helper: another process, which looks through the texts and fits the workers' noise meanwhile.
    """
    judgments, asked = rows.judgments, (rows.openings, rows.turns, seed)
    texts = partial(TextFacts.of, *asked) if helper is None else helper.submit(TextFacts.of, *asked).result
    counts = measures.counts(rows, seed)
    by_mode = {mode: judgments.where(judgments.mode == code) for code, mode in enumerate(MODES)}
    fitted = noise_fit(judgments, helper)
    both, first_token = "both replies being complete", "the first token"
    report = QualityReport(
        scope=scope,
        counts=counts,
        agreement=measures.agreement(judgments, seed),
        agreement_without_weakest=measures.agreement(judgments.where(~judgments.is_weakest), seed),
        researchers=measures.with_researchers(judgments, _researchers(rows, people), seed),
        retest=measures.retest(judgments, seed),
        side_a=measures.side_a(judgments, seed),
        finished_first=measures.finished_first(judgments, seed),
        length={mode: measures.length(part, seed) for mode, part in by_mode.items() if len(part)},
        decision_seconds=measures.mean_seconds(judgments.decision_seconds, judgments, seed, both),
        reading_seconds=measures.mean_seconds(judgments.reading_seconds, judgments, seed, first_token),
        too_fast=measures.too_fast(judgments, limits.fastest_characters_per_second, seed),
        drift=drift(rows, names or {}, limits),
        concentration=measures.concentration(judgments, seed),
        flag_rules=flag_rules(limits, counts.workers),
        duplicates=measures.duplicates(rows, (facts := texts()).near, seed),
        items=item_report(rows, facts, names or {}, limits, seed),
        noise=(noise := fitted()).model(),
        workers=worker_quality(rows, people, noise, facts.own, limits),
    )
    report = report.model_copy(update={"label_smoothing": label_smoothing(report)})
    findings = verdict(report, limits)
    return report.model_copy(update={"verdict": findings, "gate": closed_gate(findings, limits)})


def _researchers(rows: Rows, people: Mapping[str, Worker]) -> Ints:
    """Worker codes of researchers."""
    roles = [people[id].role if id in people else "worker" for id in rows.workers]
    return np.flatnonzero(np.array([role == "researcher" for role in roles], dtype=np.bool_))
