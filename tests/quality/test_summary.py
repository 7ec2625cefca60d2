"""The report on a terminal: the verdict, what is known, and nothing that is not."""

from __future__ import annotations

import re

from workforce import Person, Plan, fill

from prefloop.quality import quality_report, summary
from prefloop.sandbox.judges import Traits
from prefloop.store import Store


def test_of_nothing_no_number_is_said(one_store: Store) -> None:
    said = summary(quality_report(one_store))
    assert "no judgments yet" in said
    assert "Numbers" not in said
    assert re.findall(r"\d+", said) == ["0", "0", "0"]


def test_the_verdict_the_numbers_and_the_flags_are_said(one_store: Store) -> None:
    leaning = Person(Traits(side_bias=3.0, careless=0.0))
    fill(one_store, Plan([leaning, *[Person() for _ in range(3)]], conversations=30, overlap=0.0))
    report = quality_report(one_store)
    said = summary(report)
    assert "240 judgments by 4 workers in 120 conversations" in said
    assert report.side_a.interval is not None
    assert f"clicks on side A                 {report.side_a.interval.value:.2f} [" in said
    assert "worker-1: clicked A" in said
    assert "agreement of two workers" not in said  # nobody judged what another one did: the verdict says it
    assert "no comparison twice" in said
