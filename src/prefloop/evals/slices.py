"""By which properties of a comparison accuracy is told apart, and in which order. Knows pairs, no scores."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from prefloop.schema import PreferencePair

__all__ = ["MODE_AND_TRANCHE", "OF_COLLECTION", "slice_names", "slice_order"]

MODE_AND_TRANCHE = "mode and tranche"
"""The slices that make the columns of a transfer matrix."""

OF_COLLECTION = ("tranche", "mode", MODE_AND_TRANCHE)
"""The slices that only the collection of a comparison states: a file of comparisons has none of them."""

_MOST_WORKERS = 20  # with the most judgments; the others are one slice
_OTHER_WORKERS, _NO_WORKER = "other workers", "no worker known"
_GRADES = {1: "much better", 2: "better", 3: "slightly better", 4: "about the same"}
_LENGTH_RATIOS = (0.5, 0.8, 1.25, 2.0)
_LENGTH_NAMES = (
    "under 1/2 as long",
    "1/2 to 4/5 as long",
    "about as long",
    "5/4 to 2 times as long",
    "over 2 times as long",
)
_MODES, _TRANCHES = ("helpful", "red_team"), ("base", "rejection_sampled", "online")
_ORDERS: dict[str, tuple[str, ...]] = {
    "tranche": _TRANCHES,
    "mode": _MODES,
    MODE_AND_TRANCHE: tuple(f"{mode} {tranche}" for mode in _MODES for tranche in _TRANCHES),
    "turn": ("1", "2", "3", "4", "5 and later"),
    "chosen reply": _LENGTH_NAMES,
    "grade": (*_GRADES.values(), "no grade"),
}


def slice_names(pairs: Sequence[PreferencePair]) -> dict[str, list[str]]:
    """For each property, the name of the slice that each pair belongs to, in the order of `pairs`."""
    judged = Counter(pair.worker_id for pair in pairs if pair.worker_id is not None)
    shown = {worker for worker, _ in judged.most_common(_MOST_WORKERS)}
    return {
        "tranche": [pair.tranche.value for pair in pairs],
        "mode": [pair.mode.value for pair in pairs],
        MODE_AND_TRANCHE: [sys.intern(f"{pair.mode.value} {pair.tranche.value}") for pair in pairs],
        "turn": [sys.intern(str(pair.turn)) if pair.turn < 5 else "5 and later" for pair in pairs],
        "chosen reply": [_length_name(pair) for pair in pairs],
        "grade": ["no grade" if pair.grade is None else _GRADES[min(pair.grade, 9 - pair.grade)] for pair in pairs],
        "worker": [_worker_name(pair.worker_id, shown) for pair in pairs],
    }


def slice_order(kind: str, names: Sequence[str]) -> list[str]:
    """The different names in the property's own order; workers by judgments, most first."""
    if kind == "worker":
        counted = Counter(names)
        last = (_OTHER_WORKERS, _NO_WORKER)
        return sorted(counted, key=lambda name: (last.index(name) + 1 if name in last else 0, -counted[name], name))
    order: Mapping[str, int] = {name: place for place, name in enumerate(_ORDERS.get(kind, ()))}
    return sorted(set(names), key=lambda name: (order.get(name, len(order)), name))


def _worker_name(worker: str | None, shown: set[str]) -> str:
    if worker is None:
        return _NO_WORKER
    return worker if worker in shown else _OTHER_WORKERS


def _length_name(pair: PreferencePair) -> str:
    ratio = (len(pair.chosen) + 1) / (len(pair.rejected) + 1)
    return _LENGTH_NAMES[int(np.searchsorted(_LENGTH_RATIOS, ratio))]
