"""How many judgments a question takes, before they are collected. Knows shares and logarithms, no workers."""

from __future__ import annotations

import math

from scipy import special

from prefloop.errors import DataError
from prefloop.stats.intervals import LEVEL

POWER = 0.8


def judgments_to_see(win_rate: float, power: float = POWER) -> int:
    """Independent judgments after which a true win rate is told from one half with chance `power`, two-sided at 95%.

    n = (z_0.975 + z_power)^2 / 4 / (win_rate - 1/2)^2; judgments of one conversation or worker are worth fewer.

    Errors:
        DataError: one half itself, or no share.
    """
    if not 0 < win_rate < 1 or win_rate == 0.5 or not 0 < power < 1:
        raise DataError(f"A win rate of {win_rate:g} (power {power:g}) cannot be told from one half; give another.")
    z = float(special.ndtri(0.5 + LEVEL / 2) + special.ndtri(power))
    return math.ceil(z * z / 4 / (win_rate - 0.5) ** 2 - 1e-9)


def worth_of_labels(slope: float, pairs: float, flipped: float, reference: float) -> float:
    """Expected change of accuracy when `reference` clean comparisons become `pairs` with a share of flipped labels.

    A label that is flipped with chance e carries (1 - 2e)^2 of the information, so n of them count like n (1 - 2e)^2
    clean ones (a slope on ln n, as in A.1 of the paper, says what that costs). Where labels are noisy already, e is
    what was flipped beyond it: the factors multiply.
    """
    if not 0 <= flipped < 0.5 or pairs <= 0 or reference <= 0:
        raise DataError(f"{pairs:g} comparisons with {flipped:g} flipped teach nothing; keep the share below one half.")
    return slope * math.log(pairs * (1 - 2 * flipped) ** 2 / reference)
