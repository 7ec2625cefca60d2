"""The same function on several arguments at once, each in a process of its own: for training that fills one core.

A child ends with this process, also when that is killed, so a resumed run never meets one that still writes.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from tqdm import tqdm

from prefloop.errors import TrainingError

T = TypeVar("T")


def side_by_side(function: Callable[..., T], arguments: Sequence[tuple[Any, ...]]) -> list[T]:
    """`function(place, *arguments)` for each of `arguments`, results in their order; `place` is where its bar goes.

    The cores are shared out. With one core, or with a GPU, which a single run fills, they run here one after another.
    Function, arguments and results are pickled.

    Errors:
        TrainingError: a process was killed from outside; what its checkpoints hold is kept.
        Whatever `function` raises.
    """
    import torch

    threads = (os.cpu_count() or 1) // len(arguments)
    if threads == 0 or torch.cuda.is_available():
        return [function(0, *each) for each in arguments]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(arguments), context, _prepare, (threads, context.RLock())) as pool:
        started = [pool.submit(function, place, *each) for place, each in enumerate(arguments)]
        try:
            return [future.result() for future in started]
        except BrokenProcessPool:
            raise TrainingError(
                "A training process was killed (out of memory, perhaps); its last checkpoint is kept: free some memory "
                "and resume."
            ) from None


def _prepare(threads: int, bar_lock: Any) -> None:
    import torch

    torch.set_num_threads(threads)
    tqdm.set_lock(bar_lock)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, name="parent watch", daemon=True).start()
