"""Real votes (124 workers, 2,139 pairs) through the report's own columns: the published agreement, and noise."""

from __future__ import annotations

import csv
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from prefloop.quality import Judgments, fit_noise
from prefloop.quality.measures import agreement
from prefloop.stats import label_codes


@pytest.fixture(scope="module")
def votes(data_root: Path) -> Judgments:
    """Votes without ties, as judgments that prefer the left answer (A) or the right one; prompts stand for authors."""
    with (data_root / "llmfao" / "llmfao.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["winner"] != "tie"]
    is_left = np.array([row["winner"] == "left" for row in rows])
    columns = {part.name: np.zeros(len(rows)) for part in fields(Judgments)}
    pair, _ = label_codes([row["id"] for row in rows])
    columns |= {"comparison": pair, "conversation": pair, "clicked_a": is_left, "preferred_a": is_left}
    columns |= {
        name: label_codes([row[key] for row in rows])[0] for name, key in (("worker", "worker"), ("author", "prompt"))
    }
    return Judgments.of(columns)


@pytest.mark.real_data
def test_agreement_without_ties_is_the_published_one(votes: Judgments) -> None:
    found = agreement(votes, seed=0)
    assert found.raw.interval is not None
    assert found.alpha_side.interval is not None
    assert found.raw.interval.value == pytest.approx(0.701, abs=5e-4)
    assert found.alpha_side.interval.value == pytest.approx(0.370, abs=5e-4)
    assert found.raw.interval.low < 0.701 < found.raw.interval.high
    assert found.alpha_side.interval.low > 0.3


@pytest.mark.real_data
def test_workers_differ_in_noise(votes: Judgments) -> None:
    fit = fit_noise(votes).fit
    assert fit is not None
    assert len(fit.workers) == 124
    assert fit.typical_noise.high < 0.25  # far from a coin: without ties seven of ten pairs of votes agree
    assert fit.spread > 0.3 * fit.typical  # and far from alike
    busiest = int(np.argmax(fit.judgments))
    idlest = int(np.argmin(fit.judgments))
    assert fit.deviations[busiest] < fit.deviations[idlest]
