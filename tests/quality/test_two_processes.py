"""A second process reads and looks through texts; nothing of the report changes by it."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from workforce import Person, Plan, fill

from prefloop.config import QualitySettings
from prefloop.quality import Rows, report_on
from prefloop.quality.reading import Part, read_rows
from prefloop.schema import Score, Snapshot
from prefloop.store import Store

PLAN = Plan([Person(copies=0.3), Person(), Person(), Person()], conversations=15, overlap=0.5, identical=0.1)


@pytest.fixture(scope="module")
def helper() -> Iterator[Executor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as made:
        yield made


@pytest.fixture
def filled(one_store: Store) -> Store:
    """120 comparisons, the first replies of some scored."""
    fill(one_store, PLAN)
    model = one_store.add_snapshot(Snapshot(name="judge", hash="0", path="judge", kind="preference_model"))
    ids = [row[0] for batch in one_store.batches() for row in batch.comparisons][:50]
    sides = [row[14] for batch in one_store.batches() for row in batch.comparisons if row[0] in ids]
    one_store.add_scores(Score(response_id=id, preference_model_id=model.id, value=0.5) for id in sides)
    return one_store


def _plain(rows: Rows) -> dict[str, Any]:
    """Everything that the statistics read, as lists."""
    tables = {
        f"{name} {column.name}": getattr(table, column.name)
        for name, table in (("judgment", rows.judgments), ("comparison", rows.comparisons))
        for column in fields(table)
    }
    openings = {name: getattr(rows.openings, name) for name in ("conversation", "worker", "code", "place")}
    scores = {
        f"{model} {side}": getattr(one, side) for model, one in rows.scores.items() for side in ("score_a", "score_b")
    }
    arrays = {key: np.nan_to_num(value, nan=-9).tolist() for key, value in (tables | openings | scores).items()}
    return arrays | {
        "texts": list(rows.openings.texts.items()),
        "conversations": rows.openings.conversations,
        "turns": rows.turns.turns(),
        **{name: getattr(rows, name) for name in ("workers", "snapshots", "studies", "corrected")},
        "states": list(rows.states.items()),
    }


@pytest.mark.parametrize("batch", [7, 15, 30])  # 7 and 15 leave a conversation of two comparisons on both sides
def test_two_readers_read_what_one_does(filled: Store, helper: Executor, batch: int) -> None:
    part = Part(batch=batch)
    middle = filled.middle(*part)
    read = [row[0] for one in filled.batches(*part) for row in one.comparisons]
    assert middle is not None
    assert (read.index(middle) + 1) % batch == 0
    assert 30 < read.index(middle) < 90
    assert _plain(read_rows(filled, part, helper)) == _plain(read_rows(filled, part))


def test_a_small_store_is_read_by_one(filled: Store) -> None:
    assert filled.middle() is None
    assert filled.middle(batch=31) is None  # fewer than four batches


def test_texts_looked_through_elsewhere_make_the_same_report(filled: Store, helper: Executor) -> None:
    rows = read_rows(filled, Part())
    one, two = (
        report_on(rows, {}, scope="all", limits=QualitySettings(), seed=0, helper=other) for other in (None, helper)
    )
    assert one.model_dump(exclude={"created_at"}) == two.model_dump(exclude={"created_at"})
    copies = [worker.own_copies.interval for worker in two.workers]
    assert max(share.value for share in copies if share is not None) > 0
