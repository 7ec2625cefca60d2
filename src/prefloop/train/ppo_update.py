"""The optimiser steps that PPO takes on one batch: the policy's and the value model's. Knows no sampling.

The two models share nothing, so their updates are two independent jobs over the same plan of minibatches.
Sizes and legend as in `rollout`; losses are normalised by the response tokens of the whole minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.errors import TrainingError
from prefloop.losses import policy_loss, value_loss
from prefloop.models.adapters import trained_state
from prefloop.models.checkpoint import Checkpoint, load_optimizer_state, optimizer_state
from prefloop.models.responses import PackedResponses, pack_responses, response_logps, token_parts
from prefloop.models.value import ValueModel
from prefloop.train.divergence import require_sound
from prefloop.train.processes import Processes
from prefloop.train.rollout import Budget, Rollout
from prefloop.train.sharding import (
    clip_gradients,
    is_sharded,
    put_optimizer_state,
    put_state,
    whole,
    whole_state,
)


@dataclass(frozen=True)
class TrainingBatch:
    """What both updates learn from; all (batch, response), the advantages whitened.

    `importance` weighs the policy's terms where a sampler elsewhere drew the replies.
    """

    is_response: Bool[Tensor, "batch response"]
    logp_rollout: Float[Tensor, "batch response"]
    values_rollout: Float[Tensor, "batch response"]
    advantages: Float[Tensor, "batch response"]
    returns: Float[Tensor, "batch response"]
    importance: Float[Tensor, "batch response"] | None = None

    def flat(self, name: str, episodes: Int[Tensor, " episode"], device: torch.device) -> Float[Tensor, " token"]:
        """One of the fields as a flat row of the response tokens of some episodes."""
        rows: Tensor = getattr(self, name)[episodes]
        return rows[self.is_response[episodes]].to(device)


class MicroBatch(NamedTuple):
    """What one forward computes."""

    packed: PackedResponses
    episodes: Int[Tensor, " episode"]


class MiniBatch(NamedTuple):
    """What one optimiser step learns from."""

    parts: list[MicroBatch]
    tokens: int  # response tokens


class PolicyUpdate(NamedTuple):
    """Means over all response tokens of all steps; `*_first_*` are of the first minibatch, before its step.

    These are the largest |ratio - 1|, and the mean of |logp_policy - logp_rollout| over response tokens, nats.
    """

    loss: float
    clip_fraction: float
    moved_kl: float
    gradient_norm: float
    ratio_first_error: float
    logp_first_difference: float


class ValueUpdate(NamedTuple):
    """Means over all steps."""

    loss: float
    clip_fraction: float
    gradient_norm: float


def plan_minibatches(
    rollout: Rollout,
    epochs: int,
    minibatches: int,
    budget: Budget,
    seed: int,
    device: torch.device,
    least_parts: int = 1,
) -> list[MiniBatch]:
    """The minibatches of all epochs in order. Samples of one prompt stay together, so that it is computed once.

    Args:
        least_parts: about how many parts a minibatch has at least: one for each process that shares it.
    """
    groups: list[list[int]] = []
    for episode, prompt in enumerate(rollout.prompts):
        if groups and rollout.prompts[groups[-1][-1]] is prompt:
            groups[-1].append(episode)
        else:
            groups.append([episode])
    generator = np.random.default_rng(seed)
    plan = []
    for _ in range(epochs):
        for part in np.array_split(generator.permutation(len(groups)), min(minibatches, len(groups))):
            plan.append(
                _minibatch(
                    rollout, [episode for group in part for episode in groups[group]], budget, device, least_parts
                )
            )
    return plan


class Learner:
    """Policy and value model with their optimisers.

    Args:
        policy: a causal LM, trained in place; it and the value model may be split over the processes.
        autocast: makes the context of each forward.
        processes: with whom the parts of a minibatch are shared; then both updates come one after the other.
    """

    def __init__(
        self,
        policy: Any,
        value: ValueModel,
        *,
        clip: float,
        value_clip: float | None,
        max_gradient_norm: float,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        processes: Processes | None = None,
    ) -> None:
        self.policy, self.value = policy, value
        self._processes = processes or Processes()
        self._clip, self._value_clip, self._max_gradient_norm = clip, value_clip, max_gradient_norm
        self._autocast = autocast
        self._is_split = is_sharded(policy)
        # Fused steps go through memory once; for weights that are partly split there is the plain way alone.
        how: dict[str, Any] = {"foreach": False} if self._is_split else {"fused": True}
        self._optimizers = {
            "policy": torch.optim.Adam(policy.parameters(), lr=0.0, eps=1e-5, **how),
            "value": torch.optim.Adam(value.parameters(), lr=0.0, eps=1e-5, **how),
        }

    def update_policy(self, plan: Sequence[MiniBatch], batch: TrainingBatch, learning_rate: float) -> PolicyUpdate:
        """One step a minibatch.

        Errors:
            TrainingError: a loss or a gradient is not finite; the weights are those of the step before.
        """
        device = next(self.policy.parameters()).device
        loss_sum = clipped = moved = norm_sum = ratio_first_error = first_differences = 0.0
        for step, minibatch in enumerate(plan):
            loss = 0.0
            for (packed, episodes), counts in self._own(minibatch):
                with self._autocast():
                    logps = response_logps(self.policy, packed)
                terms = policy_loss(
                    logps,
                    batch.flat("logp_rollout", episodes, device),
                    batch.flat("advantages", episodes, device),
                    torch.ones_like(logps, dtype=torch.bool),
                    self._clip,
                    minibatch.tokens,
                    None if batch.importance is None else batch.flat("importance", episodes, device),
                )
                (terms.loss * float(counts)).backward()  # type: ignore[no-untyped-call]
                if not counts:
                    continue
                loss += terms.loss.item()
                clipped += terms.clipped_tokens.item()
                moved += terms.moved_kl.item()
                if step == 0:
                    ratio_first_error = max(ratio_first_error, terms.ratio_error.item())
                    first_differences += terms.differences.item()
            (loss,) = self._processes.summed(loss)
            norm_sum += self._step("policy", loss, learning_rate)
            loss_sum += loss
        tokens = sum(minibatch.tokens for minibatch in plan)
        clipped, moved, first_differences = self._processes.summed(clipped, moved, first_differences)
        ratio_first_error = self._processes.largest(ratio_first_error)
        return PolicyUpdate(
            loss_sum / len(plan),
            clipped / tokens,
            moved / tokens,
            norm_sum / len(plan),
            ratio_first_error,
            first_differences / max(plan[0].tokens, 1),
        )

    def update_value(self, plan: Sequence[MiniBatch], batch: TrainingBatch, learning_rate: float) -> ValueUpdate:
        """One step a minibatch.

        Errors:
            TrainingError: a loss or a gradient is not finite; the weights are those of the step before.
        """
        device = self.value.head.weight.device
        loss_sum = clipped = norm_sum = 0.0
        for minibatch in plan:
            loss = 0.0
            for (packed, episodes), counts in self._own(minibatch):
                with self._autocast():
                    values = self.value(packed)
                terms = value_loss(
                    values,
                    batch.flat("values_rollout", episodes, device),
                    batch.flat("returns", episodes, device),
                    torch.ones_like(values, dtype=torch.bool),
                    self._value_clip,
                    minibatch.tokens,
                )
                (terms.loss * float(counts)).backward()  # type: ignore[no-untyped-call]
                if not counts:
                    continue
                loss += terms.loss.item()
                clipped += terms.clipped_tokens.item()
            (loss,) = self._processes.summed(loss)
            norm_sum += self._step("value", loss, learning_rate)
            loss_sum += loss
        tokens = sum(minibatch.tokens for minibatch in plan)
        (clipped,) = self._processes.summed(clipped)
        return ValueUpdate(loss_sum / len(plan), clipped / tokens, norm_sum / len(plan))

    @torch.no_grad()
    def require_sound(self, rollout: Rollout, policy_rate: float, value_rate: float) -> None:
        """Looks at both models after their updates, on one episode. All processes call it together.

        Errors:
            TrainingError: one of them has weights that are not finite, or gives such numbers.
        """
        packed = pack_responses([rollout.prompts[0].ids], [rollout.samples[0].ids], 1)
        packed = packed.to(self.value.head.weight.device)
        with self._autocast():
            given = {"policy": response_logps(self.policy, packed), "value": self.value(packed)}
        for name, rate in (("policy", policy_rate), ("value", value_rate)):
            require_sound(
                getattr(self, name),
                given[name],
                f"After the updates of the {name} model ",
                f"lower {self._rate_setting(name)} (now {rate:g}) and start again, or resume from the last checkpoint",
                self._processes,
            )

    @staticmethod
    def _rate_setting(name: str) -> str:
        return "learning_rate" if name == "policy" else "value_learning_rate"

    def _own(self, minibatch: MiniBatch) -> list[tuple[MicroBatch, bool]]:
        """This process' parts, and whether each counts: one that does not is computed for company alone."""
        return self._processes.even(self._processes.share(minibatch.parts), minibatch.parts[0])

    @torch.no_grad()
    def give_policy(self, other: Any) -> None:
        """Copies the policy's weights, whole, into another model of its kind. All processes call it together."""
        theirs = other.state_dict()
        for name, value in self.policy.state_dict().items():
            theirs[name].copy_(whole(value))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Weights and optimiser states, whole, as tensors and JSON: `load` takes both back."""
        tensors: dict[str, Tensor] = {}
        facts: dict[str, Any] = {}
        for name, model in (("policy", self.policy), ("value", self.value)):
            kept: dict[int, str] = {}  # tied weights are saved once, under their first name
            for key, value in whole_state(trained_state(model)).items():
                if kept.setdefault(value.data_ptr(), key) == key:
                    tensors[f"{name}.{key}"] = value
            slots, facts[name] = optimizer_state(self._optimizers[name])
            tensors |= {f"{name}_optimizer.{key}": value for key, value in whole_state(slots).items()}
        return tensors, facts

    def load(self, checkpoint: Checkpoint, facts: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        for name, model in (("policy", self.policy), ("value", self.value)):
            put_state(model, checkpoint.part(name))
            load_optimizer_state(self._optimizers[name], checkpoint.part(f"{name}_optimizer"), facts[name])
            put_optimizer_state(self._optimizers[name])

    def _step(self, name: Literal["policy", "value"], loss: float, learning_rate: float) -> float:
        """Clips the gradient, checks it, steps; returns its norm before clipping."""
        model, optimizer = getattr(self, name), self._optimizers[name]
        self._processes.sum_gradients(model.parameters())
        clip = clip_gradients if self._is_split else torch.nn.utils.clip_grad_norm_
        norm = float(clip(model.parameters(), self._max_gradient_norm))
        if not (math.isfinite(loss) and math.isfinite(norm)):
            optimizer.zero_grad()
            raise TrainingError(
                f"The loss of the {name} model is {loss} and its gradient norm {norm}; lower "
                f"{self._rate_setting(name)} (now {learning_rate:g}) and start again, or resume from the last "
                "checkpoint."
            )
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()
        optimizer.zero_grad()
        return norm


def _minibatch(
    rollout: Rollout, episodes: list[int], budget: Budget, device: torch.device, least_parts: int
) -> MiniBatch:
    prompts = [rollout.prompts[episode].ids for episode in episodes]
    responses = [rollout.samples[episode].ids for episode in episodes]
    tokens = sum(map(len, prompts)) + sum(map(len, responses))
    parts = [
        MicroBatch(
            pack_responses([prompts[i] for i in part], [responses[i] for i in part], budget.row_tokens).to(device),
            torch.tensor([episodes[i] for i in part]),
        )
        for part in token_parts(prompts, responses, min(budget.tokens_per_forward, -(-tokens // least_parts)))
    ]
    return MiniBatch(parts, sum(map(len, responses)))
