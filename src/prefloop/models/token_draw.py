"""Draws one token a row from logits, and says how likely it was. Knows nothing of models, caches or batches.

Random numbers are counter-based: a row's number at a step is a function of the row's key and of the step alone, so
a draw does not depend on which other rows share the batch. One uniform number goes through the inverse of the
cumulative distribution, which costs less than Gumbel noise over the vocabulary.

Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["DrawSettings", "Drawn", "draw_tokens", "row_key", "uniforms"]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK64 = (1 << 64) - 1


class DrawSettings(NamedTuple):
    """Per-row settings, each (R,): temperature (0 is greedy), top_k (0 is off), top_p (1 is off)."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    is_plain: bool  # True where every row has temperature 1 and no truncation: the fast path


class Drawn(NamedTuple):
    """tokens (R,) int64; logps (R,) float64, at the row's temperature before top-k and top-p (at 1 for greedy rows)."""

    tokens: Tensor
    logps: Tensor


def _mix(x: int) -> int:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014), on one integer."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK64
    return x ^ (x >> 31)


def row_key(*parts: int) -> int:
    """A 64-bit key from a few integers, say seed, prompt index and sample index; their order matters."""
    key = 0
    for part in parts:
        key = _mix((key + _GOLDEN + (part & _MASK64)) & _MASK64)
    return key


def uniforms(keys: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """One number in (0, 1] for each row: SplitMix64 with state `keys` (R,) uint64 at counter `steps` (R,)."""
    with np.errstate(over="ignore"):
        x = keys + (steps.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x ^= x >> np.uint64(31)
    result: np.ndarray = ((x >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
    return result


def draw_tokens(logits: Tensor, settings: DrawSettings, uniform: Tensor) -> Drawn:
    """Draws from softmax(logits / temperature), truncated to the top k and then to the smallest set of mass top_p.

    Args:
        logits: (R, V), any float type; computed in float32, sums in float64.
        uniform: (R,) float64 in (0, 1].
    """
    scaled = logits.float()
    if not settings.is_plain:
        is_greedy = settings.temperature == 0
        scaled = scaled / torch.where(is_greedy, 1.0, settings.temperature)[:, None]
    scaled = scaled - scaled.amax(dim=-1, keepdim=True)
    mass = scaled.exp()
    cumulative = mass.cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1]
    # The first token whose cumulative mass reaches u * total, u in (0, 1]: never one of mass zero.
    tokens = torch.searchsorted(cumulative, (uniform * total)[:, None]).squeeze(1).clamp_(max=logits.shape[1] - 1)
    if not settings.is_plain:
        is_truncated = ~is_greedy & ((settings.top_k > 0) | (settings.top_p < 1.0))
        rows = is_truncated.nonzero().squeeze(1)
        if len(rows):
            tokens[rows] = _draw_truncated(mass[rows], settings.top_k[rows], settings.top_p[rows], uniform[rows])
        tokens = torch.where(is_greedy, logits.argmax(dim=-1), tokens)
    logps = scaled.gather(1, tokens[:, None]).squeeze(1).double() - total.log()
    return Drawn(tokens, logps)


def _draw_truncated(mass: Tensor, top_k: Tensor, top_p: Tensor, uniform: Tensor) -> Tensor:
    """The same draw among the most likely tokens; ties in mass go to the lower id."""
    ordered, ids = mass.sort(dim=-1, descending=True, stable=True)  # (R, V)
    width = mass.shape[1]
    rank = torch.arange(width, device=mass.device)
    limit = torch.where(top_k > 0, top_k, width)
    ordered = ordered.masked_fill(rank >= limit[:, None], 0.0)
    cumulative = ordered.cumsum(dim=-1, dtype=torch.float64)
    before = cumulative - ordered
    ordered = ordered.masked_fill(before >= (top_p * cumulative[:, -1])[:, None], 0.0)
    cumulative = ordered.cumsum(dim=-1, dtype=torch.float64)
    place = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None]).clamp_(max=width - 1)
    return ids.gather(1, place).squeeze(1)
