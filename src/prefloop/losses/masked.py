"""Statistics over the True places of a mask. Knows tensors alone.

Axes: any; `mask` has the shape of `values`. What stands where the mask is False never counts, not even NaN, and
gets no gradient. The empty case is 0.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*shape"], mask: Bool[Tensor, "*shape"]) -> Float[Tensor, ""]:
    """Mean over the True places; 0 (with a zero gradient) where there is none."""
    return values.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
