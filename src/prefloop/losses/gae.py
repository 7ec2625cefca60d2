"""Generalised advantage estimation over replies. Knows tensors alone, no model and no reward's origin.

Axes: `batch` one row an episode, `response` its tokens, right-padded. Units: those of the reward.
Mask: `is_response` is True on the tokens that the policy wrote, without holes. Alignment: the action at t is token
t, `values[t]` is the value of the state before it, `rewards[t]` is earned by it; after the last token the value is 0.

Source: Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor


class Advantages(NamedTuple):
    """Both are 0 outside the mask."""

    advantages: Float[Tensor, "batch response"]
    returns: Float[Tensor, "batch response"]  # advantages + values: what the value model learns


def generalised_advantages(
    rewards: Float[Tensor, "batch response"],
    values: Float[Tensor, "batch response"],
    is_response: Bool[Tensor, "batch response"],
    gamma: float,
    gae_lambda: float,
) -> Advantages:
    """A_t = sum over l of (gamma * gae_lambda)^l * delta_{t+l}, delta_t = r_t + gamma V_{t+1} - V_t.

    gamma = gae_lambda = 1 gives the return minus the value. An empty row gives zeros.
    """
    rewards = rewards.masked_fill(~is_response, 0.0)
    values = values.masked_fill(~is_response, 0.0)
    next_values = torch.zeros_like(values)
    next_values[:, :-1] = values[:, 1:]  # 0 after the last token: the episode is over
    deltas = rewards + gamma * next_values - values
    advantages = torch.zeros_like(values)
    carried = torch.zeros_like(values[:, 0]) if values.shape[1] else values.sum(-1)
    for t in range(values.shape[1] - 1, -1, -1):  # a scan over tokens, vectorised over episodes
        carried = deltas[:, t] + gamma * gae_lambda * carried
        advantages[:, t] = carried
    return Advantages(advantages, advantages + values)


def whitened(
    advantages: Float[Tensor, "batch response"], is_response: Bool[Tensor, "batch response"]
) -> Float[Tensor, "batch response"]:
    """Advantages with mean 0 and variance 1 over all response tokens of the batch, 0 outside the mask.

    Without tokens, or where they do not vary, all are 0.
    """
    kept = advantages[is_response]
    if kept.numel() == 0:
        return torch.zeros_like(advantages)
    centred = (advantages - kept.mean()).masked_fill(~is_response, 0.0)
    deviation = kept.var(correction=0).sqrt()
    return centred / deviation if deviation > 1e-8 else torch.zeros_like(advantages)
