"""Which device models go to: the one that a setting or an option names. Knows no models."""

from __future__ import annotations

import os

import torch

from prefloop.errors import ConfigError

__all__ = ["device_named"]


def device_named(name: str) -> torch.device:
    """The device of the setting; 'auto' is a GPU where there is one, and under torchrun each process has its own.

    Errors:
        ConfigError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device is {name!r}, and this machine has no GPU that torch can use; take 'cpu'.")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
        torch.cuda.set_device(name)
    return torch.device(name)
