"""Opening turns: exact copies among all of them, near copies in a stated part. Knows no store and no judgments.

Every opening leaves a digest of its normalised text. The text itself is kept of the first different ones alone.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt

from prefloop.schema import split_place
from prefloop.stats import NearDuplicate, near_duplicates, normalised

MOST_TEXTS = 50_000
"""Different openings whose text is kept, the earliest ones, so that a report is the same each time."""
MOST_OWN_TEXTS = 20_000
"""Openings of all workers together that are compared with their own earlier ones, each worker's first ones."""
MOST_TEXTS_FOR_NEAR_COPIES = 10_000
"""Different openings that are compared with each other; the earliest ones, so that the number is the same each time."""

MOST_TURNS = 5000
"""Users' turns that are looked through for languages and personal data."""
_LONGEST_TURN = 4000


class Openings:
    """The first user turn of each conversation, in order of creation; empty ones are left out."""

    def __init__(self) -> None:
        self._conversation: array[int] = array("q")
        self._worker: array[int] = array("q")
        self._code: array[int] = array("q")
        self._place: array[float] = array("d")
        self._codes: dict[int, int] = {}
        self.texts: dict[int, str] = {}
        """Code of a normalised text -> the text as it first came."""
        self.conversations = 0

    def add(self, conversation: int, worker: int, text: str) -> int:
        """Takes the next conversation's opening and gives its code; -1: it has none."""
        self.conversations += 1
        plain = normalised(text)
        if not plain:
            return -1
        code = self._codes.setdefault(digest(plain), len(self._codes))
        if code not in self.texts and len(self.texts) < MOST_TEXTS:
            self.texts[code] = text
        self._conversation.append(conversation)
        self._worker.append(worker)
        self._code.append(code)
        self._place.append(split_place(text))
        return code

    def join(
        self, later: Openings, conversations: npt.NDArray[np.int64], workers: npt.NDArray[np.int64], known: int
    ) -> npt.NDArray[np.int64]:
        """Takes openings that were read elsewhere, after these; gives their codes here (-1: of no new conversation).

        Args:
            conversations, workers: codes here by code there; conversations below `known` have their opening here.
        """
        self.conversations += int((conversations >= known).sum())
        is_new = conversations[later.conversation] >= known
        found = np.full(len(later._codes), -1, dtype=np.int64)
        taken = np.zeros(len(found), dtype=np.bool_)
        taken[later.code[is_new]] = True
        for text, code in later._codes.items():
            if taken[code]:
                found[code] = here = self._codes.setdefault(text, len(self._codes))
                if here not in self.texts and len(self.texts) < MOST_TEXTS:
                    self.texts[here] = later.texts[code]
        writer = later.worker[is_new]
        self._conversation.extend(conversations[later.conversation[is_new]].tolist())
        self._worker.extend(np.where(writer >= 0, workers[writer], writer).tolist())
        self._code.extend(found[later.code[is_new]].tolist())
        self._place.extend(later.place[is_new].tolist())
        return found

    def __len__(self) -> int:
        return len(self._code)

    @property
    def conversation(self) -> npt.NDArray[np.int64]:
        return np.array(self._conversation, dtype=np.int64)

    @property
    def worker(self) -> npt.NDArray[np.int64]:
        return np.array(self._worker, dtype=np.int64)

    @property
    def code(self) -> npt.NDArray[np.int64]:
        """The same number for texts that are equal once normalised."""
        return np.array(self._code, dtype=np.int64)

    @property
    def place(self) -> npt.NDArray[np.float64]:
        """Where runs put the conversation when they hold some out (`schema.split_place`)."""
        return np.array(self._place, dtype=np.float64)

    def is_repeated(self) -> npt.NDArray[np.bool_]:
        """Whether an earlier opening, whoever's, is the same text."""
        return _came_before(self.code)

    def is_own_copy(self) -> npt.NDArray[np.bool_]:
        """Whether an earlier opening of the same worker is the same text or, among those compared, nearly so."""
        code, worker = self.code, self.worker
        is_copy = _came_before(worker * (len(self._codes) + 1) + code)
        for own in self._compared(worker):
            texts = [self.texts[code[place]] for place in own]
            for pair in near_duplicates(texts):
                is_copy[own[max(pair.first, pair.second)]] = True
        return is_copy

    def near_copies(self, most: int) -> list[NearDuplicate]:
        """Pairs of nearly equal openings among the first `most` different ones, by place."""
        return near_duplicates(list(islice(self.texts.values(), most)))

    def most_repeated(self, most: int) -> list[tuple[str, int]]:
        """Texts that came more than once and how often, most first; of those whose text was kept."""
        counts = np.bincount(self.code) if len(self) else np.zeros(0, dtype=np.int64)
        order = np.argsort(-counts, kind="stable")
        found = ((int(code), int(counts[code])) for code in order if counts[code] > 1)
        return [(self.texts[code], count) for code, count in found if code in self.texts][:most]

    def _compared(self, worker: npt.NDArray[np.int64]) -> Iterator[list[int]]:
        """Each worker's first openings with a known text, as places."""
        people = np.unique(worker[worker >= 0])
        most = max(MOST_OWN_TEXTS // max(len(people), 1), 5)
        order = np.argsort(worker, kind="stable")
        starts, ends = (np.searchsorted(worker[order], people, side=side) for side in ("left", "right"))
        for start, end in zip(starts, ends, strict=True):
            own = [int(place) for place in order[start:end] if self._code[place] in self.texts][:most]
            if len(own) > 1:
                yield own


class TurnSample:
    """A sample of users' turns whose text is kept: those with the least digests, so each is as likely as any other
    whatever the order, and a second report has the same ones. The same turn after the same turns counts once.
    """

    def __init__(self, most: int = MOST_TURNS) -> None:
        self._most = most
        self._kept: dict[int, tuple[int, str]] = {}
        self._limit = 1 << 64

    def add(self, path: int, conversation: int, text: str) -> None:
        """Takes a turn by the digest of the path to it."""
        if path >= self._limit or not text.strip():
            return
        self._kept[path] = (conversation, text[:_LONGEST_TURN])
        if len(self._kept) > 2 * self._most:
            self._cut()

    def join(self, later: TurnSample, conversations: npt.NDArray[np.int64]) -> None:
        """Takes a sample of later turns; `conversations` are codes here by code there."""
        for path, (conversation, text) in later._kept.items():
            self.add(path, int(conversations[conversation]), text)

    def turns(self) -> list[tuple[int, str]]:
        """(conversation, text) of the sample."""
        if len(self._kept) > self._most:
            self._cut()
        return list(self._kept.values())

    def _cut(self) -> None:
        least = sorted(self._kept)[: self._most]
        self._kept = {path: self._kept[path] for path in least}
        self._limit = least[-1]


def words_of(texts: Iterable[str]) -> list[npt.NDArray[np.int64]]:
    """Each text's words as numbers, the same word the same number."""
    known: dict[str, int] = {}
    return [
        np.array([known.setdefault(word, len(known)) for word in normalised(text).split()], dtype=np.int64)
        for text in texts
    ]


def digest(text: str) -> int:
    """64 bits of a text; some two of a million different texts collide in one of 40 million cases."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _came_before(codes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    is_copy = np.ones(len(codes), dtype=np.bool_)
    is_copy[np.unique(codes, return_index=True)[1]] = False
    return is_copy
