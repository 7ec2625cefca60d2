"""How noisy each worker is, with the items' difficulty taken out. Knows workers, items, choices and groups of items.

Plain agreement blames an honest worker on hard topics (paper D.3). Here a choice is a draw from

    P(worker w prefers side A of item i) = sigmoid(strength_w * exp(ease_g) * z_i),    z_i ~ N(0, 1)

where z_i says which side is better and by how much, ease_g is what all items of group g (a topic, say) share, and
strength_w is what the worker adds: 0 is a coin, below 0 is against everybody else (Whitehill et al. 2009, GLAD, with
the items integrated out over Gauss-Hermite nodes). Strengths and eases have normal priors whose mean and spread come
from the data (empirical Bayes), so a worker with few shared items stands near the typical one, with a wide interval.

Two things cannot be known from choices alone. The model holds as well with every sign turned, so most workers are
taken to be more right than wrong. And only items with two or more judgments say anything.
"""

from __future__ import annotations

import os
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse, special

from prefloop.errors import DataError
from prefloop.schema import Interval
from prefloop.stats.intervals import LEVEL, Floats, Ints, Labels, label_codes
from prefloop.stats.posterior import Posterior, posterior

_NODES, _NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(14)
_Z = _NODES[7:]  # the positive half; the other half is its mirror image
_LOG_WEIGHTS = np.log(_NODE_WEIGHTS[7:] / _NODE_WEIGHTS[7:].sum() / 2)
_SIZES = special.ndtri(0.5 + (np.arange(200) + 0.5) / 400)  # equally likely sizes of z
_CHUNK = 16_000  # judgments whose nodes are held at once, near the processor
_THREADS = min(os.cpu_count() or 1, 8)
_ROUNDS = 5
_LEAST_SPREAD, _MOST_SPREAD = 0.15, 1.5


@dataclass(frozen=True)
class Reliability:
    """The fit. Arrays are per worker, in the order of `workers`.

    Attributes:
        workers: labels, in order of first appearance.
        strengths: 0 is a coin, `typical` the mean worker.
        deviations: posterior standard deviations of the strengths.
        lead_deviations: standard errors of `leads`, prior of strengths left out; what moves all alike is not in them.
        estimates: strengths without the pull of the prior towards the typical one; infinite where it says all.
        errors: their standard errors.
        typical_deviation: of the mean strength, workers given.
        typical, spread: mean and standard deviation of strengths over workers.
        judgments: shared judgments behind each strength; 0 where nothing but the prior speaks.
        eases: log of what each group's items multiply a strength by, 0 for a typical item; labels are `groups`.
    """

    workers: list[Hashable]
    strengths: Floats
    deviations: Floats
    lead_deviations: Floats
    estimates: Floats
    errors: Floats
    typical: float
    typical_deviation: float
    spread: float
    judgments: Ints
    groups: list[Hashable]
    eases: Floats

    @cached_property
    def places(self) -> dict[Hashable, int]:
        """Label -> place in the arrays."""
        return {label: place for place, label in enumerate(self.workers)}

    @cached_property
    def weights(self) -> Floats:
        """(worker,) weights of judgments for training, 1 on average over workers, never below 0.

        In logits linear around 0 the best weight of a choice is its strength; a worker against everybody gets 0
        and not less, for turning labels around is a decision for people.
        """
        kept = np.maximum(self.strengths, 0.0)
        mean = kept.mean()
        return np.asarray(kept / mean if mean > 0 else np.ones_like(kept), dtype=np.float64)

    def noise(self, worker: int, level: float = LEVEL) -> Interval:
        """Chance that this worker (by place) prefers the worse side of a typical item; 0.5 is a coin.

        A typical item has its own ambiguity, which is in this number too: compare with `typical_noise`.
        """
        half = -special.ndtri((1 - level) / 2) * self.deviations[worker]
        ends = self.strengths[worker] + np.array([0.0, half, -half])
        value, low, high = noise_of(ends)
        n = int(self.judgments[worker])
        return Interval(value=float(value), low=float(low), high=float(high), n=n, clusters=n)

    @property
    def typical_noise(self) -> Interval:
        """The same of the mean worker."""
        half = special.ndtri(0.5 + LEVEL / 2) * self.typical_deviation
        value, low, high = noise_of(self.typical + np.array([0.0, half, -half]))
        n = int(self.judgments.sum())
        return Interval(value=float(value), low=float(low), high=float(high), n=n, clusters=len(self.workers))

    @property
    def leads(self) -> Floats:
        """(worker,) each strength less the mean of all others."""
        count = len(self.strengths)
        return np.asarray((self.strengths * count - self.strengths.sum()) / (count - 1), dtype=np.float64)


