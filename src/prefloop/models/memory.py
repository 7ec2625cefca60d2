"""Giving memory that nothing uses back to the operating system. Knows no model."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

__all__ = ["release_free_memory"]


@functools.cache
def _trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # no glibc
        return None
    return trim


def release_free_memory() -> None:
    """Returns the free pages of glibc's arenas; nothing where the C library is another.

    Every thread that computes has an arena of its own, and what it freed stays there: without this the peak of a
    program is the sum of what its threads once needed, and not the most that was needed at a time.
    """
    trim = _trim()
    if trim is not None:
        trim(0)
