"""Change by week and snapshot, writing, pasting, and agreement with researchers: planted, and by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from workforce import BEGIN, Person, Plan, fill

from prefloop.config import QualitySettings
from prefloop.quality import fit_noise, quality_report, worker_quality
from prefloop.quality.drift import drift
from prefloop.quality.measures import with_researchers
from prefloop.quality.text_facts import OwnTexts
from prefloop.sandbox.workforce import Habits, simulate
from prefloop.store import Store

LIMITS = QualitySettings()
WEEK = 7 * 86_400.0


def test_a_week_in_which_everybody_clicks_a_is_found() -> None:
    rows = simulate([Habits() for _ in range(6)], 200, 0.2, seed=1)
    draw = np.random.default_rng(0)
    week = draw.integers(0, 4, len(rows.comparisons))[rows.judgments.comparison]
    begin = BEGIN.timestamp() - BEGIN.weekday() * 86_400
    clicked = np.where((week == 2) & (draw.random(len(week)) < 0.5), True, rows.judgments.clicked_a)
    rows.judgments = replace(rows.judgments, decided_at=begin + week * WEEK, clicked_a=clicked)
    found = drift(rows, {}, LIMITS)
    assert [part.name for part in found.weeks] == ["2026-W02", "2026-W03", "2026-W04", "2026-W05"]
    assert sum(part.judgments for part in found.weeks) == len(rows.judgments)
    (change,) = found.changes
    assert (change.by, change.measure, change.highest) == ("week", "side_a", "2026-W04")
    assert change.high.value == pytest.approx(clicked[week == 2].mean())


def test_weeks_that_are_alike_raise_nothing() -> None:
    found = 0
    for seed in range(20):
        rows = simulate([Habits() for _ in range(5)], 80, 0.2, seed=seed, are_texts_drawn=False)
        week = np.random.default_rng(seed).integers(0, 5, len(rows.comparisons))[rows.judgments.comparison]
        rows.judgments = replace(rows.judgments, decided_at=BEGIN.timestamp() + week * WEEK)
        found += bool(drift(rows, {}, LIMITS).changes)
    assert found <= 2


def test_snapshots_stand_beside_each_other() -> None:
    rows = simulate([Habits() for _ in range(4)], 100, 0.0, seed=3)
    count = len(rows.comparisons)
    better = rows.judgments.preferred_a[np.argsort(rows.judgments.comparison)]  # one judgment a comparison
    rows.comparisons = replace(rows.comparisons, snapshot_a=np.where(better, 0, 1), snapshot_b=np.where(better, 1, 0))
    rows.snapshots = ["s-good", "s-bad"]
    good, bad = drift(rows, {"s-good": "good", "s-bad": "bad"}, LIMITS).snapshots
    assert (good.name, good.judgments, bad.name, bad.judgments) == ("good", count, "bad", count)
    assert good.preferred.interval is not None
    assert bad.preferred.interval is not None
    assert (good.preferred.interval.value, bad.preferred.interval.value) == (1.0, 0.0)


def test_pasted_turns_are_flagged_for_a_human() -> None:
    rows = simulate([Habits() for _ in range(5)], 100, 0.2, seed=2)
    draw = np.random.default_rng(1)
    seconds = 300 / draw.uniform(3, 8, len(rows.comparisons))  # 300 characters at 3 to 8 a second
    is_pasted = (rows.comparisons.author == 3) & (draw.random(len(seconds)) < 0.6)
    rows.comparisons = replace(
        rows.comparisons,
        written_characters=np.full(len(seconds), 300),
        writing_seconds=np.where(is_pasted, 2.0, seconds),
    )
    workers = {
        worker.worker_id: worker
        for worker in worker_quality(rows, {}, fit_noise(rows.judgments), OwnTexts.of(rows.openings), LIMITS)
    }
    flagged = {id for id, worker in workers.items() if any(flag.kind == "paste" for flag in worker.flags)}
    assert flagged == {"worker-4"}
    pasted = workers["worker-4"].pasted.interval
    assert pasted is not None
    assert pasted.value == pytest.approx(is_pasted[rows.comparisons.author == 3].mean())


def test_who_repeats_their_words_writes_with_less_variety(one_store: Store) -> None:
    fill(one_store, Plan([Person(), Person(copies=0.9)], conversations=30))
    report = quality_report(one_store)
    variety = {worker.pseudonym: worker.variety.interval for worker in report.workers}
    plain, repeating = variety["worker-1"], variety["worker-2"]
    assert plain is not None
    assert repeating is not None
    assert plain.low > 0.95
    assert repeating.high < plain.low
    length = report.workers[0].opening_characters.interval
    assert length is not None
    assert 20 < length.low < length.high < 60  # six words of two to nine letters


def test_researchers_and_workers_by_hand() -> None:
    rows = simulate([Habits(), Habits()], 4, 0.0, seed=0, are_texts_drawn=False)
    # worker 1 is a researcher; on four comparisons, and on four others alike: yes yes, yes no, no no, no no
    judgments = rows.judgments.where(np.repeat(np.arange(8), 2))
    judgments = replace(
        judgments,
        comparison=np.repeat(np.arange(8), 2),
        conversation=np.repeat(np.arange(8), 2),
        worker=np.tile([0, 1], 8),
        preferred_a=np.tile([1, 1, 0, 1, 0, 0, 0, 0], 2).astype(np.bool_),
        grade=np.tile([1, 2, 6, 3, 7, 8, 8, 5], 2),
    )
    found = with_researchers(judgments, np.array([1]), seed=0)
    assert found.pairs == 8
    assert found.raw.interval is not None
    assert found.kappa_side.interval is not None
    assert found.raw.interval.value == 0.75
    # researcher: half yes, worker: one yes in four: by chance 1/2 * 1/4 + 1/2 * 3/4 = 1/2, so kappa 1/2
    assert found.kappa_side.interval.value == pytest.approx(0.5)
    assert "have judged nothing" in with_researchers(judgments, np.zeros(0, dtype=np.int64), 0).raw.unknown


def test_one_week_is_no_drift(one_store: Store) -> None:
    fill(one_store, Plan([Person(), Person()], conversations=5))
    report = quality_report(one_store)
    assert len(report.drift.weeks) == 1
    assert report.drift.changes == ()
    assert report.researchers.pairs == 0
