"""What the report gives to training: a share of wrong labels that is there, weights that a run reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from workforce import Person, Plan, fill

from prefloop.cli import main
from prefloop.errors import DataError
from prefloop.quality import label_smoothing, quality_report, summary, worker_weights
from prefloop.sandbox.judges import Traits
from prefloop.store import Store
from prefloop.train.lessons import Lessons, read_worker_weights
from prefloop.workspace import Workspace

CAREFUL, CARELESS = Traits(side_bias=0.0, careless=0.0), Traits(side_bias=0.0, careless=1.0)


def collected(store: Store) -> list[str]:
    """Six workers, the last one careless; their ids."""
    people = [*[Person(CAREFUL) for _ in range(5)], Person(CARELESS)]
    return [worker.id for worker in fill(store, Plan(people, conversations=50, overlap=1.0))]


def test_a_run_weighs_the_careless_worker_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace.create(tmp_path / "ws")
    with workspace.store() as store:
        ids = collected(store)
        pairs = list(store.pairs())
    file = tmp_path / "weights.json"
    with pytest.raises(SystemExit) as ended:
        main(["quality", "--worker-weights", str(file), "--workspace", str(workspace.path), "--json"])
    printed = capsys.readouterr()
    assert (ended.value.code, f"{file}: 6 weights" in printed.err) == (0, True)
    weights = read_worker_weights(file)
    assert set(weights) == set(ids)
    assert min(weights, key=lambda name: weights[name]) == ids[-1]
    assert sum(weights.values()) / 6 == pytest.approx(1)
    lessons = Lessons.of(pairs, worker_weights=weights)
    of_worker = dict(zip((pair.worker_id for pair in lessons.pairs), lessons.weights.tolist(), strict=True))
    assert of_worker.get(ids[-1], 0.0) < 0.5 * min(of_worker[name] for name in ids[:-1])
    assert json.loads(printed.out)["label_smoothing"]["interval"]["n"] > 100


def test_smoothing_is_the_share_of_wrong_labels_that_agreement_implies(one_store: Store) -> None:
    collected(one_store)
    report = quality_report(one_store)
    agreement, found = report.agreement_without_weakest.raw.interval, label_smoothing(report).interval
    assert agreement is not None
    assert found is not None
    # two labels that are wrong with e each agree in e^2 + (1 - e)^2
    assert found.value**2 + (1 - found.value) ** 2 == pytest.approx(agreement.value)
    assert 0 < found.low < found.value < found.high < 0.5
    assert "suggested label_smoothing" in summary(report)


def test_what_is_not_known_is_said(one_store: Store) -> None:
    report = quality_report(one_store)
    assert label_smoothing(report).interval is None
    with pytest.raises(DataError, match="No worker's weight is known"):
        worker_weights(report)