def noise_of(strengths: Floats) -> Floats:
    """(worker,) strengths -> chances to prefer the worse side of a typical item."""
    return np.asarray(special.expit(-strengths[:, None] * _SIZES).mean(axis=1), dtype=np.float64)


def reliability(
    workers: Labels, items: Labels, is_first: npt.NDArray[np.bool_], groups: Labels | None = None
) -> Reliability:
    """Fits the model of the module's docstring by maximum a posteriori.

    Args:
        workers: who made each judgment; at most one judgment of a worker on an item.
        items: what was judged.
        is_first: whether the judgment prefers the item's first side (of the item, not of a screen that swaps them).
        groups: of each judgment, the same for all judgments of an item; None: all items are of one group.

    Errors:
        DataError: lengths differ, fewer than two workers, or no item judged by two of them.
    """
    worker_codes, worker_names = label_codes(workers)
    group_codes, group_names = label_codes(np.zeros(len(workers), dtype=np.int64) if groups is None else groups)
    if not len(workers) == len(items) == len(is_first) == len(group_codes):
        raise DataError(f"{len(workers)} workers do not fit {len(items)} items and {len(is_first)} choices.")
    if len(worker_names) < 2:
        raise DataError(f"There are judgments of {len(worker_names)} workers; noise needs two on the same items.")
    shared = _shared(label_codes(items)[0], worker_codes, group_codes, np.asarray(is_first, dtype=np.bool_))
    if len(shared.worker) == 0:
        raise DataError(f"None of {len(set(items))} items was judged by two workers; collect overlap.")

    count = len(worker_names)
    has_groups = len(group_names) > 1
    typical, spread, ease_spread = 1.0, 0.5, 0.5
    place = np.concatenate([np.full(count, typical), np.zeros(len(group_names))])
    for _ in range(_ROUNDS):
        prior = _Prior(
            np.concatenate([np.full(count, typical), np.zeros(len(group_names))]),
            np.concatenate([np.full(count, spread), np.full(len(group_names), ease_spread if has_groups else 1e-3)]),
        )
        place = _maximise(shared, prior, place, count)
        known = posterior(_information(shared, place, count), prior.spread, count)
        before = typical, spread, ease_spread
        strengths, eases = place[:count], place[count:]
        typical = max(float(strengths.mean()), 0.1)
        spread = _clipped(np.sqrt(np.mean((strengths - typical) ** 2 + known.variances)))
        ease_spread = _clipped(np.sqrt(np.mean(eases**2) + known.group_variance))
        if np.allclose(before, (typical, spread, ease_spread), rtol=0.05):
            break
    middle = float(place[count + shared.group].mean())  # a typical item is one of those that were judged
    unit = float(np.exp(middle))
    drawn = prior.spread[0] ** 2
    kept = np.maximum(1 - known.variances / drawn, 1e-9)  # what the prior leaves of a difference
    return Reliability(
        workers=worker_names,
        strengths=place[:count] * unit,
        deviations=np.sqrt(known.variances) * unit,
        lead_deviations=_lead_deviations(known, drawn) * unit,
        estimates=(prior.mean[0] + (place[:count] - prior.mean[0]) / kept) * unit,
        errors=np.sqrt(known.variances / kept) * unit,
        typical=typical * unit,
        typical_deviation=float(np.sqrt(known.rows.sum())) / count * unit,
        spread=spread * unit,
        judgments=np.bincount(shared.worker, minlength=count),
        groups=group_names,
        eases=place[count:] - middle,
    )


class _Shared(NamedTuple):
    """Judgments of items that have two or more, sorted by item. (judgment,) but for `starts`, (item,)."""

    worker: Ints
    group: Ints
    sign: Floats  # 1 where the first side is preferred, else -1
    starts: Ints


class _Prior(NamedTuple):
    mean: Floats
    spread: Floats


def _lead_deviations(known: Posterior, drawn: float) -> Floats:
    """Standard errors of x_w - mean of the others' x where the strengths x themselves are fixed.

    The covariance of estimates is then C - C C / (variance of the prior): the prior's own part is taken off.
    """
    others = len(known.rows) - 1
    own, rows = known.variances - known.squares / drawn, known.rows - known.squared_rows / drawn
    total = rows.sum()
    variances = own - 2 * (rows - own) / others + (total - 2 * rows + own) / others**2
    return np.asarray(np.sqrt(np.maximum(variances, 0.0)), dtype=np.float64)


