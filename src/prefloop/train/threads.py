"""The threads of a run: a resumed run goes on with those that it began with. Knows no model.

With another number of threads sums are rounded in another order, so the numbers of a run depend on it. It is noted in
the run's folder before it trains, so that a run killed before its first checkpoint has it too. A command that draws its
own data takes them before it draws: where it begins, they are those that are noted.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from prefloop.errors import DataError
from prefloop.runs import RunFolder, read_json, write_json
from prefloop.train.processes import Processes

__all__ = ["own_threads_afterwards", "take_threads"]

_log = logging.getLogger(__name__)


@contextmanager
def own_threads_afterwards() -> Iterator[None]:
    """Gives torch back, in the end, the number of threads that it has now. A decorator too."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def take_threads(folder: RunFolder, processes: Processes | None = None) -> None:
    """Notes torch's threads in the folder of a run that begins; gives torch those of one that goes on.

    Resumed with another number of processes a run has other numbers all the same, and keeps the threads of now.

    Errors:
        DataError: the note is damaged.
    """
    processes = processes or Processes()
    note = folder.path / "threads.json"
    if processes.is_first and not note.is_file():
        write_json(note, {"processes": processes.count, "threads": torch.get_num_threads()})
    processes.wait()  # nobody reads before it is there
    remedy = "delete it and resume, which goes on with the threads of now"
    begun = read_json(note, remedy)
    if not all(isinstance(begun.get(name), int) for name in ("processes", "threads")):
        raise DataError(f"{note} names no numbers of processes and threads; {remedy}.")
    if begun["processes"] == processes.count and begun["threads"] != torch.get_num_threads():
        _log.info("Going on with %d threads, as %s was begun, for the same numbers.", begun["threads"], folder.path)
        torch.set_num_threads(begun["threads"])
