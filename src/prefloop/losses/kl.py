"""Estimates of the KL divergence from a policy to its reference, on samples of the policy. Knows tensors alone.

Axes: `*shape` is any layout of tokens, `batch` one row an episode, `response` its tokens. Units: nats.
Mask: `is_response` is True on the tokens that the policy wrote. Alignment: entry t belongs to the token at t.

With d = logp_policy - logp_reference on a token drawn from the policy (Schulman, "Approximating KL divergence"):
    k1 = d                      unbiased, may be negative
    k3 = exp(-d) - 1 + d        unbiased, never negative, less variance while the two are close
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Log-ratios are clamped to +-20 before `exp`, so that one absurd token cannot overflow a batch."""


LARGEST_KL_ERROR = 0.2
"""How far, as a share of the target, one batch's KL counts when the coefficient is steered."""


class SequenceKL(NamedTuple):
    """Sums over the tokens of each episode, in nats."""

    k1: Float[Tensor, " batch"]
    k3: Float[Tensor, " batch"]


def k1(logp_policy: Float[Tensor, "*shape"], logp_reference: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The plain estimate of each token's KL: unbiased, negative on single tokens."""
    return logp_policy - logp_reference


def k3(logp_policy: Float[Tensor, "*shape"], logp_reference: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The estimate that is never negative: exp(-d) - 1 + d."""
    difference = (logp_policy - logp_reference).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(-difference) + difference


def sequence_kl(
    logp_policy: Float[Tensor, "batch response"],
    logp_reference: Float[Tensor, "batch response"],
    is_response: Bool[Tensor, "batch response"],
) -> SequenceKL:
    """KL of each episode as a whole: the sum of its tokens' estimates. An episode without tokens has 0."""
    return SequenceKL(
        k1(logp_policy, logp_reference).masked_fill(~is_response, 0.0).sum(-1),
        k3(logp_policy, logp_reference).masked_fill(~is_response, 0.0).sum(-1),
    )


def token_rewards(
    rewards_at_end: Float[Tensor, " batch"],
    logp_rollout: Float[Tensor, "batch response"],
    logp_reference: Float[Tensor, "batch response"],
    is_response: Bool[Tensor, "batch response"],
    kl_coefficient: float,
) -> Float[Tensor, "batch response"]:
    """Rewards of each token: minus kl_coefficient * k1 everywhere, plus the episode's reward on its last token.

    The paper's r = r_PM - lambda * KL (section 4.1) with the KL spent token by token.

    Args:
        rewards_at_end: (batch,) the (normalised) PM score, with the penalty of a reply that did not stop.
        is_response: right-padded rows; a row without tokens earns nothing.
    """
    penalties = -kl_coefficient * k1(logp_rollout, logp_reference)
    rewards = penalties.masked_fill(~is_response, 0.0)
    return rewards + rewards_at_end[:, None] * is_last_token(is_response)


def is_last_token(is_response: Bool[Tensor, "batch response"]) -> Bool[Tensor, "batch response"]:
    """True on the last response token of each row, nowhere in a row without one."""
    later = torch.zeros_like(is_response)
    later[:, :-1] = is_response[:, 1:]
    return is_response & ~later


def adapted_kl_coefficient(coefficient: float, kl: float, target: float, episodes: int, horizon_episodes: int) -> float:
    """The coefficient after a batch whose KL was `kl`, steered so that the KL comes to `target`; both nats a reply.

    coefficient * (1 + clamp(kl / target - 1, -0.2, 0.2) * episodes / horizon_episodes); never negative. At 0 it would
    stay: take it and horizon_episodes above 0.2 * episodes.

    Source: Ziegler et al. 2019, "Fine-tuning language models from human preferences", section 2.2.
    """
    error = min(max(kl / target - 1, -LARGEST_KL_ERROR), LARGEST_KL_ERROR)
    return max(coefficient * (1 + error * episodes / horizon_episodes), 0.0)
