"""Sequences computed each by itself, without sharing: for encoders that read in both directions, and for every other
model whose exactness with shared beginnings is not proven. Knows token ids and sequence classifiers, no preferences.

Sequences of about the same length run together, so that little of a batch is padding; the classifier's own forward does
the rest, whatever its pooling. The layout of a batch never changes a score.

Legend
    sequence    as given to `group`
    row, column a group's ids, padded at the right
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import linear

from prefloop.errors import DataError, ModelError

__all__ = ["Group", "GroupedBatch", "group", "grouped_scores", "one_label_head"]

_PADDING = 256  # tokens of padding that a group may hold: another group costs as much, for gradients of all weights
_ROWS = 64  # in a group at most: bounds memory


@dataclass(frozen=True)
class Group:
    """Sequences of about the same length. `is_token` is True where a column is not padding."""

    ids: Int[Tensor, "row column"]
    is_token: Bool[Tensor, "row column"]


@dataclass(frozen=True)
class GroupedBatch:
    """Sequences in groups, longest first. `order[place]` is the sequence that stands at `place` in the groups' rows."""

    groups: tuple[Group, ...]
    order: Int[Tensor, " sequence"]
    tokens: int

    @property
    def tokens_unshared(self) -> int:
        """The same as `tokens`: nothing is shared, and padding is not counted."""
        return self.tokens

    @property
    def padding_share(self) -> float:
        """Of the columns that are computed."""
        return 1 - self.tokens / sum(one.ids.numel() for one in self.groups)

    def to(self, device: torch.device | str) -> GroupedBatch:
        """The same batch on another device."""
        groups = tuple(Group(one.ids.to(device), one.is_token.to(device)) for one in self.groups)
        return GroupedBatch(groups, self.order.to(device), self.tokens)


def group(sequences: Sequence[Sequence[int]], pad_id: int, apart_at: int | None = None) -> GroupedBatch:
    """Lays sequences out in groups of nearly the same length.

    Args:
        apart_at: no group holds sequences of more tokens beside others, because the model computes the two otherwise.

    Errors:
        DataError: no sequences, or an empty one.
    """
    if not sequences or min(map(len, sequences)) == 0:
        raise DataError("Nothing to compute: there must be at least one sequence, and none may be empty.")
    order = sorted(range(len(sequences)), key=lambda place: -len(sequences[place]))
    groups = tuple(_padded([sequences[place] for place in part], pad_id) for part in _runs(order, sequences, apart_at))
    return GroupedBatch(groups, torch.tensor(order), sum(map(len, sequences)))


def grouped_scores(model: Any, batch: GroupedBatch) -> Float[Tensor, " sequence"]:
    """The one logit that a sequence classifier gives each sequence, in the order given to `group`; differentiable."""
    logits = [model(input_ids=one.ids, attention_mask=one.is_token.long()).logits[:, 0].float() for one in batch.groups]
    return torch.cat(logits).index_select(0, batch.order.argsort())


def one_label_head(model: Any) -> torch.nn.Linear:
    """The last layer of a sequence classifier with one label, from now on computed in fp32 under autocast too.

    It stands around the trunk, in which there may be others with one output: gates of experts, say.

    Errors:
        ModelError: it has no such layer, or several.
    """
    everywhere = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear) and layer.out_features == 1]
    within = set(model.base_model.modules())
    found = [layer for layer in everywhere if layer not in within] or everywhere
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__} has {len(found)} layers with one output where a preference model has one; give a "
            "sequence-classification model with one label."
        )
    head = found[0]

    def in_full_precision(input: Tensor) -> Tensor:
        with torch.autocast(input.device.type, enabled=False):
            return linear(input.float(), head.weight.float(), None if head.bias is None else head.bias.float())

    head.forward = in_full_precision  # type: ignore[method-assign]
    return head


def _runs(order: Sequence[int], sequences: Sequence[Sequence[int]], apart_at: int | None = None) -> Iterator[list[int]]:
    """Neighbours in `order` (longest first) that may stand in one group."""
    run: list[int] = []
    padding = 0
    for place in order:
        longest, own = len(sequences[run[0] if run else place]), len(sequences[place])
        more = longest - own
        is_apart = apart_at is not None and own <= apart_at < longest
        if run and (len(run) == _ROWS or padding + more > _PADDING or is_apart):
            yield run
            run, padding, more = [], 0, 0
        run.append(place)
        padding += more
    yield run


def _padded(sequences: Sequence[Sequence[int]], pad_id: int) -> Group:
    """Right-padded rows; the first sequence is the longest."""
    width = len(sequences[0])
    ids = torch.tensor([[*ids, *[pad_id] * (width - len(ids))] for ids in sequences])
    lengths = torch.tensor([len(ids) for ids in sequences])
    return Group(ids, torch.arange(width) < lengths[:, None])
