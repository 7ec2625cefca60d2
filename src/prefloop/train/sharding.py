"""A model whose weights, gradients and optimiser state are split over processes by FSDP2. Knows no loss and no file.

The trunk is split layer by layer; what stands around it (a head) is whole in every process. Gradients are summed, not
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
from prefloop.train.processes import Processes

__all__ = ["clip_gradients", "is_sharded", "put_optimizer_state", "shard", "whole", "whole_state"]


def shard(trunk: Any, processes: Processes) -> None:
    """Splits a trunk over the processes, in place; before its optimiser is made.

    Errors:
        ConfigError: there is one process alone.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if processes.count == 1:
        raise ConfigError("shard = true needs several processes; start the run with torchrun, or set it to false.")
    device = next(trunk.parameters()).device.type
    mesh = init_device_mesh(device, (processes.count,))
    layers = next(child for child in trunk.children() if isinstance(child, torch.nn.ModuleList))
    for module in (*layers, trunk):
        split = fully_shard(module, mesh=mesh)
        split.set_gradient_divide_factor(1.0)
        split.set_force_sum_reduction_for_comms(True)


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
