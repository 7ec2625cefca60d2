"""Peak memory of this process on Linux (not of a parent), or of its tensors on a GPU. Knows nothing else."""

from __future__ import annotations

from pathlib import Path


def peak_mib(device: str = "cpu") -> float:
    """The most memory that this process has had since it started, MiB: resident, or of tensors on the GPU."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated() / 2**20
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("/proc/self/status has no VmHWM here; measure on Linux.")
