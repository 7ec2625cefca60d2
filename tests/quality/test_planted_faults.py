"""Each planted fault is found by its own statistic, and honest workers are left alone at the stated rate."""

from __future__ import annotations

import pytest
from workforce import Person, Plan, fill

from prefloop.config import QualitySettings
from prefloop.quality import QualityReport, quality_report
from prefloop.sandbox.judges import Traits
from prefloop.schema import Mode
from prefloop.store import Store

_HONEST = [Person() for _ in range(6)]


def _flags(report: QualityReport) -> dict[str, tuple[str, ...]]:
    """Kinds of flags by pseudonym, flagged workers only."""
    return {w.pseudonym: tuple(flag.kind for flag in w.flags) for w in report.workers if w.flags}


def _warnings(report: QualityReport) -> str:
    return " ".join(finding.sentence for finding in report.verdict if finding.level == "warning")


def test_honest_workers_stand_out_in_nothing(one_store: Store) -> None:
    fill(one_store, Plan(_HONEST, conversations=100))
    report = quality_report(one_store)
    assert _flags(report) == {}
    assert _warnings(report) == ""
    good = " ".join(finding.sentence for finding in report.verdict if finding.level == "good")
    assert "Workers agree beyond chance" in good
    assert "Clicks do not lean to a side" in good
    assert "None of the 6 workers stands out" in good


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Person(Traits(side_bias=2.0, careless=0.0)), "side"),
        (Person(Traits(side_bias=-2.0, careless=0.0)), "side"),
        (Person(copies=0.6), "copies"),
    ],
)
def test_a_fault_is_seen_in_its_worker_and_in_no_other(one_store: Store, fault: Person, kind: str) -> None:
    fill(one_store, Plan([*_HONEST, fault]))
    report = quality_report(one_store)
    assert kind in _flags(report)["worker-7"]
    assert set(_flags(report)) == {"worker-7"}
    assert "1 of 7 workers stand out: worker-7" in _warnings(report)


def test_a_careless_worker_is_the_noisiest_and_weighs_least(one_store: Store) -> None:
    fill(one_store, Plan([*_HONEST, Person(Traits(careless=1.0))], conversations=60, overlap=1.0))
    report = quality_report(one_store)
    assert set(_flags(report)) <= {"worker-7"}
    by_name = {worker.pseudonym: worker for worker in report.workers}
    careless, honest = by_name.pop("worker-7"), list(by_name.values())
    assert careless.agreement.interval is not None
    assert careless.agreement.interval.low < 0.5 < careless.agreement.interval.high  # random judgments agree by chance
    noise = [worker.noise.interval.value for worker in honest if worker.noise.interval]
    assert len(noise) == 6
    assert careless.noise.interval is not None
    assert careless.noise.interval.value > max(noise)
    assert careless.noise.interval.low < 0.5 < careless.noise.interval.high
    assert careless.weight is not None
    assert careless.weight < min(worker.weight or 0.0 for worker in honest)


def test_a_workforce_that_leans_to_one_side_is_warned_of(one_store: Store) -> None:
    fill(one_store, Plan([Person(Traits(side_bias=0.9, careless=0.0)) for _ in range(4)]))
    assert "Clicks lean to one side" in _warnings(quality_report(one_store))


def test_guessing_workers_hardly_agree(one_store: Store) -> None:
    fill(one_store, Plan([Person(Traits(careless=1.0)) for _ in range(5)], overlap=1.0))
    assert "Workers hardly agree" in _warnings(quality_report(one_store))


@pytest.mark.parametrize("mode", [Mode.HELPFUL, Mode.RED_TEAM])
def test_a_preference_for_length_is_seen_in_either_mode(one_store: Store, mode: Mode) -> None:
    fill(one_store, Plan(_HONEST, mode=mode, length_effect=0.2))
    report = quality_report(one_store)
    slope = report.length[mode].slope.interval
    assert slope is not None
    assert slope.low > 0.5
    assert f"In {mode.value.replace('_', '-')} mode the longer reply is preferred" in _warnings(report)
    assert _flags(report) == {}


def test_identical_responses_are_warned_of(one_store: Store) -> None:
    fill(one_store, Plan(_HONEST, identical=0.3))
    assert "show one text twice" in _warnings(quality_report(one_store))


def test_limits_can_be_set(one_store: Store) -> None:
    fill(one_store, Plan(_HONEST))
    strict = quality_report(one_store, limits=QualitySettings(least_alpha=0.9))
    assert "Workers hardly agree" in _warnings(strict)
