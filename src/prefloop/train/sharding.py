"""A model whose weights, gradients and optimiser state are split over processes by FSDP2. Knows no loss and no file.

The trunk is split layer by layer, a language-model head by itself; what else stands around it is whole in every
process, and so are embeddings that the head is tied to. Gradients are summed, not
averaged: each process divides its losses by the size of the whole batch. All processes must do the same number of
forwards and backwards. What is saved is whole, as one process would write it, and is loaded before the model is split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from prefloop.errors import ConfigError
from prefloop.models.trie import take_trie_attention
from prefloop.train.processes import Processes

__all__ = [
    "clip_gradients",
    "is_sharded",
    "put_optimizer_state",
    "put_state",
    "require_several",
    "shard",
    "whole",
    "whole_state",
]


def shard(trunk: Any, processes: Processes, head: torch.nn.Linear | None = None) -> None:
    """Splits a trunk over the processes, in place; before its optimiser is made.

    Args:
        head: the language-model head on it, which is split too.

    Errors:
        ConfigError: there is one process alone, or tries do not run in this trunk end to end: then the number of its
            forwards is not that of the batches.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    require_several(processes)
    if not take_trie_attention(trunk, even_if_lean=True):
        raise ConfigError(
            f"shard = true needs attention along tries, which is not exact for {type(trunk).__name__}; set it to false."
        )
    device = next(trunk.parameters()).device.type
    mesh = init_device_mesh(device, (processes.count,))
    layers = next(child for child in trunk.children() if isinstance(child, torch.nn.ModuleList))
    tied: Any = {one for one in trunk.parameters() if head is not None and one is head.weight}
    own_head = [] if head is None or tied else [head]
    for module in (*layers, trunk, *own_head):
        split = fully_shard(module, mesh=mesh, ignored_params=tied or None)
        split.set_gradient_divide_factor(1.0)
        split.set_force_sum_reduction_for_comms(True)


def require_several(processes: Processes) -> None:
    """ConfigError where there is one process alone, which has nobody to share weights with."""
    if processes.count == 1:
        raise ConfigError("shard = true needs several processes; start the run with torchrun, or set it to false.")


def is_sharded(model: Any) -> bool:
    """Whether some of the weights are split."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """The whole of a tensor that may be split. All processes call it together."""
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor()
        return full
    return tensor


def clip_gradients(parameters: Iterable[torch.nn.Parameter], most: float) -> float:
    """As `torch.nn.utils.clip_grad_norm_`, for parameters of which some are split; returns the norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    split = [gradient.to_local() for gradient in gradients if isinstance(gradient, DTensor)]
    own = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    squares = torch.stack([torch.zeros(()), *(part.float().square().sum().cpu() for part in split)]).sum()
    dist.all_reduce(squares)
    norm = (squares + sum(gradient.float().square().sum().cpu() for gradient in own)).sqrt().item()
    factor = min(1.0, most / (norm + 1e-6))  # as torch has it
    for part in (*split, *own):
        part.mul_(factor)
    return norm


def put_state(model: torch.nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Puts whole tensors into a model by name, split where its own are; what is not given stays."""
    state = model.state_dict()
    for name, value in tensors.items():
        own = state[name]
        state[name] = distribute_tensor(value, own.device_mesh, own.placements) if isinstance(own, DTensor) else value
    model.load_state_dict(state)


def put_optimizer_state(optimizer: torch.optim.Optimizer) -> None:
    """Splits the state that was loaded whole as the weights are split."""
    for parameter, slots in optimizer.state.items():
        if isinstance(parameter, DTensor):
            for name, value in slots.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and not isinstance(value, DTensor):
                    slots[name] = distribute_tensor(value, parameter.device_mesh, parameter.placements)


def whole_state(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of the tensors whole."""
    return {name: whole(value) for name, value in tensors.items()}
