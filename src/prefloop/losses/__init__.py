"""Pure tensor functions: losses of preference, distillation and PPO, advantages, KL estimates, masked statistics.

Import only torch and jaxtyping; know no model, no batch and no file.
"""

from prefloop.losses.distill import TopClasses, distill_losses, top_classes
from prefloop.losses.gae import Advantages, generalised_advantages, whitened
from prefloop.losses.kl import LARGEST_KL_ERROR, SequenceKL, adapted_kl_coefficient, k1, k3, sequence_kl, token_rewards
from prefloop.losses.masked import masked_mean, rank_correlation
from prefloop.losses.ppo import (
    ImportanceWeights,
    PolicyLoss,
    ValueLoss,
    explained_variance,
    importance_weights,
    policy_loss,
    token_logps,
    value_loss,
)
from prefloop.losses.preference import centring_penalties, preference_losses

__all__ = [
    "LARGEST_KL_ERROR",
    "Advantages",
    "ImportanceWeights",
    "PolicyLoss",
    "SequenceKL",
    "TopClasses",
    "ValueLoss",
    "adapted_kl_coefficient",
    "centring_penalties",
    "distill_losses",
    "explained_variance",
    "generalised_advantages",
    "importance_weights",
    "k1",
    "k3",
    "masked_mean",
    "policy_loss",
    "preference_losses",
    "rank_correlation",
    "sequence_kl",
    "token_logps",
    "token_rewards",
    "top_classes",
    "value_loss",
    "whitened",
]
