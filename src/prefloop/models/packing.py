"""Packing: many sequences of token ids as tries in few rows, each common beginning once. Knows token ids only.

Legend
    sequence, token   as given to `pack`
    row, column       the packed layout; a tree is written in preorder, so a parent stands left of its children
    flat              row * width + column
Padding fills a row at its right.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from prefloop.errors import DataError
from prefloop.models.trie_attention import Branch, FlatTries, Spans

__all__ = ["PackedBatch", "pack"]

_OPEN_ROWS = 32  # how many unfilled rows first-fit looks at: bounds the search when thousands of trees are packed
_REPEATED = 1 / 8  # a longer row is cheaper than to compute more than this share of a tree again


@dataclass(frozen=True)
class PackedBatch:
    """Sequences as tries. `lengths` holds the columns in use of each row, longest row first.

    `branches[row]` are the unbranched runs of a row's columns.

    `parents` is the parent's column in the same row (-1 at the first token of a sequence and at padding);
    `token_index[sequence]` are the flat places of all tokens of a sequence, `read_index[sequence]` of its last one.
    """

    ids: Int[Tensor, "row column"]
    positions: Int[Tensor, "row column"]
    parents: Int[Tensor, "row column"]
    subtree_ends: Int[Tensor, "row column"]
    read_index: Int[Tensor, " sequence"]
    token_index: tuple[Int[Tensor, " token"], ...]
    lengths: tuple[int, ...]
    branches: tuple[tuple[Branch, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens that are computed, padding left out."""
        return sum(self.lengths)

    @property
    def tokens_unshared(self) -> int:
        """Tokens of all sequences: what would be computed without sharing."""
        return sum(len(index) for index in self.token_index)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on another device."""
        return PackedBatch(
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            parents=self.parents.to(device),
            subtree_ends=self.subtree_ends.to(device),
            read_index=self.read_index.to(device),
            token_index=tuple(index.to(device) for index in self.token_index),
            lengths=self.lengths,
            branches=self.branches,
        )

    def flat_tries(self, start: int, stop: int) -> FlatTries:
        """The rows [start, stop) end to end, without their padding."""
        width = self.ids.shape[1]
        offsets = np.cumsum([0, *self.lengths[start:stop]]).tolist()
        rows = list(zip(range(start, stop), offsets, strict=False))
        return FlatTries(
            torch.cat([torch.arange(row * width, row * width + self.lengths[row]) for row, _ in rows]).to(
                self.ids.device
            ),
            [branch.shifted(offset) for row, offset in rows for branch in self.branches[row]],
            torch.cat([self.subtree_ends[row, : self.lengths[row]] + offset for row, offset in rows]),
        )


def pack(sequences: Sequence[Sequence[int]], row_tokens: int) -> PackedBatch:
    """Lays sequences out as tries in rows of about `row_tokens` tokens.

    A tree that does not fit a row is cut where the least is shared. It gets a longer row instead where the cut would
    repeat more than an eighth of it and it is at most twice as long as its longest sequence (the two sides of a long
    comparison). Trees go to rows first-fit, the largest first; a tree that meets relatives in a row shares with them.

    Errors:
        DataError: no sequences, an empty one, or `row_tokens` below 1.
    """
    if row_tokens < 1:
        raise DataError(f"row_tokens is {row_tokens}; give at least 1.")
    arrays = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
    if not arrays or min(len(array) for array in arrays) == 0:
        raise DataError("Nothing to pack: there must be at least one sequence, and none may be empty.")
    keys = [array.astype(">u4").tobytes() for array in arrays]  # bytes of big-endian ids sort as the ids do
    order = sorted(range(len(arrays)), key=keys.__getitem__)
    ordered = [arrays[index] for index in order]
    shared = np.array([0, *(_common(left, right) for left, right in pairwise(ordered))])
    lengths = np.array([len(array) for array in ordered])
    rows = _fill_rows(_cut_trees(lengths, shared, row_tokens), lengths, shared, row_tokens)
    return _lay_out([([order[place] for place in row], [ordered[place] for place in row]) for row in rows], len(order))


def _common(left: np.ndarray, right: np.ndarray) -> int:
    """How many leading tokens two sequences share."""
    size = min(len(left), len(right))
    differs = left[:size] != right[:size]
    return int(differs.argmax()) if differs.any() else size


def _cut_trees(lengths: np.ndarray, shared: np.ndarray, row_tokens: int) -> list[range]:
    """Ranges of neighbouring sequences that stay together; cut where the least is shared."""
    trees, stack = [], [range(len(lengths))]
    new_tokens = lengths - shared
    while stack:
        tree = stack.pop()
        first, last = tree.start, tree.stop
        size = lengths[first] + new_tokens[first + 1 : last].sum()
        if len(tree) == 1 or size <= row_tokens:
            trees.append(tree)
            continue
        inner = shared[first + 1 : last]
        least = inner.min()
        repeated = least * np.count_nonzero(inner == least)
        if size <= 2 * lengths[first:last].max() and repeated > _REPEATED * size:
            trees.append(tree)
            continue
        cuts = [first, *(first + 1 + np.flatnonzero(inner == least)).tolist(), last]
        stack.extend(range(start, stop) for start, stop in pairwise(cuts))
    return trees


def _fill_rows(trees: list[range], lengths: np.ndarray, shared: np.ndarray, row_tokens: int) -> list[list[int]]:
    """First-fit, the largest tree first. Returns the sorted places of each row's sequences."""

    def size(tree: range) -> int:
        return int(lengths[tree.start] + (lengths - shared)[tree.start + 1 : tree.stop].sum())

    def common(left: int, right: int) -> int:
        return int(shared[left + 1 : right + 1].min())

    sizes = {tree: size(tree) for tree in trees}
    rows: list[list[int]] = []
    used: list[int] = []
    open_rows: list[int] = []
    for tree in sorted(trees, key=lambda tree: (-sizes[tree], tree.start)):
        for row in open_rows:
            place = bisect_left(rows[row], tree.start)
            kin = [common(rows[row][place - 1], tree.start)] if place > 0 else []
            kin += [common(tree.stop - 1, rows[row][place])] if place < len(rows[row]) else []
            # A sorted row's trie has as many tokens as its sequences, less what each shares with the one before.
            broken = common(rows[row][place - 1], rows[row][place]) if len(kin) == 2 else 0
            extra = sizes[tree] - sum(kin) + broken
            if used[row] + extra <= row_tokens:
                for sequence in tree:
                    insort(rows[row], sequence)
                used[row] += extra
                break
        else:
            rows.append(list(tree))
            used.append(sizes[tree])
            open_rows.append(len(rows) - 1)
        open_rows = [row for row in open_rows if used[row] < row_tokens][-_OPEN_ROWS:]
    return rows


