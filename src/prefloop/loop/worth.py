"""`prefloop eval worth`: from people, hours and money to comparisons, and from a learning curve to accuracy. No models.

Knows the numbers that `prefloop eval scan` left behind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, TypeAdapter, ValidationError

from prefloop.errors import DataError, NotFoundError
from prefloop.evals import ScanEvaluation
from prefloop.evals.scans import ALL, x_of
from prefloop.schema import Interval, Noun
from prefloop.stats import FittedPoint, fitted_line, judgments_to_see, line_of_means, line_over_runs

__all__ = ["CollectionPlan", "Expected", "plan_collection"]

_WIN_RATES = (0.55, 0.6, 0.65)
_SETTING = "training_pairs"
_OLDER = (
    "The scan does not say how its points vary together, as those of older versions do not, so the band takes them as "
    "independent and is too narrow; scan again with --resume, which trains nothing again."
)


class Expected(Noun):
    """What a learning curve lets expect; bands are of its line, over seeds where each has pairs of its own, else over
    the conversations that all seeds are tested on."""

    comparisons_now: int = Field(description="the largest number that the curve was measured at")
    comparisons_then: int
    accuracy_now: Interval
    accuracy_then: Interval
    gain: float
    gain_per_thousand_more: float = Field(description="of the first thousand comparisons beyond those of now")
    cost_per_point: float | None = Field(description="money for a hundredth of accuracy; None: free, or no gain")
    note: str = ""


class CollectionPlan(Noun):
    """A plan of what to collect and what to expect."""

    hours: float = Field(description="of all workers together")
    comparisons: int
    cost: float
    curves: dict[str, Expected] = Field(description="by title of the scan")
    judgments_to_see: dict[str, int] = Field(
        description="independent judgments that tell a win rate from one half four times of five"
    )


def plan_collection(
    scan_run: Path, workers: int, hours: float, per_hour: float, price: float, budget: float | None = None
) -> CollectionPlan:
    """The plan of so many workers for so many hours each, or until the budget is spent.

    Args:
        scan_run: the folder of a scan over training_pairs.
        per_hour: comparisons that one worker makes in an hour.
        price: of an hour of one worker.

    Errors:
        NotFoundError: no scan there.
        DataError: it has no curve over training_pairs with three points.
    """
    file = scan_run / "scan.json"
    if not file.is_file():
        raise NotFoundError(f"There is no {file}; give the run folder that `prefloop eval scan` wrote.")
    try:
        scans = TypeAdapter(dict[str, ScanEvaluation]).validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DataError(f"{file} is not a scan of this version ({error.error_count()} errors); scan again.") from None
    total = workers * hours
    if budget is not None and price > 0:
        total = min(total, budget / price)
    comparisons, cost = int(total * per_hour), total * price
    curves = {title: scan for title, scan in scans.items() if scan.setting == _SETTING}
    if not curves:
        raise DataError(f"{file} has no scan over {_SETTING} (it has {', '.join(scans)}); scan that setting.")
    return CollectionPlan(
        hours=total,
        comparisons=comparisons,
        cost=cost,
        curves={title: _expected(title, scan, comparisons, cost) for title, scan in curves.items()},
        judgments_to_see={f"{rate:.0%}": judgments_to_see(rate) for rate in _WIN_RATES},
    )


def _expected(title: str, scan: ScanEvaluation, more: int, cost: float) -> Expected:
    if not scan.points:
        raise DataError(
            f"The scan {title!r} has no curve to plan by: its {len(scan.failed)} trainings failed; scan again."
        )
    pairs = [x_of(_SETTING, point) or 0.0 for point in scan.points]
    now = round(max(pairs))
    then = now + more
    try:
        (here, there, thousand), doubt = _line(scan, pairs, [math.log(now), math.log(then), math.log(now + 1000)])
    except DataError as error:
        raise DataError(f"The scan {title!r} has no curve to plan by. {error}") from None
    gain = there.y.value - here.y.value
    is_far = then > 3 * now
    beyond = f"That is {then / now:.1f} times what was measured; a line need not go on so far." if is_far else ""
    note = " ".join(part for part in (beyond, doubt) if part)
    return Expected(
        comparisons_now=now,
        comparisons_then=then,
        accuracy_now=here.y,
        accuracy_then=there.y,
        gain=gain,
        gain_per_thousand_more=thousand.y.value - here.y.value,
        cost_per_point=cost / (100 * gain) if cost > 0 and gain > 0 else None,
        note=note,
    )


def _line(scan: ScanEvaluation, pairs: Sequence[float], at: Sequence[float]) -> tuple[tuple[FittedPoint, ...], str]:
    """Over the lines of the seeds where each has pairs of its own, else over the conversations that all share.

    Of an older scan all points, as if they were independent: then a sentence says so.
    """
    shares, x = [point.accuracy[ALL] for point in scan.points], [math.log(count) for count in pairs]
    n = sum(share.n for share in shares)
    if scan.covariance is not None:
        clusters = max(share.clusters or 0 for share in shares)
        means = [share.value for share in shares]
        return line_of_means(x, means, scan.covariance, at, n=n, clusters=clusters).band, ""
    if scan.is_over_seeds:
        if len(scan.whole_seeds) < 2:
            raise DataError(
                f"Of {len(scan.seeds)} seeds {len(scan.whole_seeds)} have a model at every value; scan more."
            )
        runs = [[point.by_seed[seed] for point in scan.points] for seed in scan.whole_seeds]
        return line_over_runs(x, runs, at, n=n).band, ""
    points = [(math.log(x), y) for x, point in zip(pairs, scan.points, strict=True) for y in point.by_seed.values()]
    return fitted_line([x for x, _ in points], [y for _, y in points], at), _OLDER
