"""The quality report over a million judgments in a database, and Bradley-Terry ratings with cluster bootstraps.

    python benchmarks/bench_quality.py [--workers 1000] [--comparisons 800] [--overlap 0.25] [--database FILE]

A simulated workforce (with planted faults among it) is drawn and written into a SQLite database first, untimed; with
--database it is kept there, and used again if it is there already. Timed is `quality_report`: reading the database,
all statistics over all judgments and every worker, the model of workers and items, checks of texts over the stated
number of openings, the verdict. The second number rates 20 snapshots from 100,000 comparisons with 1,000 resamples of
1,000 workers. Peak memory is that of a process of its own, which reads and reports and nothing else. The last line of
output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import create_engine, insert

from prefloop.config import QualitySettings
from prefloop.quality import Rows, quality_report
from prefloop.schema import new_id
from prefloop.stats import elo
from prefloop.store import Store, tables

_ROWS_AT_ONCE = 5000


def write(rows: Rows, file: Path, draw: np.random.Generator) -> None:
    """Simulated columns as rows of a new database, with texts of the lengths that they have."""
    url = f"sqlite:///{file}"
    Store.open(url).close()
    engine = create_engine(url)
    words = "".join(draw.choice(list("etaoinshrdlu     "), size=5_000_000))
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA synchronous=OFF")
        for table, some in _tables(rows, words, draw):
            connection.execute(insert(table), some)
    engine.dispose()


def _tables(rows: Rows, words: str, draw: np.random.Generator) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
    begin = datetime(2026, 1, 5, tzinfo=UTC)
    workers = [new_id() for _ in rows.workers]
    yield (
        tables.worker,
        [
            {"id": id, "pseudonym": name, "role": "worker", "is_simulated": True, "created_at": begin}
            for id, name in zip(workers, rows.workers, strict=True)
        ],
    )
    judgments, comparisons = rows.judgments, rows.comparisons
    starts = np.searchsorted(np.sort(judgments.comparison), np.arange(len(comparisons) + 1))
    by_comparison = np.argsort(judgments.comparison, kind="stable")
    openings = dict(zip(rows.openings.conversation.tolist(), rows.openings.code.tolist(), strict=True))
    pending: dict[Any, list[dict[str, Any]]] = {
        table: []
        for table in (tables.conversation, tables.message, tables.response, tables.comparison, tables.judgment)
    }

    def text(length: int) -> str:
        start = int(draw.integers(0, len(words) - length))
        return words[start : start + length].strip() or "e"

    conversation, leaf = "", ""
    for place in range(len(comparisons)):
        author = workers[comparisons.author[place]]
        first_row = by_comparison[starts[place]]
        made = datetime.fromtimestamp(float(judgments.decided_at[first_row]), UTC) - timedelta(minutes=10)
        if comparisons.turn[place] == 1:
            code = openings[int(comparisons.conversation[place])]
            conversation, leaf = new_id(), new_id()
            facts = {"mode": "helpful", "study_id": None, "worker_id": author, "origin": "collected"}
            pending[tables.conversation].append(
                {"id": conversation, **facts, "created_at": made, "ended_at": None, "end_reason": None}
                | {"import_digest": None}
            )
            opening = rows.openings.texts.get(code) or text(120)
            pending[tables.message].append(_message(leaf, conversation, None, "user", opening, made))
        else:
            answer, parent = new_id(), leaf
            leaf = new_id()
            pending[tables.message] += [
                _message(answer, conversation, parent, "assistant", last, made),
                _message(leaf, conversation, answer, "user", text(80), made + timedelta(seconds=20)),
            ]
        rank = int(judgments.first_done[first_row])  # 1: A was complete first
        done = [made + timedelta(seconds=25 + (sign * rank < 0)) for sign in (1, -1)]
        a, b = new_id(), new_id()
        last = text(int(comparisons.length_a[place]))
        for id, reply, at in ((a, last, done[0]), (b, text(int(comparisons.length_b[place])), done[1])):
            pending[tables.response].append(
                {"id": id, "snapshot_id": None, "text": reply, "state": "done", "sampling": None, "seed": 1}
                | {"tokens": 40, "finish_reason": "stop", "error": None, "created_at": made}
                | {"first_token_at": made + timedelta(seconds=24), "done_at": at}
            )
        id = new_id()
        pending[tables.comparison].append(
            {"id": id, "conversation_id": conversation, "context_message_id": leaf, "state": "judged"}
            | {"turn": int(comparisons.turn[place]), "response_a_id": a, "response_b_id": b, "mode": "helpful"}
            | {"tranche": "base", "study_id": None, "worker_id": author, "void_reason": None}
            | {"interface_version": "", "instructions_version": "", "created_at": made, "overlap_draw": 0.5}
            | {"import_digest": None}
        )
        for row in by_comparison[starts[place] : starts[place + 1]].tolist():
            clicked = "a" if judgments.clicked_a[row] else "b"
            decided = datetime.fromtimestamp(float(judgments.decided_at[row]), UTC)
            first_token = decided - timedelta(seconds=float(judgments.reading_seconds[row]))
            pending[tables.judgment].append(
                {"id": new_id(), "comparison_id": id, "worker_id": workers[judgments.worker[row]]}
                | {"question": "more_helpful", "grade": int(judgments.grade[row]), "clicked": clicked}
                | {"preferred": clicked, "reason_tags": [], "marks": [], "is_checked": False, "checked_source": ""}
                | {"go_on_with": None, "revises": None, "interface_version": "", "instructions_version": ""}
                | {"input_device": "mouse", "shown_at": None, "first_token_at": first_token, "both_done_at": None}
                | {"decided_at": decided}
            )
        if (place + 1) % _ROWS_AT_ONCE == 0 or place + 1 == len(comparisons):
            for table, some in pending.items():
                if some:
                    yield table, some
                pending[table] = []


def _message(id: str, conversation: str, parent: str | None, role: str, text: str, at: datetime) -> dict[str, Any]:
    return {"id": id, "conversation_id": conversation, "parent_id": parent, "role": role, "text": text} | {
        "response_id": None,
        "created_at": at,
        "import_digest": None,
    }


def rating_seconds(comparisons: int = 100_000, players: int = 20, workers: int = 1000) -> tuple[float, float]:
    """Seconds and processor seconds of one Elo table with 1,000 resamples of the workers."""
    draw = np.random.default_rng(0)
    strengths = draw.normal(0, 0.7, players)
    first = draw.integers(0, players, comparisons)
    second = (first + draw.integers(1, players, comparisons)) % players
    won = draw.random(comparisons) < 1 / (1 + np.exp(strengths[second] - strengths[first]))
    names = [f"snapshot-{i}" for i in range(players)]
    sides = [names[i] for i in first], [names[i] for i in second]
    clusters = draw.integers(0, workers, comparisons)
    begin, cpu = time.perf_counter(), time.process_time()
    table = elo(*sides, won.astype(np.float64), clusters, anchor=names[0], resamples=1000)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    print(f"ratings of {len(table.ratings)} snapshots from {comparisons} comparisons: {seconds:.2f} s", flush=True)
    return seconds, cpu_seconds


def report_seconds(file: str, answer: Any) -> None:
    """In a process of its own: seconds, processor seconds and megabytes (its helper's too) of one report."""
    begin, cpu = time.perf_counter(), time.process_time()
    with Store.open(f"sqlite:///{file}") as store:
        report = quality_report(store, limits=QualitySettings(), processes=2)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    own, helper = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    answer.send(
        {
            "judgments": report.counts.judgments,
            "workers": len(report.workers),
            "seconds": round(seconds, 2),
            "cpu_seconds": round(cpu_seconds + helper.ru_utime + helper.ru_stime, 2),
            "peak_memory_mb": round((own.ru_maxrss + helper.ru_maxrss) / 1024),
            "openings_compared_with_all": report.duplicates.openings_checked,
            "flags_raised": sorted({flag.kind for worker in report.workers for flag in worker.flags}),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--comparisons", type=int, default=800, help="of each worker's own")
    parser.add_argument("--overlap", type=float, default=0.25, help="second opinions on a comparison, on average")
    parser.add_argument("--database", type=Path, help="SQLite file to write, or to read if it is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = options.database or Path(folder) / "quality.db"
        if not file.exists():
            from prefloop.sandbox.workforce import FAULTS, HARD_TOPICS, Habits, simulate  # heavy, not for the child

            odd = [*FAULTS.values(), HARD_TOPICS]
            people = [odd[i // 10] if i % 10 == 0 and i // 10 < len(odd) else Habits() for i in range(options.workers)]
            write(simulate(people, options.comparisons, options.overlap, seed=0), file, np.random.default_rng(0))
        print(f"database of {file.stat().st_size / 2**20:.0f} MB", flush=True)
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=report_seconds, args=(str(file), there))
        process.start()
        there.close()  # so that a process that dies ends the wait below
        found = here.recv()
        process.join()
    print(f"report on {found['judgments']} judgments: {found['seconds']:.1f} s", flush=True)
    ratings = rating_seconds()
    print(
        json.dumps(
            {
                "benchmark": "quality",
                **found,
                "bradley_terry_seconds": round(ratings[0], 2),
                "bradley_terry_cpu_seconds": round(ratings[1], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
