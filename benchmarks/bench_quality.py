"""The quality report over a million judgments, and Bradley-Terry ratings with a thousand cluster bootstraps.

    python benchmarks/bench_quality.py [--workers 1000] [--comparisons 800] [--overlap 0.25]

A simulated workforce (with planted faults among it) is drawn first, untimed. Timed is everything that the report
computes from columns in memory: all statistics over all judgments and every worker, the model of workers and items,
exact copies over all openings, near copies over the stated number of openings, the verdict. Reading a database is not
in it. The second number rates 20 snapshots from 100,000 comparisons with 1,000 resamples of 1,000 workers. Peak memory
is that of the whole process. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from prefloop.config import QualitySettings
from prefloop.quality import report_on
from prefloop.quality.measures import MOST_TEXTS_FOR_NEAR_COPIES
from prefloop.quality.texts import MOST_OWN_TEXTS
from prefloop.sandbox.workforce import FAULTS, HARD_TOPICS, Habits, simulate
from prefloop.stats import elo


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--comparisons", type=int, default=800, help="of each worker's own")
    parser.add_argument("--overlap", type=float, default=0.25, help="second opinions on a comparison, on average")
    options = parser.parse_args()
    odd = [*FAULTS.values(), HARD_TOPICS]
    people = [odd[i // 10] if i % 10 == 0 and i // 10 < len(odd) else Habits() for i in range(options.workers)]
    rows = simulate(people, options.comparisons, options.overlap, seed=0)
    before = _peak_memory_mb()
    print(f"{len(rows.judgments)} judgments, {len(rows.openings)} openings, {before:.0f} MB", flush=True)
    begin, cpu = time.perf_counter(), time.process_time()
    report = report_on(rows, {}, scope="simulated", limits=QualitySettings(), seed=0)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu
    peak = _peak_memory_mb()
    print(
        f"report of {len(report.workers)} workers: {seconds:.1f} s, {cpu_seconds:.1f} s of processor time", flush=True
    )
    flags = sorted({flag.kind for worker in report.workers for flag in worker.flags})
    ratings = rating_seconds()
    result = {
        "benchmark": "quality",
        "judgments": len(rows.judgments),
        "workers": len(report.workers),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "peak_memory_mb": round(peak),
        "peak_memory_before_mb": round(before),
        "openings_compared_with_own_earlier_ones": min(MOST_OWN_TEXTS, len(rows.openings)),
        "openings_compared_with_all": min(MOST_TEXTS_FOR_NEAR_COPIES, len(rows.openings)),
        "flags_raised": flags,
        "bradley_terry_seconds": round(ratings[0], 2),
        "bradley_terry_cpu_seconds": round(ratings[1], 2),
    }
    print(json.dumps(result))


def _peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
