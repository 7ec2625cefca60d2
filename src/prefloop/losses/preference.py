"""The loss of a preference model on comparisons. Knows scores alone, no model and no text.

Axes: `pair` is one comparison each. Units: scores are log-odds, losses are nats. Alignment: entry i of both
arguments belongs to comparison i. No mask: a comparison that does not count is left out by the caller.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_losses(
    score_chosen: Float[Tensor, " pair"], score_rejected: Float[Tensor, " pair"], label_smoothing: float = 0.0
) -> Float[Tensor, " pair"]:
    """-log sigmoid(score_chosen - score_rejected) of each comparison (Askell et al. 2021, eq. 3.1; Bai et al. 3.1).

    With `label_smoothing` e, the share of judgments taken to be wrong, the other order counts with weight e. Sums are
    left to the caller, who divides by the comparisons of a whole step, however they were packed.
    """
    difference = score_chosen - score_rejected
    losses = -(1 - label_smoothing) * logsigmoid(difference)
    if label_smoothing > 0:
        losses = losses - label_smoothing * logsigmoid(-difference)
    return losses
