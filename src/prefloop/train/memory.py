"""The memory of a run: what it may have here, what it had at most, and one sentence where it asks for more.

Knows torch and the operating system's files, no model.
"""

from __future__ import annotations

import os
import re
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from prefloop.errors import ConfigError

__all__ = ["gibibytes", "memory_bytes", "one_sentence_where_memory_ends", "peak_memory"]

_CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"


@contextmanager
def one_sentence_where_memory_ends(ways: Sequence[str], kept: Path | None = None) -> Iterator[None]:
    """The border at which torch's, CUDA's and numpy's want of memory becomes an error that a user can mend.

    Args:
        ways: what to change, the cheapest first.
        kept: a folder whose checkpoints stay.

    Errors:
        ConfigError: memory ended. Any other error passes.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        is_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (is_gpu or isinstance(error, MemoryError) or _CPU_ALLOCATOR in str(error)):
            raise
        device = torch.device("cuda" if is_gpu else "cpu")
        stays = f"; the checkpoints in {kept} stay" if kept is not None and any(kept.glob("step-*")) else ""
        raise ConfigError(
            f"The run does not fit into memory: it asked for {_asked(str(error))} more, and may have "
            f"{gibibytes(memory_bytes(device))} {'of the GPU' if is_gpu else 'on this machine'} in all; "
            f"{', or '.join(ways)}{stays}."
        ) from None


def _asked(message: str) -> str:
    """Out of an allocator's message how much it could not give."""
    if found := re.search(r"tried to allocate (\d+) bytes", message):
        return gibibytes(int(found[1]))
    found = re.search(r"(?:Tried|Unable) to allocate ([\d.]+ \w+)", message)
    return found[1] if found else "some"


def gibibytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 2**30:.2f} GiB"


def peak_memory(device: torch.device) -> int:
    """Of this process so far: on the GPU where the model is there, else resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts in bytes there and in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def memory_bytes(device: torch.device, system: Path = Path("/")) -> int:
    """All that this process may hold as things are now, what it holds already included.

    On a GPU what is free there. Elsewhere the least of the machine's memory, what other programs leave of it, what the
    process' control groups (a container's, a batch system's) leave, and the shell's `ulimit -v`.

    Args:
        system: the root below which the operating system's files lie.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device))
    page = os.sysconf("SC_PAGE_SIZE")
    most = [page * os.sysconf("SC_PHYS_PAGES")]
    own, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own != resource.RLIM_INFINITY:
        most.append(own)
    sizes = _numbers(system / "proc" / "self" / "statm")
    held = page * int(sizes[0][1]) if sizes else 0
    for name, kibibytes, *_ in _numbers(system / "proc" / "meminfo"):
        if name == "MemAvailable:":
            most.append(1024 * int(kibibytes) + held)
    most += [limit - used + held for limit, used in _control_groups(system)]
    return max(0, min(most))


def _control_groups(system: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group of memory that this process is in; file pages that can go are not use."""
    files = {
        "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
        "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    memberships = system / "proc/self/cgroup"
    for line in memberships.read_text().splitlines() if memberships.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in files:
            continue
        mount, most, now, idle = files[controllers]
        group = Path(path.lstrip("/"))
        for folder in (system / mount / group, *(system / mount / part for part in group.parents)):
            limit, used = _numbers(folder / most), _numbers(folder / now)
            if limit and used and limit[0][0] != "max":  # a container sees its own group as the root alone
                unused = [int(value) for name, value in _numbers(folder / "memory.stat") if name == idle]
                yield int(limit[0][0]), int(used[0][0]) - sum(unused)


def _numbers(file: Path) -> list[list[str]]:
    """The words of each line; nothing where there is no such file."""
    try:
        return [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return []