def _clipped(spread: float) -> float:
    return float(np.clip(spread, _LEAST_SPREAD, _MOST_SPREAD))


def _shared(items: Ints, workers: Ints, groups: Ints, is_first: npt.NDArray[np.bool_]) -> _Shared:
    kept = np.flatnonzero(np.bincount(items)[items] > 1)
    order = kept[np.argsort(items[kept], kind="stable")]
    starts = np.flatnonzero(np.diff(items[order], prepend=-1))
    return _Shared(workers[order], groups[order], np.where(is_first[order], 1.0, -1.0), starts)


def _maximise(shared: _Shared, prior: _Prior, start: Floats, count: int) -> Floats:
    """Minus the log posterior, its mean over judgments, by L-BFGS in units of the prior's spread."""
    scale = 1 / len(shared.worker)

    def objective(point: Floats) -> tuple[float, Floats]:
        place = prior.mean + prior.spread * point
        value, slopes = _log_likelihood(shared, place, count)
        gradient = _by_parameter(shared, slopes, place, count) * prior.spread
        return scale * (0.5 * float(point @ point) - value), scale * (point - gradient)

    options = {"maxiter": 200, "ftol": 1e-11, "gtol": 1e-7}
    found = optimize.minimize(
        objective, (start - prior.mean) / prior.spread, jac=True, method="L-BFGS-B", options=options
    )
    return np.asarray(prior.mean + prior.spread * found.x, dtype=np.float64)


def _log_likelihood(shared: _Shared, place: Floats, count: int) -> tuple[float, Floats]:
    """Log-likelihood, and for each judgment its derivative by the strength of its worker."""
    stretch = shared.sign * np.exp(place[count + shared.group])
    reach = place[shared.worker] * stretch
    slopes = np.empty(len(reach))
    ends = np.append(shared.starts, len(reach))
    cuts = np.unique(np.append(np.searchsorted(ends, np.arange(0, len(reach), _CHUNK)), len(shared.starts)))

    def part_of(first: int, last: int) -> float:
        part = slice(ends[first], ends[last])
        starts = ends[first:last] - ends[first]
        tilt = reach[part, None] * _Z  # (judgment, node)
        chance = special.expit(tilt)
        right = np.add.reduceat(np.log(np.maximum(chance, 1e-300)), starts)  # (item, node): z above 0
        wrong = right - np.add.reduceat(tilt, starts)  # log sigmoid(-x) = log sigmoid(x) - x
        right += _LOG_WEIGHTS
        wrong += _LOG_WEIGHTS
        most = np.maximum(right.max(axis=1), wrong.max(axis=1))[:, None]
        above, below = np.exp(right - most), np.exp(wrong - most)
        total = (above.sum(axis=1) + below.sum(axis=1))[:, None]
        sizes = np.diff(np.append(starts, len(tilt)))
        # d log sigmoid(x) = 1 - sigmoid(x) with z above 0, and -sigmoid(x) on the mirrored node
        up = np.repeat((above / total) @ _Z, sizes)
        both = np.repeat((above + below) / total * _Z, sizes, axis=0)
        slopes[part] = stretch[part] * (up - np.einsum("jk,jk->j", both, chance))
        return float((np.log(total) + most).sum())

    with ThreadPoolExecutor(_THREADS) as threads:  # parts are summed in their order, so threads change no digit
        value = sum(threads.map(part_of, cuts[:-1], cuts[1:]))
    return value, slopes


def _by_parameter(shared: _Shared, slopes: Floats, place: Floats, count: int) -> Floats:
    of_workers = np.bincount(shared.worker, weights=slopes, minlength=count)
    of_groups = np.bincount(shared.group, weights=slopes * place[shared.worker], minlength=len(place) - count)
    return np.concatenate([of_workers, of_groups])


def _information(shared: _Shared, place: Floats, count: int) -> Any:
    """Sum of the outer products of the items' scores, sparse: (parameter, parameter)."""
    _, slopes = _log_likelihood(shared, place, count)
    item = np.repeat(np.arange(len(shared.starts)), np.diff(np.append(shared.starts, len(slopes))))
    rows = np.concatenate([item, item])
    columns = np.concatenate([shared.worker, count + shared.group])
    values = np.concatenate([slopes, slopes * place[shared.worker]])
    scores = sparse.coo_array((values, (rows, columns)), shape=(len(shared.starts), len(place))).tocsr()
    return (scores.T @ scores).tocsr()
