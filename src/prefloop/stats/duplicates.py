"""Texts that are the same or nearly so. Knows texts only.

Exact copies are found on normalised text (case, spacing and punctuation ignored), near copies by MinHash over runs of
five characters (Broder 1997) in bands; each candidate pair is confirmed by its exact Jaccard similarity.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_RUN_CHARACTERS = 5
_HASHES, _BANDS = (
    96,
    24,
)  # 24 bands of 4: a pair of similarity 0.8 is missed once in 4e5, one of 0.4 found half the time
_PRIME = (1 << 31) - 1  # products of two numbers below it fit into 64 bits
_MOST_PER_BUCKET = 50


class NearDuplicate(NamedTuple):
    """Two distinct texts (by index) and their Jaccard similarity."""

    first: int
    second: int
    similarity: float


def normalised(text: str) -> str:
    """Lower case, words separated by one space, no punctuation."""
    return " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))


def duplicate_groups(texts: Sequence[str]) -> list[list[int]]:
    """Groups (two or more indices) of texts that are equal once normalised, largest group first."""
    places: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        places[normalised(text)].append(i)
    groups = [group for group in places.values() if len(group) > 1]
    return sorted(groups, key=lambda group: (-len(group), group[0]))


def near_duplicates(texts: Sequence[str], threshold: float = 0.8) -> list[NearDuplicate]:
    """Pairs of different texts at least `threshold` similar, most similar first; exact copies are left to the groups.

    In a bucket of more than 50 candidates each is compared with the first only, so that a template that everybody
    used cannot make the search quadratic; its pairs are then listed against one text.
    """
    first_of: dict[str, int] = {}
    for i, text in enumerate(texts):
        first_of.setdefault(normalised(text), i)
    runs = {i: _runs(text) for text, i in first_of.items() if text}
    if len(runs) < 2:
        return []
    indices = np.array(list(runs))
    signatures = np.stack([_signature(run) for run in runs.values()])
    candidates: set[tuple[int, int]] = set()
    rows = _HASHES // _BANDS
    for band in range(_BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for index, part in zip(indices.tolist(), signatures[:, band * rows : (band + 1) * rows], strict=True):
            buckets[part.tobytes()].append(index)
        for bucket in buckets.values():
            if len(bucket) <= _MOST_PER_BUCKET:
                candidates.update(combinations(bucket, 2))
            else:
                candidates.update((bucket[0], other) for other in bucket[1:])
    found = [NearDuplicate(a, b, _jaccard(runs[a], runs[b])) for a, b in candidates]
    return sorted((pair for pair in found if pair.similarity >= threshold), key=lambda pair: (-pair.similarity, pair))


def _runs(text: str) -> npt.NDArray[np.uint64]:
    """Hashes of all runs of characters, distinct and sorted; a short text is one run."""
    letters = np.frombuffer(text.ljust(_RUN_CHARACTERS).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(letters, _RUN_CHARACTERS)
    return np.unique(((runs * _PLACES).sum(axis=1) >> np.uint64(33)) % np.uint64(_PRIME))  # multiply-shift, modulo 2^64


def _signature(runs: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The least value of each of `_HASHES` fixed linear hashes: (run,) -> (hash,)."""
    hashed = (_FACTORS[:, None] * runs[None, :] + _SHIFTS[:, None]) % np.uint64(_PRIME)
    return np.asarray(hashed.min(axis=1), dtype=np.uint64)


def _jaccard(first: npt.NDArray[np.uint64], second: npt.NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)


_PLACES = np.random.default_rng(6).integers(1, 1 << 63, size=_RUN_CHARACTERS).astype(np.uint64) * np.uint64(
    2
) + np.uint64(1)
_FACTORS, _SHIFTS = np.random.default_rng(5).integers(1, _PRIME, size=(2, _HASHES)).astype(np.uint64)
