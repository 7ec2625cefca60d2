"""Statistics over the True places of a mask. Knows tensors alone.

Axes: any; `mask` has the shape of `values`. What stands where the mask is False never counts, not even NaN, and
gets no gradient. The empty case is 0.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over the True places; 0 (with a zero gradient) where there is none."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def rank_correlation(one: Float[Tensor, " batch"], other: Float[Tensor, " batch"]) -> float:
    """Spearman's rank correlation, ties at their mean rank; 0 where either does not vary."""
    ranks = []
    for values in (one, other):
        _, place, counts = torch.unique(values.double(), return_inverse=True, return_counts=True)
        ends = counts.cumsum(0).double()
        ranks.append((ends - (counts - 1) / 2)[place])
    left, right = (rank - rank.mean() for rank in ranks)
    scale = (left.square().sum() * right.square().sum()).sqrt()
    return float(left @ right / scale) if scale > 0 else 0.0
