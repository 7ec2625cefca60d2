"""Pairs on disk: a sequence that holds one pair at a time in memory. Knows pairs and places, not where they come from.

What trains and evaluates asks for pairs by their places and goes through them more than once; here that costs a read
each time and sixteen bytes a pair, however long the texts are and however many pairs there are.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from prefloop.schema import PreferencePair

__all__ = ["PairFile", "picked"]


class _Picked(Sequence[PreferencePair]):
    """Pairs of a file, in an order of one's own."""

    def __init__(self, source: PairFile, places: NDArray[np.int64]) -> None:
        self.source, self.places = source, places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> PreferencePair: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PreferencePair]: ...
    def __getitem__(self, index: int | slice) -> PreferencePair | Sequence[PreferencePair]:
        if isinstance(index, slice):
            return _Picked(self.source, self.places[index])
        return self.source.read(int(self.places[index]))

    def __iter__(self) -> Iterator[PreferencePair]:
        return (self.source.read(int(place)) for place in self.places)


class PairFile(_Picked):
    """All pairs of an iterable, in a file without a name that goes with the last reader.

    Args:
        pairs: read once.
        folder: on the disk where they go; not the system's temporary folder, which may be memory.
    """

    def __init__(self, pairs: Iterable[PreferencePair], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        ends = array("q", [0])
        with tempfile.TemporaryFile(dir=folder) as file:
            for pair in pairs:
                ends.append(ends[-1] + file.write(pair.model_dump_json(exclude_defaults=True).encode()))
            file.flush()
            self._descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._descriptor)
        self._ends = np.array(ends, dtype=np.int64)
        super().__init__(self, np.arange(len(ends) - 1))

    def read(self, place: int) -> PreferencePair:
        """The pair at a place, as it was written. Threads may share the file."""
        start, stop = int(self._ends[place]), int(self._ends[place + 1])
        return PreferencePair.model_validate_json(os.pread(self._descriptor, stop - start, start))


def picked(pairs: Sequence[PreferencePair], places: Iterable[int]) -> Sequence[PreferencePair]:
    """The pairs at these places, in this order: on disk where `pairs` are, else as a list."""
    if isinstance(pairs, _Picked):
        return _Picked(pairs.source, pairs.places[np.fromiter(places, dtype=np.int64)])
    return [pairs[place] for place in places]
