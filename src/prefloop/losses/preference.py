"""The loss of a preference model on comparisons. Knows scores alone, no model and no text.

Axes: `pair` is one comparison each. Units: scores are log-odds, losses are nats. Alignment: entry i of both
arguments belongs to comparison i. No mask: a comparison that does not count is left out by the caller.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def preference_losses(
    score_chosen: Float[Tensor, " pair"],
    score_rejected: Float[Tensor, " pair"],
    label_smoothing: float = 0.0,
    probability: Float[Tensor, " pair"] | None = None,
) -> Float[Tensor, " pair"]:
    """-log sigmoid(score_chosen - score_rejected) of each comparison (Askell et al. 2021, eq. 3.1; Bai et al. 3.1).

    With `probability` p that the chosen reply is the better one (1 where it is None), the other order counts with
    weight 1 - p. With `label_smoothing` e, the share of judgments taken to be wrong, p becomes p (1 - e) + (1 - p) e.
    Sums are left to the caller, who divides by the comparisons of a whole step, however they were packed.
    """
    difference = score_chosen - score_rejected
    if probability is None and label_smoothing == 0:
        return -logsigmoid(difference)
    sure = torch.ones_like(difference) if probability is None else probability
    sure = sure * (1 - label_smoothing) + (1 - sure) * label_smoothing
    return -sure * logsigmoid(difference) - (1 - sure) * logsigmoid(-difference)


def centring_penalties(
    score_chosen: Float[Tensor, " pair"], score_rejected: Float[Tensor, " pair"]
) -> Float[Tensor, " pair"]:
    """Square of the mean of both scores of each comparison: holds the zero of the scores, which no comparison does.

    Eisenstein et al. 2023 (arXiv 2312.09244); a quarter of the term that TRL adds.
    """
    return ((score_chosen + score_rejected) / 2).square()
