"""The value model of PPO: what a policy may still expect at each token of a reply. Knows no training.

A trunk of its own with one linear output. It starts from the preference model where that reads the policy's tokens:
its value at the end of a reply is then the (normalised) score itself, which is what the reply will earn.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, NamedTuple, Self

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.models.adapters import add_lora, sharing_copy
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import PackedResponses
from prefloop.models.trie import packed_hidden

__all__ = ["Lora", "ValueModel"]


class Lora(NamedTuple):
    """Rank, scale (alpha / rank) and seed of an adapter; see `add_lora`."""

    rank: int
    scale: float
    seed: int


class ValueModel(torch.nn.Module):
    """Values in reward units.

    A policy may have more token ids than the trunk, where its makers rounded the vocabulary up: such an id, which is no
    text, is read as padding.

    Args:
        trunk: a Hugging Face trunk (`AutoModel`); it is trained, so give a copy.
        hidden: width of its hidden states.
    """

    def __init__(self, trunk: Any, hidden: int) -> None:
        super().__init__()
        self.adapter: Any = None
        self.trunk = trunk
        self._vocabulary = trunk.get_input_embeddings().weight.shape[0]
        self._unknown_id = trunk.config.pad_token_id or 0
        self.head = torch.nn.Linear(hidden, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    @classmethod
    def from_preference_model(
        cls, preference_model: PreferenceModel, mean: float = 0.0, std: float = 1.0, lora: Lora | None = None
    ) -> Self:
        """Starts as (score - mean) / std of the PM, which stays untouched."""
        weight = preference_model.head.weight
        value = cls._on(preference_model.trunk, weight.shape[1], lora)
        with torch.no_grad():
            value.head.weight.copy_(weight.float() / std)
            value.head.bias.fill_(-mean / std)
        return value.to(weight.device).eval()

    @classmethod
    def from_policy(cls, policy: Any, lora: Lora | None = None) -> Self:
        """Starts as 0 everywhere on a copy of the policy's trunk: for a PM with another tokenizer."""
        return cls._on(policy.base_model, policy.config.hidden_size, lora).to(policy.device).eval()

    @classmethod
    def _on(cls, trunk: Any, hidden: int, lora: Lora | None) -> Self:
        """A copy of the trunk that learns whole, or one that shares its weights and learns an adapter beside them."""
        if lora is None:
            return cls(copy.deepcopy(trunk), hidden).requires_grad_()
        value = cls(sharing_copy(trunk), hidden)
        add_lora(value.trunk, *lora)
        value.adapter = value.trunk.adapter
        return value

    def forward(self, packed: PackedResponses) -> Float[Tensor, " token"]:
        """The value before each response token: aligned with its log-probability. The head is computed in fp32."""
        ids = packed.batch.ids
        known = replace(packed.batch, ids=ids.masked_fill(ids >= self._vocabulary, self._unknown_id))
        hidden = packed_hidden(self.trunk, known, packed.at)
        with torch.autocast(hidden.device.type, enabled=False):
            values: Tensor = self.head(hidden.float()).squeeze(-1)
        return values
