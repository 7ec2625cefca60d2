"""What each comparison teaches a preference model: whether it can, how sure its label is, how much it counts.

Responsible for usable pairs, label probabilities (from grades) and weights (by worker, mode and tranche), whose mean
over the training pairs is 1, so that the loss and the learning rate keep their scale. Knows no model.
"""

from __future__ import annotations

import json
import math
import sys
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prefloop.errors import ConfigError, DataError
from prefloop.pair_file import picked
from prefloop.schema import GRADES, Mode, PreferencePair, Tranche

__all__ = ["Lessons", "UsablePairs", "read_worker_weights", "usable_pairs"]

_MOST = sys.float_info.max


class UsablePairs(NamedTuple):
    """Pairs that can teach, and how many could not, by reason."""

    pairs: Sequence[PreferencePair]
    identical: int
    blank: int


def usable_pairs(pairs: Sequence[PreferencePair]) -> UsablePairs:
    """The pairs whose two sides differ and have text.

    Errors:
        DataError: no pairs at all, or none that is left.
    """
    if not pairs:
        raise DataError("There are no pairs to train on; collect or import comparisons, or widen mode and tranche.")
    kept = array("q")
    identical = 0
    for place, pair in enumerate(pairs):
        if pair.chosen == pair.rejected:
            identical += 1
        elif pair.chosen.strip() and pair.rejected.strip():
            kept.append(place)
    if identical == len(pairs):
        raise DataError(
            f"All {len(pairs)} pairs have the same text on both sides, so there is nothing to learn; check the import."
        )
    if not kept:
        raise DataError(
            f"All {len(pairs) - identical} pairs have an empty side, so there is nothing to learn; check the data."
        )
    return UsablePairs(picked(pairs, kept), identical, len(pairs) - identical - len(kept))


class Lessons(NamedTuple):
    """The usable pairs, and per pair the probability that `chosen` is better and the weight of its loss."""

    pairs: Sequence[PreferencePair]
    probabilities: NDArray[np.float64]
    weights: NDArray[np.float64]
    dropped_weightless: int

    @classmethod
    def of(
        cls,
        pairs: Sequence[PreferencePair],
        *,
        grade_probabilities: Sequence[float] = (),
        worker_weights: Mapping[str, float] | None = None,
        red_team_weight: float = 1.0,
        tranche_weights: Mapping[Tranche, float] | None = None,
        pair_weights: Sequence[float] | None = None,
    ) -> Lessons:
        """The lessons of `pairs`; those of weight 0 are left out and counted.

        Args:
            grade_probabilities: that the chosen reply is better, by strength from 'much better' on; beyond the last
                one, and for pairs without a grade, 1.
            worker_weights: by worker id; workers that it does not name, and unknown ones, count 1.
            red_team_weight: lambda of L_helpful + lambda L_harmless (paper 5.1.2).
            tranche_weights: of comparisons by tranche; tranches that it does not name count 1.
            pair_weights: of each pair, beside the others.

        Errors:
            DataError: every pair has weight 0, one weighs more than a number can hold, or there is another number of
                pair weights than of pairs.
        """
        if pair_weights is not None and len(pair_weights) != len(pairs):
            raise DataError(f"{len(pair_weights)} weights do not fit {len(pairs)} usable pairs; give one for each.")
        weights, probabilities = np.empty(len(pairs)), np.empty(len(pairs))
        for place, pair in enumerate(pairs):
            lambda_ = red_team_weight if pair.mode == Mode.RED_TEAM else 1.0
            lambda_ *= (tranche_weights or {}).get(pair.tranche, 1.0)
            own = 1.0 if pair_weights is None else pair_weights[place]
            weights[place] = lambda_ * own * (worker_weights or {}).get(pair.worker_id or "", 1.0)
            probabilities[place] = _probability(pair.grade, grade_probabilities)
        if not np.isfinite(weights).all():
            raise DataError("The weights of a pair multiply to more than 1e308; give smaller ones.")
        kept = np.flatnonzero(weights > 0)
        if len(pairs) and not len(kept):
            raise DataError(f"All {len(pairs)} pairs have weight 0, so there is nothing to learn; raise some weights.")
        # Scaled by a power of two, which is exact, so that the sum of the largest numbers is one.
        scaled = np.ldexp(weights[kept], -np.frexp(weights.max(initial=0.0))[1])
        mean = math.fsum(scaled) / max(len(kept), 1)
        return cls(picked(pairs, kept), probabilities[kept], scaled / mean, len(pairs) - len(kept))


def _probability(grade: int | None, by_strength: Sequence[float]) -> float:
    if grade is None:
        return 1.0
    strength = min(grade, GRADES + 1 - grade)  # 1 is much better
    return by_strength[strength - 1] if strength <= len(by_strength) else 1.0


def read_worker_weights(file: Path) -> dict[str, float]:
    """Worker id -> weight from a JSON object.

    Errors:
        ConfigError: no such file, no JSON object, or a weight that is no finite number of at least 0.
    """
    try:
        weights = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"worker_weights {file} cannot be read ({error.strerror}); check the path.") from None
    except ValueError as error:
        raise ConfigError(f"worker_weights {file} is not JSON ({error}); mend it.") from None
    if not isinstance(weights, dict):
        raise ConfigError(f"worker_weights {file} is no JSON object of worker id to weight; mend it.")
    for worker, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= _MOST:
            raise ConfigError(f"worker_weights {file} gives {worker!r} {weight!r}; a weight is a number of at least 0.")
    return {worker: float(weight) for worker, weight in weights.items()}
