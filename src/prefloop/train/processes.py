"""Several processes that train one model, as `torchrun` starts them. Knows no model and no loss.

Every process holds all models, or its part of those that `sharding` split. Of each batch it samples and scores its
share of the prompts; all see the whole batch then, so advantages are whitened over all of it. Of each minibatch it
computes its share of the parts; the gradients, already divided by the tokens of the whole minibatch, are summed, so a
step is that of one process up to rounding. One process alone needs nothing of this and pays nothing for it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from prefloop.runs import RunFolder

__all__ = ["Processes"]

_T = TypeVar("_T")


class Processes:
    """This process among its fellows. `rank` counts from 0; the first one writes what the run leaves behind."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @classmethod
    def of_environment(cls) -> Processes:
        """As torchrun set the environment, joined over gloo; what GPUs send one another (split weights) over NCCL."""
        if not dist.is_available() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        if not dist.is_initialized():
            has_gpus = torch.cuda.is_available() and dist.is_nccl_available()
            dist.init_process_group("cpu:gloo,cuda:nccl" if has_gpus else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    def share(self, items: Sequence[_T]) -> list[_T]:
        """Every `count`-th of the items, beginning at `rank`."""
        return list(items[self.rank :: self.count])

    def gathered(self, own: list[_T]) -> list[_T]:
        """The items of all processes in their order, from what each one made of its `share`."""
        if self.count == 1:
            return own
        parts: list[list[_T]] = [[]] * self.count
        dist.all_gather_object(parts, own)
        total = sum(map(len, parts))
        return [parts[place % self.count][place // self.count] for place in range(total)]

    def even(self, own: Sequence[_T], filler: _T) -> list[tuple[_T, bool]]:
        """The own items, and the filler so often that all processes have as many; False where it fills.

        For forwards of split models, which no process can do alone: what a filler gives counts for nothing.
        """
        most = int(self.largest(len(own)))
        return [*((item, True) for item in own), *((filler, False) for _ in range(most - len(own)))]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sums the gradients of all processes in place, in one message; a missing one counts as 0."""
        wanted = [one for one in parameters if one.requires_grad and not isinstance(one, DTensor)]  # those have theirs
        if self.count == 1 or not wanted:
            return
        flat = torch.cat(
            [(torch.zeros_like(one) if one.grad is None else one.grad).flatten().cpu().float() for one in wanted]
        )
        dist.all_reduce(flat)
        for one, part in zip(wanted, torch.split(flat, [one.numel() for one in wanted]), strict=True):
            one.grad = part.view_as(one).to(one.device, one.dtype)

    def summed(self, *numbers: float) -> list[float]:
        """Each number summed over the processes."""
        return self._reduced(numbers, dist.ReduceOp.SUM)

    def largest(self, number: float) -> float:
        """The largest of the processes' numbers."""
        return self._reduced((number,), dist.ReduceOp.MAX)[0]

    def _reduced(self, numbers: Sequence[float], how: Any) -> list[float]:
        if self.count == 1:
            return list(numbers)
        values: Tensor = torch.tensor(numbers, dtype=torch.float64)
        dist.all_reduce(values, how)
        result: list[float] = values.tolist()
        return result

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def scratch_folder(self) -> RunFolder:
        """A folder that ends with the process, for what the first process alone keeps."""
        self._scratch = tempfile.TemporaryDirectory()
        return RunFolder(Path(self._scratch.name))

    @contextmanager
    def own_folder(self, folder: RunFolder) -> Iterator[RunFolder]:
        """The run's folder for the first process; for the others one that is thrown away, with the same settings."""
        if self.is_first:
            yield folder
            return
        with tempfile.TemporaryDirectory() as scratch:
            yield RunFolder(Path(scratch))
