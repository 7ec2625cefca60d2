"""The value model of PPO: what a policy may still expect at each token of a reply. Knows no training.

A trunk of its own with one linear output. It starts from the preference model where that reads the policy's tokens:
its value at the end of a reply is then the (normalised) score itself, which is what the reply will earn.
"""

from __future__ import annotations

import copy
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import PackedResponses
from prefloop.models.trie import packed_hidden

__all__ = ["ValueModel"]


class ValueModel(torch.nn.Module):
    """Values in reward units.

    Args:
        trunk: a Hugging Face trunk (`AutoModel`); it is trained, so give a copy.
        hidden: width of its hidden states.
    """

    def __init__(self, trunk: Any, hidden: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = torch.nn.Linear(hidden, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @classmethod
    def from_preference_model(cls, preference_model: PreferenceModel, mean: float = 0.0, std: float = 1.0) -> Self:
        """Starts as (score - mean) / std of the PM, which stays untouched."""
        weight = preference_model.head.weight
        value = cls(copy.deepcopy(preference_model.trunk), weight.shape[1])
        with torch.no_grad():
            value.head.weight.copy_(weight.float() / std)
            value.head.bias.fill_(-mean / std)
        return value.requires_grad_().to(weight.device).eval()

    @classmethod
    def from_policy(cls, policy: Any) -> Self:
        """Starts as 0 everywhere on a copy of the policy's trunk: for a PM with another tokenizer."""
        value = cls(copy.deepcopy(policy.base_model), policy.config.hidden_size)
        return value.requires_grad_().to(policy.device).eval()

    def forward(self, packed: PackedResponses) -> Float[Tensor, " token"]:
        """The value before each response token: aligned with its log-probability. The head is computed in fp32."""
        hidden = packed_hidden(self.trunk, packed.batch, packed.at)
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.head(hidden.float()).squeeze(-1)
        return values
