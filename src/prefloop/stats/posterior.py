"""What a sparse information matrix of workers and groups says of the spread of the workers' part. Knows matrices only.

Groups (topics) touch workers and themselves, never each other, so they are eliminated exactly: what is left is the
workers' precision matrix S = A_ww - A_wg A_gg^-1 A_gw with A_gg diagonal, and C = S^-1 is their covariance. Up to a
few thousand workers C is made whole. Beyond, nothing of its size is ever held: C times random signs is found by
conjugate gradients, and the mean of z * Cz over 256 of such probes z is the diagonal of C (Bekas, Kokiopoulou and Saad
2007), good to some hundredths of a standard deviation since workers hardly depend on each other.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import linalg, sparse

from prefloop.errors import DataError
from prefloop.stats.intervals import Floats

_MOST_EXACT = 3000  # workers; 72 MB for the matrix, its inverse takes seconds
_PROBES, _BLOCK = 256, 64
_TOLERANCE, _MOST_ITERATIONS = 1e-6, 1000


class Posterior(NamedTuple):
    """Of the workers' covariance C. (worker,) but for the last."""

    variances: Floats  # its diagonal
    rows: Floats  # C 1
    squares: Floats  # the diagonal of C C
    squared_rows: Floats  # C C 1
    group_variance: float  # mean over the groups


def posterior(information: Any, spread: Floats, count: int, *, most_exact: int = _MOST_EXACT) -> Posterior:
    """The posterior of the first `count` parameters (workers), the others (groups) integrated out.

    Args:
        information: sparse, symmetric (parameter, parameter); groups have no entries among each other.
        spread: (parameter,) standard deviations of an independent normal prior.
        most_exact: workers up to which nothing is sampled.
    """
    precision = (information + sparse.diags_array(1 / spread**2)).tocsr()
    own, shared = precision[:count, :count], precision[:count, count:]
    of_groups = precision[count:, count:].diagonal()
    carried = (shared @ sparse.diags_array(1 / of_groups)).tocsr()  # (worker, group)
    if count <= most_exact:
        return _exact(own, shared, carried, of_groups)
    return _probed(own, shared, carried, of_groups)


def _exact(own: Any, shared: Any, carried: Any, of_groups: Floats) -> Posterior:
    left = own.toarray() - (carried @ shared.T).toarray()
    covariance = linalg.cho_solve(linalg.cho_factor(left, lower=True), np.eye(len(left)))
    rows = covariance.sum(axis=1)
    carried_on = float((carried @ carried.T).multiply(covariance).sum())  # the trace of carried' C carried
    return Posterior(
        np.diag(covariance).copy(),
        rows,
        (covariance**2).sum(axis=1),
        covariance @ rows,
        float((1 / of_groups).mean() + carried_on / len(of_groups)),
    )


def _probed(own: Any, shared: Any, carried: Any, of_groups: Floats) -> Posterior:
    count = own.shape[0]
    draw = np.random.default_rng(11)
    diagonal = own.diagonal() - shared.multiply(carried).sum(axis=1)

    def left(columns: Floats) -> Floats:
        return np.asarray(own @ columns - carried @ (shared.T @ columns), dtype=np.float64)

    def solved(columns: Floats) -> Floats:
        return _conjugate_gradients(left, diagonal, columns)

    variances, squares, carried_on = np.zeros(count), np.zeros(count), 0.0
    for _ in range(_PROBES // _BLOCK):
        signs = draw.choice([-1.0, 1.0], size=(count, _BLOCK))
        found = solved(signs)
        variances += (signs * found).sum(axis=1) / _PROBES
        squares += (found**2).sum(axis=1) / _PROBES
    pushed = carried @ draw.choice([-1.0, 1.0], size=(len(of_groups), _BLOCK))
    carried_on = float((pushed * solved(pushed)).sum()) / _BLOCK
    rows = solved(np.ones((count, 1)))
    least = 1 / diagonal  # what is left of the noise must not make a variance less than all else known
    return Posterior(
        np.maximum(variances, least),
        rows[:, 0],
        np.maximum(squares, np.maximum(variances, least) ** 2),
        solved(rows)[:, 0],
        float((1 / of_groups).mean() + carried_on / len(of_groups)),
    )


def _conjugate_gradients(times: Any, diagonal: Floats, right: Floats) -> Floats:
    """Solves for each column of `right` (row, column), preconditioned by the diagonal."""
    solution, residual = np.zeros_like(right), right.copy()
    scaled = residual / diagonal[:, None]
    direction = scaled.copy()
    power = (residual * scaled).sum(axis=0)
    enough = _TOLERANCE**2 * np.maximum(power, 1e-300)
    for _ in range(_MOST_ITERATIONS):
        if (power <= enough).all():
            return solution
        pushed = times(direction)
        step = power / np.maximum((direction * pushed).sum(axis=0), 1e-300)
        solution += step * direction
        residual -= step * pushed
        scaled = residual / diagonal[:, None]
        power, before = (residual * scaled).sum(axis=0), power
        direction = scaled + power / np.maximum(before, 1e-300) * direction
    raise DataError(
        f"The workers' intervals did not settle in {_MOST_ITERATIONS} rounds; look at one study or mode at a time."
    )
