"""A simulated workforce with every planted fault: each is found by its own flag, honest workers on hard topics are not.

A small version of benchmarks/bench_recall.py, whose table over 50 seeds stands in docs/quality.md.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from prefloop.config import QualitySettings
from prefloop.quality import Rows, WorkerQuality, fit_noise, report_on, worker_quality
from prefloop.quality.measures import agreeing, shared_judgments
from prefloop.quality.text_facts import OwnTexts
from prefloop.sandbox.workforce import FAULTS, HARD_TOPICS, Habits, simulate
from prefloop.stats import excess_chances

LIMITS = QualitySettings()


def _workers(rows: Rows) -> dict[int, WorkerQuality]:
    """By place in the workforce."""
    found = worker_quality(rows, {}, fit_noise(rows.judgments), OwnTexts.of(rows.openings), LIMITS)
    return {rows.workers.index(worker.worker_id): worker for worker in found}


def _kinds(worker: WorkerQuality) -> set[str]:
    return {flag.kind for flag in worker.flags}


def _value(worker: WorkerQuality, name: str) -> float:
    interval = getattr(worker, name).interval
    assert interval is not None
    return float(interval.value)


@pytest.fixture(scope="module")
def planted() -> tuple[Rows, dict[str, WorkerQuality]]:
    """One workforce: a worker with each fault, one on hard topics, ten honest ones."""
    people = {**FAULTS, "first": Habits(first_bias=1.5), "hard": HARD_TOPICS}
    people |= {f"honest-{i}": Habits() for i in range(10)}
    rows = simulate(list(people.values()), comparisons=240, overlap=0.6, seed=3)
    workers = _workers(rows)
    return rows, {name: workers[place] for place, name in enumerate(people)}


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("lazy", "straight"),
        ("side-biased", "side"),
        ("length-biased", "length"),
        ("random", "noise"),
        ("copying prompts", "copies"),
        ("flipped", "flipped"),
        ("fast", "pace"),
        ("first", "first"),
    ],
)
def test_each_fault_is_found_by_its_own_flag(
    planted: tuple[Rows, dict[str, WorkerQuality]], fault: str, kind: str
) -> None:
    worker = planted[1][fault]
    assert kind in _kinds(worker)
    flag = next(flag for flag in worker.flags if flag.kind == kind)
    assert flag.chance < flag.threshold == pytest.approx(LIMITS.false_alarms / len(planted[1]))
    assert any(character.isdigit() for character in flag.sentence)


def test_honest_workers_are_left_alone(planted: tuple[Rows, dict[str, WorkerQuality]]) -> None:
    for name, worker in planted[1].items():
        if name.startswith(("honest", "hard")):
            assert not worker.flags, name


def test_numbers_say_what_was_planted(planted: tuple[Rows, dict[str, WorkerQuality]]) -> None:
    workers = planted[1]
    honest = [worker for name, worker in workers.items() if name.startswith("honest")]
    noise = [_value(worker, "noise") for worker in honest]
    assert _value(workers["random"], "noise") > max(noise)
    assert _value(workers["flipped"], "noise") > 0.5
    assert workers["flipped"].weight == 0.0
    assert _value(workers["side-biased"], "side_a") > 0.6 > max(_value(worker, "side_a") for worker in honest)
    assert _value(workers["length-biased"], "longer") > 0.65
    assert _value(workers["copying prompts"], "own_copies") == pytest.approx(0.5, abs=0.12)  # one word was changed
    assert max(_value(worker, "own_copies") for worker in honest) == 0.0
    # ten times faster
    assert _value(workers["fast"], "reading_seconds") < 0.2 * _value(honest[0], "reading_seconds")
    assert workers["lazy"].longest_run >= 15


def test_hard_topics_lower_agreement_and_not_noise(planted: tuple[Rows, dict[str, WorkerQuality]]) -> None:
    workers = planted[1]
    honest = [worker for name, worker in workers.items() if name.startswith("honest")]
    assert _value(workers["hard"], "agreement") < min(_value(worker, "agreement") for worker in honest)
    assert _value(workers["hard"], "noise") < _value(workers["random"], "noise") - 0.05


def test_plain_agreement_blames_honest_workers_on_hard_topics_and_the_model_does_not() -> None:
    # others' disagreement with authors on their own comparisons, by the rule of the flags: a tenth above the others'
    # share, with a chance below the level
    people = [HARD_TOPICS, HARD_TOPICS, *[Habits()] * 12]
    blamed = 0
    for seed in range(3):
        rows = simulate(people, comparisons=300, overlap=1.0, seed=seed)
        shared = shared_judgments(rows.judgments)
        pairs, is_author = agreeing(shared), shared.worker == shared.author
        apart, author = (pairs.others - pairs.agreeing)[is_author], shared.worker[is_author]
        against = np.bincount(author, weights=apart, minlength=len(people)).astype(np.int64)
        tries = np.bincount(author, weights=pairs.others[is_author], minlength=len(people)).astype(np.int64)
        rest = (against.sum() - against) / (tries.sum() - tries)
        is_blamed = against / tries - rest >= LIMITS.least_difference
        is_blamed &= excess_chances(against, tries) < LIMITS.false_alarms / len(people)
        blamed += int(is_blamed[:2].sum())
        workers = _workers(rows)
        assert not _kinds(workers[0]) | _kinds(workers[1])
    assert blamed >= 3  # of six


def test_flags_fall_on_honest_workforces_as_rarely_as_stated() -> None:
    # 20 reports, 8 kinds, each on at most 0.05 of the reports: 8 expected at most, and a difference that matters is
    # asked for as well; 14 would be more than 2 standard deviations above
    reports = Counter[str]()
    for seed in range(20):
        people = [Habits(temperature=float(t)) for t in np.random.default_rng(seed).uniform(0.8, 1.25, 8)]
        rows = simulate(people, comparisons=60, overlap=0.6, seed=seed)
        reports.update({flag.kind for worker in _workers(rows).values() for flag in worker.flags})
    assert reports.total() < 14, reports
    assert all(number <= 4 for number in reports.values()), reports


def test_nobody_is_flagged_where_everybody_has_the_habit() -> None:
    # machines that read in no time: nobody stands out among them
    rows = simulate([Habits(characters_per_second=1e4)] * 5, comparisons=40, overlap=0.5)
    assert not any(_kinds(worker) & {"pace", "noise"} for worker in _workers(rows).values())


def test_the_report_of_a_workforce_names_its_rules_and_weights(
    planted: tuple[Rows, dict[str, WorkerQuality]],
) -> None:
    report = report_on(planted[0], {}, scope="planted", limits=LIMITS, seed=0)
    raised = {flag.kind for worker in report.workers for flag in worker.flags}
    assert raised <= {rule.kind for rule in report.flag_rules}
    assert all(rule.false_alarms == LIMITS.false_alarms and rule.rule for rule in report.flag_rules)
    weights = [worker.weight for worker in report.workers if worker.weight is not None]
    assert len(weights) == len(report.workers)
    assert np.mean(weights) == pytest.approx(1.0)
    assert report.noise.typical.interval is not None
    assert report.concentration.gini.interval is not None
    assert report.concentration.gini.interval.value < 0.1  # everybody made about as many
    assert "20 busiest" in report.concentration.top_20.unknown
