"""Do the flags find planted faults, and how often do they fall on honest workers?

    python benchmarks/bench_recall.py [--seeds 50] [--comparisons 300] [--overlap 1]

In each seed 20 simulated workers: one with each planted fault, two honest ones on hard topics, the rest honest on
ordinary topics; and a second workforce of 20 honest workers, two of them on hard topics, where every flag is a false
alarm. Beside it stands plain agreement as the paper tried it (D.3): how often others agree with a worker on the
worker's own comparisons, judged by the rule that the flags use (a tenth below the others, chance below 0.05 over the
number of workers). The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence

import numpy as np

from prefloop.config import QualitySettings
from prefloop.quality import Rows, WorkerQuality, fit_noise, worker_quality
from prefloop.quality.measures import agreeing, shared_judgments
from prefloop.quality.text_facts import OwnTexts
from prefloop.sandbox.workforce import FAULTS, HARD_TOPICS, Habits, simulate
from prefloop.stats import excess_chances, wilson

OWN_KIND = {
    "lazy": "straight",
    "side-biased": "side",
    "length-biased": "length",
    "random": "noise",
    "copying prompts": "copies",
    "flipped": "flipped",
    "fast": "pace",
}
WORKERS, HARD = 20, 2
LIMITS = QualitySettings()


def flagged(rows: Rows) -> dict[int, set[str]]:
    """Kinds of flags by place of the worker."""
    noise = fit_noise(rows.judgments)
    found: Sequence[WorkerQuality] = worker_quality(rows, {}, noise, OwnTexts.of(rows.openings), LIMITS)
    return {rows.workers.index(worker.worker_id): {flag.kind for flag in worker.flags} for worker in found}


def blamed_by_agreement(rows: Rows) -> set[int]:
    """Authors with whom others disagree more than with other authors, hard topics or not."""
    shared = shared_judgments(rows.judgments)
    pairs = agreeing(shared)
    is_author = shared.worker == shared.author
    count, author = len(rows.workers), shared.worker[is_author]
    apart = (pairs.others - pairs.agreeing)[is_author]
    against = np.bincount(author, weights=apart, minlength=count).astype(np.int64)
    tries = np.bincount(author, weights=pairs.others[is_author], minlength=count).astype(np.int64)
    rest = (against.sum() - against) / (tries.sum() - tries)
    is_low = against / tries - rest >= LIMITS.least_difference
    return set(np.flatnonzero(is_low & (excess_chances(against, tries) < LIMITS.false_alarms / count)).tolist())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--comparisons", type=int, default=300, help="of each worker's own")
    parser.add_argument("--overlap", type=float, default=1.0, help="second opinions on a comparison, on average")
    options = parser.parse_args()
    begin = time.perf_counter()
    faulty = [*FAULTS.values(), *[HARD_TOPICS] * HARD, *[Habits()] * (WORKERS - len(FAULTS) - HARD)]
    honest = [*[HARD_TOPICS] * HARD, *[Habits()] * (WORKERS - HARD)]
    is_hard = range(len(FAULTS), len(FAULTS) + HARD)
    own, any_kind, alarms, reports = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    plain_hard = adjusted_hard = 0
    plain_honest = adjusted_honest = 0
    for seed in range(options.seeds):
        rows = simulate(faulty, options.comparisons, options.overlap, seed=seed)
        flags = flagged(rows)
        for place, fault in enumerate(FAULTS):
            own[fault] += OWN_KIND[fault] in flags[place]
            any_kind[fault] += bool(flags[place])
        for place in range(len(FAULTS), WORKERS):
            alarms.update(flags[place])
        plain = blamed_by_agreement(rows)
        plain_hard += sum(place in plain for place in is_hard)
        adjusted_hard += sum(bool({"noise", "flipped"} & flags[place]) for place in is_hard)
        honest_rows = simulate(honest, options.comparisons, options.overlap, seed=options.seeds + seed)
        honest_flags = flagged(honest_rows)
        reports.update(set().union(*honest_flags.values()))
        blamed = blamed_by_agreement(honest_rows)
        reports["agreement"] += bool(blamed)
        plain_honest += sum(place in blamed for place in range(HARD))
        adjusted_honest += sum(bool({"noise", "flipped"} & honest_flags[place]) for place in range(HARD))
        print(f"seed {seed}: {time.perf_counter() - begin:.0f} s", flush=True)
    n = options.seeds
    print(f"\n{'fault':16s} {'its flag':9s} found by it [95%]     flagged at all")
    for fault, kind in OWN_KIND.items():
        print(f"{fault:16s} {kind:9s} {_share(own[fault], n)}   {any_kind[fault] / n:.2f}")
    print(f"\nflags on the {(WORKERS - len(FAULTS)) * n} honest workers beside faulty ones: {dict(alarms)}")
    print("reports on honest workforces with at least one flag of a kind:")
    for kind in sorted({*OWN_KIND.values(), "first", "agreement"}):
        print(f"  {kind:9s} {_share(reports[kind], n)}")
    print("honest on hard topics blamed by plain agreement, and flagged as noisy by the model:")
    print(f"  beside faulty workers: {_share(plain_hard, HARD * n)}; {_share(adjusted_hard, HARD * n)}")
    print(f"  among honest workers:  {_share(plain_honest, HARD * n)}; {_share(adjusted_honest, HARD * n)}")
    result = {
        "benchmark": "recall",
        "seeds": n,
        "recall": {fault: own[fault] / n for fault in FAULTS},
        "false_alarms": {kind: reports[kind] / n for kind in sorted({*OWN_KIND.values(), "first"})},
        "hard_topics_blamed_by_agreement": (plain_hard + plain_honest) / (2 * HARD * n),
        "hard_topics_flagged": (adjusted_hard + adjusted_honest) / (2 * HARD * n),
        "seconds": round(time.perf_counter() - begin, 1),
    }
    print(json.dumps(result))


def _share(hits: int, n: int) -> str:
    interval = wilson(hits, n)
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}] n {n}"


if __name__ == "__main__":
    main()
