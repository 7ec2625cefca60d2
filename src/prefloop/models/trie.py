"""Token tries: many sequences in few rows, each common beginning computed once. Knows token ids and causal trunks only.

`pack` lays sequences out as tries, several a row; `packed_hidden` runs any Hugging Face causal trunk over the rows
with attention to ancestors only, so that every token sees exactly its own sequence. Used for the two sides of a
comparison, for the comparisons of one conversation, and for several responses to one prompt.

Legend
    sequence, token   as given to `pack`
    row, column       the packed layout; a tree is written in preorder, so a parent stands left of its children
    flat              row * width + column
    read              one place whose hidden state is wanted
Padding fills a row at its right; it attends to itself and nothing attends to it.

Because of the preorder, column j is an ancestor of column i (or i itself) exactly when j <= i < subtree_ends[j]:
the mask is two comparisons, on any device, with no walk along the parents.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.errors import DataError, ModelError
from prefloop.models.lean import is_lean, lean_hidden

__all__ = ["PackedBatch", "pack", "packed_hidden", "require_exact"]

_OPEN_ROWS = 32  # how many unfilled rows first-fit looks at: bounds the search when thousands of trees are packed
_REPEATED = 1 / 8  # a longer row is cheaper than to compute more than this share of a tree again
_FILL = 0.7  # rows are run together while the shortest fills this share of the longest


@dataclass(frozen=True)
class PackedBatch:
    """Sequences as tries. `lengths` holds the columns in use of each row, longest row first.

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


def packed_hidden(trunk: Any, batch: PackedBatch, at: Int[Tensor, " read"]) -> Float[Tensor, "read hidden"]:
    """Last hidden states of a causal trunk (`AutoModel`) at flat places, equal to those of the plain forward.

    Differentiable. Rows of about the same length run together, so a long row does not pad the others; a Llama on a
    CPU runs without any padding (`lean`).
    """
    if is_lean(trunk):
        return lean_hidden(trunk, batch, at)
    width = batch.ids.shape[1]
    row, column = at // width, at % width
    pieces: list[Tensor] = []
    places: list[Tensor] = []
    for start, stop in _row_groups(batch.lengths):
        used = batch.lengths[start]
        chosen = ((row >= start) & (row < stop)).nonzero()[:, 0]
        if len(chosen) == 0:
            continue
        output = trunk(
            input_ids=batch.ids[start:stop, :used],
            attention_mask=_trunk_mask(trunk, ancestor_mask(batch.subtree_ends[start:stop, :used])),
            position_ids=batch.positions[start:stop, :used],
            use_cache=False,
        )
        hidden = output.last_hidden_state.flatten(0, 1)  # (row * column, hidden)
        pieces.append(hidden.index_select(0, (row[chosen] - start) * used + column[chosen]))
        places.append(chosen)
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(pieces).index_select(0, torch.cat(places).argsort())


def ancestor_mask(subtree_ends: Int[Tensor, "row column"]) -> Bool[Tensor, "row 1 column column"]:
    """True where the query (third axis) may look at the key (fourth): the key is its ancestor or itself."""
    column = torch.arange(subtree_ends.shape[1], device=subtree_ends.device)
    query, key = column[:, None], column[None, :]
    return ((query >= key) & (query < subtree_ends[:, None, :]))[:, None]


