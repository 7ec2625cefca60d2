"""The PPO losses of policy and value model, and what is measured on them. Knows tensors alone.

Axes: `*shape` is any layout of tokens: (batch, response) right-padded, or the response tokens of some episodes in a
flat row. Mask: `is_response` is True on the tokens that the policy wrote; everything else is ignored.
Units: log-probabilities in nats, values in those of the reward.

Losses are sums over tokens divided by `tokens`, the response tokens of the whole minibatch: so the losses of
micro-batches add up to the minibatch's, and neither padding nor the cut into micro-batches changes a gradient.

Source: Schulman et al. 2017; the paper's appendix B.1 (clip 0.2, no entropy bonus).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.losses.kl import MAX_LOG_RATIO, k3


class PolicyLoss(NamedTuple):
    """`loss` has the gradient; the rest are plain sums over the mask, for metrics."""

    loss: Float[Tensor, ""]
    clipped_tokens: Float[Tensor, ""]
    moved_kl: Float[Tensor, ""]  # k3 from the rollout's policy to this one, summed over tokens
    ratio_error: Float[Tensor, ""]  # the largest |ratio - 1|
    differences: Float[Tensor, ""]  # |logp_policy - logp_rollout| in nats, summed over tokens


class ImportanceWeights(NamedTuple):
    """What makes replies of one sampler count as another's. The last four are scalars over the mask, for metrics."""

    weights: Float[Tensor, "*shape"]
    mean: Float[Tensor, ""]  # of the truncated weights: 1 where both agree
    truncated: Float[Tensor, ""]  # share of tokens
    mean_difference: Float[Tensor, ""]  # of |logp_policy - logp_sampler|, nats
    largest_difference: Float[Tensor, ""]


class ValueLoss(NamedTuple):
    """`loss` has the gradient."""

    loss: Float[Tensor, ""]
    clipped_tokens: Float[Tensor, ""]


def token_logps(logits: Float[Tensor, "tokens vocabulary"], ids: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Log-probability of each chosen id by logsumexp and gather, in at least fp32; no softmax is kept."""
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    return logits.gather(-1, ids[:, None]).squeeze(-1) - logits.logsumexp(-1)


def policy_loss(
    logp_policy: Float[Tensor, "*shape"],
    logp_rollout: Float[Tensor, "*shape"],
    advantages: Float[Tensor, "*shape"],
    is_response: Bool[Tensor, "*shape"],
    clip: float,
    tokens: int,
    weights: Float[Tensor, "*shape"] | None = None,
) -> PolicyLoss:
    """Minus the clipped surrogate: -min(ratio * A, clamp(ratio, 1 - clip, 1 + clip) * A), summed / tokens.

    Without a response token the loss is 0.

    Args:
        weights: of each token's term, without gradient, where another sampler drew the tokens (`importance_weights`).
    """
    log_ratios = (logp_policy - logp_rollout).masked_fill(~is_response, 0.0)
    ratios = log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
    advantages = advantages.masked_fill(~is_response, 0.0)
    plain, clipped = ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages
    with torch.no_grad():
        clipped_tokens = ((clipped < plain) & is_response).sum().to(ratios.dtype)
        moved = k3(logp_rollout, logp_policy).masked_fill(~is_response, 0.0).sum()
        errors = (ratios - 1).abs()
        ratio_error = errors.max() if errors.numel() else errors.sum()
        differences = log_ratios.abs().sum()
    terms = torch.minimum(plain, clipped)
    if weights is not None:
        terms = terms * weights.masked_fill(~is_response, 0.0)
    return PolicyLoss(-terms.sum() / max(tokens, 1), clipped_tokens, moved, ratio_error, differences)


def importance_weights(
    logp_policy: Float[Tensor, "*shape"],
    logp_sampler: Float[Tensor, "*shape"],
    is_response: Bool[Tensor, "*shape"],
    limit: float,
) -> ImportanceWeights:
    """min(exp(logp_policy - logp_sampler), limit) a token, 0 outside the mask: truncated importance sampling.

    Both are of the same weights, computed by two programs. Truncation (Ionides 2008) bounds the variance and keeps
    tokens that the sampler thinks less likely than the policy from running away with a step. Without a token all is 0.
    """
    differences = (logp_policy - logp_sampler).masked_fill(~is_response, 0.0)
    ratios = differences.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().masked_fill(~is_response, 0.0)
    weights = ratios.clamp(max=limit)
    tokens = is_response.sum().clamp(min=1)
    sizes = differences.abs()
    return ImportanceWeights(
        weights,
        weights.sum() / tokens,
        (ratios > limit).sum() / tokens,
        sizes.sum() / tokens,
        sizes.max() if sizes.numel() else sizes.sum(),
    )


def value_loss(
    values: Float[Tensor, "*shape"],
    values_rollout: Float[Tensor, "*shape"],
    returns: Float[Tensor, "*shape"],
    is_response: Bool[Tensor, "*shape"],
    value_clip: float | None,
    tokens: int,
) -> ValueLoss:
    """Half the squared error, summed / tokens; with `value_clip` the larger of it and the clipped value's error.

    The clipped value moves at most `value_clip` (reward units) away from the rollout's. None: no clipping.
    """
    errors = (values - returns).square()
    clipped_tokens = torch.zeros((), dtype=values.dtype, device=values.device)
    if value_clip is not None:
        near = values_rollout + (values - values_rollout).clamp(-value_clip, value_clip)
        near_errors = (near - returns).square()
        clipped_tokens = ((near_errors > errors) & is_response).sum().to(values.dtype)
        errors = torch.maximum(errors, near_errors)
    return ValueLoss(0.5 * errors.masked_fill(~is_response, 0.0).sum() / max(tokens, 1), clipped_tokens)


def explained_variance(
    values: Float[Tensor, "*shape"], returns: Float[Tensor, "*shape"], is_response: Bool[Tensor, "*shape"]
) -> float:
    """1 - Var(returns - values) / Var(returns) over the mask: 1 is perfect, 0 no better than a constant.

    nan where the returns do not vary or there are fewer than two tokens.
    """
    kept_returns, kept_values = returns[is_response].double(), values[is_response].double()
    if kept_returns.numel() < 2:
        return float("nan")
    variance = kept_returns.var(correction=0)
    if variance.item() == 0.0:
        return float("nan")
    return float(1 - (kept_returns - kept_values).var(correction=0) / variance)
