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

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from prefloop.errors import ModelError
from prefloop.models.lean import is_lean, lean_hidden
from prefloop.models.packing import PackedBatch, pack
from prefloop.models.trie_attention import TRIE
from prefloop.models.windows import idle_window, long_rope_from, longest_tokens, require_full_attention

__all__ = ["PackedBatch", "pack", "packed_hidden", "require_exact", "runs_flat", "settle", "take_trie_attention"]

_REFUSALS = (ModelError, RuntimeError, TypeError, ValueError)  # of trunks and compilers, for a way that is not theirs
_PROOF = 24  # tokens of the longest sequence of the proof, where no window asks for more
_FILL = 0.7  # rows are run together while the shortest fills this share of the longest


def packed_hidden(trunk: Any, batch: PackedBatch, at: Int[Tensor, " read"]) -> Float[Tensor, "read hidden"]:
    """Last hidden states of a causal trunk (`AutoModel`) at flat places, equal to those of the plain forward.

    Differentiable. A trunk that takes tries end to end (a Llama on a CPU, or one with the attention `TRIE`) computes no
    padding; for others rows of about the same length run together under a mask.
    """
    if is_lean(trunk):
        return lean_hidden(trunk, batch, at)
    if trunk.config._attn_implementation == TRIE:
        return _flat_hidden(trunk, batch, at)
    return _masked_hidden(trunk, batch, at)


def _flat_hidden(trunk: Any, batch: PackedBatch, at: Int[Tensor, " read"]) -> Float[Tensor, "read hidden"]:
    """All rows end to end in one."""
    tries = batch.flat_tries(0, len(batch.lengths))
    column = torch.empty(batch.ids.numel(), dtype=torch.long, device=at.device)
    column[tries.flat] = torch.arange(len(tries.flat), device=at.device)
    output = trunk(
        input_ids=batch.ids.flatten()[tries.flat][None],
        position_ids=batch.positions.flatten()[tries.flat][None],
        use_cache=False,
        trie=tries,
    )
    hidden: Tensor = output.last_hidden_state[0].index_select(0, column[at])
    return hidden


def _in_order(pieces: list[Tensor], places: list[Tensor]) -> Tensor:
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat(pieces).index_select(0, torch.cat(places).argsort())


def _masked_hidden(trunk: Any, batch: PackedBatch, at: Int[Tensor, " read"]) -> Float[Tensor, "read hidden"]:
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
    return _in_order(pieces, places)


def ancestor_mask(subtree_ends: Int[Tensor, "row column"]) -> Bool[Tensor, "row 1 column column"]:
    """True where the query (third axis) may look at the key (fourth): the key is its ancestor or itself."""
    column = torch.arange(subtree_ends.shape[1], device=subtree_ends.device)
    query, key = column[:, None], column[None, :]
    return ((query >= key) & (query < subtree_ends[:, None, :]))[:, None]


def runs_flat(trunk: Any) -> bool:
    """Whether tries run end to end in one row, with attention along their branches and without a mask."""
    return is_lean(trunk) or bool(trunk.config._attn_implementation == TRIE)


def settle(trunk: Any, longest: int | None = None) -> None:
    """Decides how tries run through a trunk where its weights are now: when it is loaded, and when they have moved.

    Args:
        longest: tokens of a sequence, as for `require_exact`.

    Errors:
        ModelError: beginnings cannot be shared exactly there, in no way (`require_exact`).
    """
    if trunk.config._attn_implementation == TRIE:
        trunk.set_attn_implementation("sdpa")  # what was exact elsewhere proves nothing here
    require_exact(trunk, longest)
    take_trie_attention(trunk, longest=longest)


def take_trie_attention(trunk: Any, even_if_lean: bool = False, longest: int | None = None) -> bool:
    """Makes a trunk run flat where it stays exact so; else leaves it as it was: whole rows under a mask.

    Args:
        even_if_lean: also a trunk that runs flat in a way of its own, which it may lose (its weights are to be split).
        longest: tokens of a sequence, as for `require_exact`.
    """
    before = trunk.config._attn_implementation
    if runs_flat(trunk) and not even_if_lean:
        return True
    try:
        trunk.set_attn_implementation(TRIE)
        require_exact(trunk, longest)
    except _REFUSALS:
        trunk.set_attn_implementation(before)
        return False
    return True


def require_exact(trunk: Any, longest: int | None = None) -> None:
    """Proves on a small example that a trunk gives the same hidden states packed and alone.

    What a sequence computes must depend on itself alone, so a RoPE that turns by the longest of a forward is refused.

    Args:
        longest: tokens that a sequence will have at most; defaults to all that the model was made for.

    Errors:
        ModelError: it does not (it reads in both directions, or takes no positions or masks from outside), or it has a
            sliding or chunked window, which a 4-D mask would silently undo on long sequences.
    """
    config = trunk.config
    name = getattr(config, "model_type", type(config).__name__)
    require_full_attention(config)
    most = min((limit for limit in (longest, longest_tokens(config)) if limit is not None), default=None)
    short = long_rope_from(config)
    if short is not None and (most is None or most > short):
        raise ModelError(
            f"A {name} model turns all positions of a forward by other factors once one of its sequences is longer "
            f"than {short} tokens (LongRoPE), so that those that share beginnings would not be computed as alone; keep "
            f"to {short} tokens, or take a causal model with another RoPE."
        )
    example = [[index % config.vocab_size for index in ids] for ids in _example(config, most)]
    was_training = trunk.training
    trunk.eval()
    try:
        with torch.no_grad():
            packed, alone = _both_ways(trunk, example)
    except ModelError:
        raise
    except _REFUSALS as error:
        reason = (str(error).strip().split("\n")[0] or type(error).__name__).rstrip(".")
        raise ModelError(
            f"A {name} model cannot compute shared beginnings ({reason}); take a causal model that takes positions and "
            "masks from outside."
        ) from None
    finally:
        trunk.train(was_training)
    tolerance = 1e-5 if next(trunk.parameters()).dtype == torch.float32 else 5e-2
    difference = ((packed - alone).norm() / alone.norm()).item()
    if not difference < tolerance:
        raise ModelError(
            f"A {name} model gives other hidden states when beginnings are shared (relative difference "
            f"{difference:.2g}, limit {tolerance:.0e}); take a causal model with full attention."
        )


def _example(config: Any, most: int | None) -> list[list[int]]:
    """Sequences with common beginnings, one of them so long that a window within it would show in half of it."""
    size = max(_PROOF, 2 * idle_window(config))
    size = size if most is None else min(size, most)
    long = [3, 1, 4, *(5 + place * (place + 3) // 2 for place in range(size - 3))]
    return [[3, 1, 4, 1, 5], [3, 1, 4, 2], [3, 9, 2, 6], long]


def _both_ways(trunk: Any, example: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Hidden states of all tokens of some sequences, in tries and each by itself."""
    device = next(trunk.parameters()).device
    batch = pack(example, row_tokens=16).to(device)
    packed = packed_hidden(trunk, batch, torch.cat(batch.token_index)).float()
    alone = [trunk(input_ids=torch.tensor([ids], device=device), use_cache=False) for ids in example]
    return packed, torch.cat([output.last_hidden_state[0].float() for output in alone])


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
