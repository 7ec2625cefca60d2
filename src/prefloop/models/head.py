"""The language-model head on hidden states, without keeping logits of the vocabulary. Knows no trunk and no training.

A vocabulary of 150,000 makes logits a hundred times as large as the hidden states that they come from, and a gradient
needs them twice more. So where they are many the head runs over chunks of tokens: of each chunk what is made of its
logits stays alone, and its backward computes the logits again. Where they are few it is one call. A head that is split
over processes is made whole once for all chunks, of which each process may have another number.

Legend: T tokens (places whose next token is asked for), hidden as the trunk gives it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial
from torch.utils.checkpoint import checkpoint

from prefloop.losses import token_logps

__all__ = ["Head", "ScaledHead", "head_logps", "of_logits", "tokens_at_once"]


@dataclass(frozen=True)
class ScaledHead:
    """The output embedding of a model that multiplies its logits by a constant (see `output_head`)."""

    layer: torch.nn.Module
    scale: float

    @property
    def weight(self) -> Any:
        """Of the layer, unscaled; (vocabulary, hidden)."""
        return self.layer.weight

    def __call__(self, hidden: Float[Tensor, "T hidden"]) -> Float[Tensor, "T vocabulary"]:
        logits: Tensor = self.layer(hidden) * self.scale
        return logits


Head = torch.nn.Module | ScaledHead | Tensor
"""A model's output embedding: the layer, with a scale perhaps, or its weight (vocabulary, hidden) alone."""

_LOGITS = 2**24  # that are in memory at once (64 MiB in float32): a vocabulary of 2,048 has 8,192 tokens in one call
_LEAST_TOKENS = 256  # of a chunk: each adds a gradient of the whole head to the others'


def head_logps(head: Head, hidden: Float[Tensor, "T hidden"], ids: Int[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Log-probabilities (temperature 1) of the tokens `ids` after these hidden states; differentiable."""
    return of_logits(head, token_logps, hidden, ids)


def of_logits(
    head: Head, function: Callable[..., Tensor], hidden: Float[Tensor, "T hidden"], *others: Tensor
) -> Float[Tensor, "T ..."]:
    """`function(logits, *others)` of the logits at T places; differentiable.

    All processes over which a head is split call it together, each with places of its own; its gradient is summed over
    them.

    Args:
        function: treats each place by itself: its first axis and that of `others` are the T places.
    """
    run = partial(_through, _whole(head), function)
    tokens = tokens_at_once(head)
    if len(hidden) <= tokens:
        return run(hidden, *others)
    parts = zip(*(torch.split(tensor, tokens) for tensor in (hidden, *others)), strict=True)
    if not torch.is_grad_enabled():
        return torch.cat([run(*part) for part in parts])
    return torch.cat([checkpoint(run, *part, use_reentrant=False, preserve_rng_state=False) for part in parts])


def tokens_at_once(head: Head) -> int:
    """How many tokens make a chunk."""
    weight: Any = head if isinstance(head, Tensor) else head.weight
    return max(_LEAST_TOKENS, _LOGITS // len(weight))


def _whole(head: Head) -> Tensor | Callable[[Tensor], Tensor]:
    """The head, or of one that is split what its whole weight and bias do, with one exchange here and one backwards."""
    if isinstance(head, Tensor) or not isinstance(head.weight, DTensor):
        return head
    layer, scale = (head.layer, head.scale) if isinstance(head, ScaledHead) else (head, 1.0)
    split: dict[str, Any] = dict(layer.named_parameters())
    whole = {name: part.full_tensor(grad_placements=[Partial()]) for name, part in split.items()}

    def run(hidden: Tensor) -> Tensor:
        logits: Tensor = torch.nn.functional.linear(hidden, **whole)
        return logits if scale == 1.0 else logits * scale

    return run


def _through(
    head: Tensor | Callable[[Tensor], Tensor], function: Callable[..., Tensor], hidden: Tensor, *others: Tensor
) -> Tensor:
    return function(hidden @ head.T if isinstance(head, Tensor) else head(hidden), *others)
