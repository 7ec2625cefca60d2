"""Over-optimisation in numbers: scores of a policy along its distance from the start, and where to stop.

d is sqrt(KL) to the start, a rise is a mean score less that of the start. Forms of Gao, Schulman and Hilton 2022,
"Scaling laws for reward model overoptimization": d(a - b d) for best-of-n, d(a - b log d) for reinforcement learning.
Knows points of a curve, nothing of policies and models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field
from scipy import special

from prefloop.errors import DataError
from prefloop.schema import Interval, Noun
from prefloop.stats.fits import LinearFit, linear_fit
from prefloop.stats.intervals import LEVEL, Floats

Form = Literal["d(a - b d)", "d(a - b log d)"]

_BEND: Mapping[Form, Callable[[Floats], Floats]] = {
    "d(a - b d)": lambda d: -d * d,
    "d(a - b log d)": lambda d: -d * np.log(d),
}
_PEAK: Mapping[Form, Callable[[float, float], tuple[float, float]]] = {
    "d(a - b d)": lambda a, b: (a / (2 * b), a * a / (4 * b)),
    "d(a - b log d)": lambda a, b: (float(np.exp(a / b - 1)), b * float(np.exp(a / b - 1))),
}
DOUBT = 0.5
"""Share of the gap between trained and held-out scores that is taken off the held-out ones too (see `stop_place`)."""
NAT_COST = 0.1
"""Deviations that a nat of KL must earn on held-out scores. The best of 16 earns about 1 a nat, good PPO no less; at
this price a policy that spends KL well is never stopped, and one that drifts is (docs/LOG.md)."""
_LEAST_LINE = 4  # points: a curve through three has no residual to judge a bend by
_LEAST_BREAK = 6  # points: three on either side
_SIGNIFICANT = 0.05


class RiseFit(Noun):
    """A form of Gao et al. fitted to rises by least squares; intervals take the points as independent."""

    form: Form
    a: Interval = Field(description="rise per unit of d at the beginning (at d = 1 for the logarithmic form)")
    b: Interval = Field(description="how fast that wears off")
    r_squared: float = Field(description="share of the rises' variation about their mean that the form explains")
    peak_root_kl: float | None = Field(description="d of the highest rise; None where b may be 0: no peak is known")
    peak_rise: float | None = None
    peak_is_seen: bool = Field(description="the peak lies within the distances that were measured")

    def rises(self, d: Floats) -> Floats:
        """The fitted rise at each distance; 0 at the start."""
        x = np.where(d > 0, d, 1.0)
        return np.asarray(np.where(d > 0, self.a.value * x + self.b.value * _BEND[self.form](x), 0.0))


class LinearPart(Noun):
    """How far the score is a straight line in sqrt(KL)."""

    fit: LinearFit
    until_root_kl: float
    is_whole: bool = Field(description="no bend was found in the whole run")


class Parting(Noun):
    """Where a held-out score stops following the score that is trained against: two lines with a knee."""

    place: int = Field(description="of the last point before they part")
    before: float = Field(description="rise of the held-out score per unit of the trained one, up to there")
    after: float = Field(description="the same from there on")
    p_value: float = Field(description="of one straight line against the knee (F test)")


def fit_rises(d: Sequence[float] | Floats, rises: Sequence[float] | Floats, form: Form) -> RiseFit:
    """Fits a form; points at d = 0 say nothing and are left out.

    Errors:
        DataError: fewer than four points beyond d = 0.
    """
    x, y = np.asarray(d, dtype=np.float64), np.asarray(rises, dtype=np.float64)
    x, y = x[x > 0], y[x > 0]
    if len(x) < _LEAST_LINE or np.ptp(x) == 0:
        raise DataError(f"The form {form} needs {_LEAST_LINE} points beyond the start, not {len(x)}; take snapshots.")
    design = np.column_stack([x, _BEND[form](x)])
    (a, b), residual, covariance = _least_squares(design, y)
    t = float(special.stdtrit(len(x) - 2, 0.5 + LEVEL / 2))
    ends = [
        Interval(value=v, low=v - t * s, high=v + t * s, n=len(x))
        for v, s in zip((a, b), np.sqrt(np.diag(covariance)), strict=True)
    ]
    total = float(((y - y.mean()) ** 2).sum())
    peak = _PEAK[form](a, b) if ends[1].low > 0 and a > 0 else (None, None)
    return RiseFit(
        form=form,
        a=ends[0],
        b=ends[1],
        r_squared=1 - residual / total if total > 0 else 0.0,
        peak_root_kl=peak[0],
        peak_rise=peak[1],
        peak_is_seen=peak[0] is not None and peak[0] <= x.max(),
    )


def linear_part(d: Sequence[float] | Floats, scores: Sequence[float] | Floats) -> LinearPart:
    """The longest beginning of the curve in which no bend is found (quadratic term, t test, 5%).

    Errors:
        DataError: fewer than four points, or distances that do not differ.
    """
    order = np.argsort(np.asarray(d, dtype=np.float64), kind="stable")
    x, y = np.asarray(d, dtype=np.float64)[order], np.asarray(scores, dtype=np.float64)[order]
    if len(x) < _LEAST_LINE:
        raise DataError(f"A linear part needs {_LEAST_LINE} points, not {len(x)}; take snapshots more often.")
    count = next((n for n in range(len(x), _LEAST_LINE, -1) if not _is_bent(x[:n], y[:n])), _LEAST_LINE)
    return LinearPart(fit=linear_fit(x[:count], y[:count]), until_root_kl=float(x[count - 1]), is_whole=count == len(x))


def parting(trained: Sequence[float] | Floats, held_out: Sequence[float] | Floats) -> Parting | None:
    """The knee after which the held-out score gains less than half as much per unit as before; None without one.

    Points are in order of training. The knee is where two joined lines leave the least squares; it counts where they
    fit better than one line (F test, 5%), and where the trained score still rises after it.

    Errors:
        DataError: fewer than six points.
    """
    x, y = np.asarray(trained, dtype=np.float64), np.asarray(held_out, dtype=np.float64)
    n = len(x)
    if n < _LEAST_BREAK or n != len(y):
        raise DataError(f"A parting of two scores needs {_LEAST_BREAK} points of both, not {n} and {len(y)}.")
    if np.ptp(x) == 0:
        return None
    one = _least_squares(np.column_stack([np.ones(n), x]), y)[1]
    best: tuple[float, int, float, float] | None = None
    for place in range(2, n - 2):
        knee = np.maximum(x - x[place], 0.0)
        if x[place + 1 :].max() <= x[: place + 1].max():
            continue
        (_, slope, change), residual, _ = _least_squares(np.column_stack([np.ones(n), x, knee]), y)
        if best is None or residual < best[0]:
            best = residual, place, slope, slope + change
    if best is None or one <= 0:
        return None
    residual, place, before, after = best
    f = (one - residual) / max(residual / (n - 4), 1e-300)  # 4: two lines and the place of the knee
    p_value = float(special.fdtrc(2, n - 4, f / 2))
    if before <= 0 or after >= before / 2 or p_value >= _SIGNIFICANT:
        return None
    return Parting(place=place, before=before, after=after, p_value=p_value)


class StopPlace(NamedTuple):
    """`place` of the snapshot to stop at, and the curve that it was read from (in deviations of the start's scores)."""

    place: int
    trusted: Floats
    consensus: Floats
    gap: Floats


def stop_place(
    trained: Floats,
    held_out: Sequence[Floats],
    kl: Floats,
    weights: Sequence[float] | None = None,
    doubt: float = DOUBT,
    nat_cost: float = NAT_COST,
) -> StopPlace:
    """Where the rise that can be trusted is highest.

    All arrays are (snapshot,) in order of training: rises in deviations of the start's scores, KL in nats. It is what
    held-out scores agree on, less two things. (1) `doubt` times what the trained score claims above it: PMs that
    learned from one kind of data share errors (paper 4.2), so where the gap shows that the policy exploits its own
    PM's, part of what the others still grant is such an error too. (2) `nat_cost` for each nat: a policy that walks
    away without earning anything unlearns its language, and PMs that never saw such text need not notice. Scores are
    smoothed over neighbours, since a mean over prompts is noisy; the last one has one neighbour alone and is drawn
    towards it, so that in doubt the advice stops a snapshot earlier. KL is not smoothed: where it leaps, one snapshot
    more is one too many, and the snapshot before the leap is not to blame.

    Args:
        weights: of the held-out scores; equal where left out or none is above 0.

    Errors:
        DataError: no held-out score.
    """
    if not held_out:
        raise DataError("There are 0 held-out scores, and without one nobody knows where to stop; add a held-out PM.")
    usable = weights if weights is not None and sum(weights) > 0 else None
    consensus = np.average(held_out, axis=0, weights=usable)
    gap = np.maximum(trained - consensus, 0.0)
    trusted = smoothed(consensus - doubt * gap) - nat_cost * np.maximum(kl, 0.0)
    return StopPlace(int(np.argmax(trusted)), trusted, consensus, gap)


def smoothed(values: Sequence[float] | Floats, width: int = 1) -> Floats:
    """Each value averaged with `width` neighbours on either side by triangular weights; the ends have fewer."""
    y = np.asarray(values, dtype=np.float64)
    kernel = width + 1 - np.abs(np.arange(-width, width + 1))
    weight = np.convolve(np.ones(len(y)), kernel, mode="full")[width : width + len(y)]
    return np.asarray(np.convolve(y, kernel, mode="full")[width : width + len(y)] / weight)


def _is_bent(x: Floats, y: Floats) -> bool:
    n = len(x)
    (_, _, bend), residual, covariance = _least_squares(np.column_stack([np.ones(n), x, x * x]), y)
    error = float(np.sqrt(covariance[2, 2]))
    return bool(error > 0 and abs(bend) / error > special.stdtrit(n - 3, 1 - _SIGNIFICANT / 2) and residual >= 0)


def _least_squares(design: Floats, y: Floats) -> tuple[Floats, float, Floats]:
    """Coefficients, residual sum of squares, covariance of the coefficients."""
    coefficients: Floats = np.linalg.lstsq(design, y, rcond=None)[0].astype(np.float64)
    residual = float(((y - design @ coefficients) ** 2).sum())
    freedom = max(len(y) - design.shape[1], 1)
    covariance: Floats = residual / freedom * np.linalg.pinv(design.T @ design)
    return coefficients, residual, covariance