def _lay_out(rows: list[tuple[list[int], list[np.ndarray]]], sequences: int) -> PackedBatch:
    """Writes each row's trie in preorder. The work is a few array slices a sequence."""
    written = sorted(((names, _write_row(arrays)) for names, arrays in rows), key=lambda row: -len(row[1].ids))
    lengths = tuple(len(row.ids) for _, row in written)
    shape = (len(written), lengths[0])
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    parents = np.full(shape, -1, np.int64)
    ends = np.tile(np.arange(1, shape[1] + 1), (shape[0], 1))  # padding sees itself
    token_index: list[np.ndarray] = [np.empty(0, np.int64)] * sequences
    for place, (names, row) in enumerate(written):
        used = lengths[place]
        ids[place, :used], positions[place, :used] = row.ids, row.positions
        parents[place, :used], ends[place, :used] = row.parents, row.subtree_ends
        for name, path in zip(names, row.paths, strict=True):
            token_index[name] = path + place * shape[1]
    return PackedBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        parents=torch.from_numpy(parents),
        subtree_ends=torch.from_numpy(ends),
        read_index=torch.tensor([index[-1] for index in token_index]),
        token_index=tuple(torch.from_numpy(index) for index in token_index),
        lengths=lengths,
        branches=tuple(tuple(row.branches) for _, row in written),
    )


class _Row(NamedTuple):
    """`paths` are the columns of each sequence."""

    ids: np.ndarray
    positions: np.ndarray
    parents: np.ndarray
    subtree_ends: np.ndarray
    paths: list[np.ndarray]
    branches: list[Branch]


def _write_row(arrays: list[np.ndarray]) -> _Row:
    """The trie of sorted sequences in preorder."""
    longest = max(len(array) for array in arrays)
    room = sum(len(array) for array in arrays)
    ids, positions = np.empty(room, np.int64), np.empty(room, np.int64)
    parents, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    path = np.empty(longest, np.int64)  # columns of the branch that is being written, by depth
    depth, column = 0, 0
    paths: list[np.ndarray] = []
    branches: list[Branch] = []
    for place, array in enumerate(arrays):
        keep = _common(arrays[place - 1], array) if place > 0 else 0
        ends[path[keep:depth]] = column  # these branches end here
        depth = len(array)
        new = slice(column, column + depth - keep)
        path[keep:depth] = np.arange(new.start, new.stop)
        ids[new], positions[new] = array[keep:], np.arange(keep, depth)
        parents[new] = np.arange(new.start - 1, new.stop - 1)
        if depth > keep:
            branches.append(Branch(new.start, new.stop, _spans(path[:keep])))
            parents[column] = path[keep - 1] if keep > 0 else -1
        column = new.stop
        paths.append(path[:depth].copy())
    ends[path[:depth]] = column
    return _Row(ids[:column], positions[:column], parents[:column], ends[:column], paths, branches)


def _spans(columns: np.ndarray) -> Spans:
    """Increasing columns as ranges."""
    if len(columns) == 0:
        return ()
    parts = np.split(columns, np.flatnonzero(np.diff(columns) != 1) + 1)
    return tuple((int(part[0]), int(part[-1]) + 1) for part in parts)
