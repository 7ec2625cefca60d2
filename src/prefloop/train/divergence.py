"""Whether a step has broken the model that it moved: loops know loss and gradient before a step, this looks after it.

What a run is about to write, a checkpoint, a model or weights for a server, is looked at first. Knows no loss, no file.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from prefloop.errors import TrainingError
from prefloop.train.processes import Processes

__all__ = ["require_room", "require_sound"]

_MOST = torch.finfo(torch.float32).max ** 0.5  # norms square what comes of a weight


def require_sound(
    model: torch.nn.Module, given: Tensor, when: str, advice: str, processes: Processes | None = None
) -> None:
    """Looks at what a model gives now, and at all weights that learn. All processes call it together.

    Args:
        given: losses, scores or log-probabilities of something that it has just learned from. They and the weights are
            looked at because neither shows all: a norm makes 0 of a number whose square overflows, products of finite
            weights overflow, and no text may need the row of an embedding that is broken.
        when: the beginning of the message, "After step 3 ".
        advice: its end: what to change.

    Errors:
        TrainingError: a number given is not finite, or a weight is none or too large to be squared in float32.
    """
    (broken,) = (processes or Processes()).summed(_beyond(model, _MOST))
    wrong = given[~given.isfinite()]
    if broken or len(wrong):
        gives = f"gives {wrong[0].item()}" if len(wrong) else "gives finite numbers"
        raise TrainingError(
            f"{when}the model {gives} and {int(broken)} of its weights are beyond {_MOST:.2g} or no numbers; {advice}."
        )


def require_room(model: torch.nn.Module, dtype: torch.dtype, setting: str = "saved_dtype") -> None:
    """Looks whether weights that were put into `dtype` are still finite.

    Errors:
        TrainingError: some are too large for it.
    """
    if broken := _beyond(model, torch.finfo(dtype).max):
        name = str(dtype).removeprefix("torch.")
        raise TrainingError(
            f"{broken} of the trained weights are above {torch.finfo(dtype).max:g}, the most that {setting} = {name} "
            "holds; set it to bfloat16 or float32."
        )


@torch.no_grad()
def _beyond(model: torch.nn.Module, most: float) -> int:
    """How many of the weights that learn are NaN or larger than `most`; of split ones those of this process."""
    broken = 0
    for parameter in model.parameters():
        own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        if not own.requires_grad or own.numel() == 0:
            continue
        low, high = own.aminmax()  # cheaper than to look at each; NaN if one is
        if not (-most <= low.item() and high.item() <= most):
            broken += int((~(own.abs() <= most)).sum())
    return broken