def require_exact(trunk: Any) -> None:
    """Proves on a small example that a trunk gives the same hidden states packed and alone.

    Errors:
        ModelError: it does not (it reads in both directions, say), or it has a sliding or chunked window, which a
            4-D mask would silently undo on long sequences.
    """
    config = trunk.config
    name = getattr(config, "model_type", type(config).__name__)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if kinds != {"full_attention"} or (window is not None and window < config.max_position_embeddings):
        raise ModelError(
            f"A {name} model has windowed or non-attention layers ({', '.join(sorted(kinds))}, window {window}), with "
            "which common beginnings cannot be shared exactly; take a causal model with full attention."
        )
    example = [[index % config.vocab_size for index in ids] for ids in ([3, 1, 4, 1, 5], [3, 1, 4, 2], [3, 9, 2, 6])]
    batch = pack(example, row_tokens=16)
    device = next(trunk.parameters()).device
    batch = batch.to(device)
    was_training = trunk.training
    trunk.eval()
    with torch.no_grad():
        packed = packed_hidden(trunk, batch, torch.cat(batch.token_index)).float()
        alone = torch.cat(
            [
                trunk(input_ids=torch.tensor([ids], device=device), use_cache=False).last_hidden_state[0].float()
                for ids in example
            ]
        )
    trunk.train(was_training)
    tolerance = 1e-5 if next(trunk.parameters()).dtype == torch.float32 else 5e-2
    error = ((packed - alone).norm() / alone.norm()).item()
    if not error < tolerance:
        raise ModelError(
            f"A {name} model gives other hidden states when beginnings are shared (relative difference {error:.2g}, "
            f"limit {tolerance:.0e}); take a causal model with full attention."
        )


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
    written = sorted(((*_write_row(arrays), names) for names, arrays in rows), key=lambda row: -len(row[0]))
    shape = (len(written), len(written[0][0]))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    parents = np.full(shape, -1, np.int64)
    ends = np.tile(np.arange(1, shape[1] + 1), (shape[0], 1))  # padding sees itself
    token_index: list[np.ndarray] = [np.empty(0, np.int64)] * sequences
    for row, (row_ids, row_positions, row_parents, row_ends, paths, names) in enumerate(written):
        used = len(row_ids)
        ids[row, :used], positions[row, :used] = row_ids, row_positions
        parents[row, :used], ends[row, :used] = row_parents, row_ends
        for name, path in zip(names, paths, strict=True):
            token_index[name] = path + row * shape[1]
    return PackedBatch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        parents=torch.from_numpy(parents),
        subtree_ends=torch.from_numpy(ends),
        read_index=torch.tensor([index[-1] for index in token_index]),
        token_index=tuple(torch.from_numpy(index) for index in token_index),
        lengths=tuple(len(row[0]) for row in written),
    )


def _write_row(
    arrays: list[np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """ids, positions, parents, subtree ends of one row, and each sequence's columns. `arrays` is sorted."""
    longest = max(len(array) for array in arrays)
    room = sum(len(array) for array in arrays)
    ids, positions = np.empty(room, np.int64), np.empty(room, np.int64)
    parents, ends = np.empty(room, np.int64), np.empty(room, np.int64)
    path = np.empty(longest, np.int64)  # columns of the branch that is being written, by depth
    depth, column = 0, 0
    paths: list[np.ndarray] = []
    for place, array in enumerate(arrays):
        keep = _common(arrays[place - 1], array) if place > 0 else 0
        ends[path[keep:depth]] = column  # these branches end here
        depth = len(array)
        new = slice(column, column + depth - keep)
        path[keep:depth] = np.arange(new.start, new.stop)
        ids[new], positions[new] = array[keep:], np.arange(keep, depth)
        parents[new] = np.arange(new.start - 1, new.stop - 1)
        if depth > keep:
            parents[column] = path[keep - 1] if keep > 0 else -1
        column = new.stop
        paths.append(path[:depth].copy())
    ends[path[:depth]] = column
    return ids[:column], positions[:column], parents[:column], ends[:column], paths


def _row_groups(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = 0
    for row, length in enumerate(lengths):
        if length < _FILL * lengths[start]:
            yield start, row
            start = row
    yield start, len(lengths)


def _trunk_mask(trunk: Any, mask: Bool[Tensor, "row 1 column column"]) -> Tensor:
    """A boolean mask for SDPA; other attention code adds the mask to the logits."""
    if trunk.config._attn_implementation == "sdpa":
        return mask
    dtype = next(trunk.parameters()).dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
