"""What runs train on: pairs, conversations and prompts out of the store or the sandbox, split by conversation.

Knows where data comes from and how it is split; knows nothing of training.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from prefloop.errors import DataError
from prefloop.pair_file import PairFile, picked
from prefloop.runs import RunFolder, read_rows
from prefloop.schema import Message, Mode, PreferencePair, Tranche, split_place
from prefloop.store import Store

Half = Literal["a", "b"]
Context = tuple[Message, ...]
Item = TypeVar("Item")
_Kind = tuple[Mode | None, Tranche | None]
_KEPT = "some_pairs.jsonl"


class Split(NamedTuple):
    """Pairs to train on and pairs kept for evaluation; no opening turn is on both sides."""

    training: Sequence[PreferencePair]
    held_out: Sequence[PreferencePair]


def opening_turn(pair: PreferencePair) -> str:
    """The first user turn of its context; empty where there is none."""
    return next((message.text for message in pair.context if message.role == "user"), "")


def place(pair: PreferencePair) -> float:
    """Where a conversation lies in [0, 1), by its opening turn: pairs that begin alike always stay together."""
    return split_place(opening_turn(pair))


def half_of(pair: PreferencePair) -> Half:
    """The half of the data that a pair belongs to (paper 4.2: a PM to train on, another to watch)."""
    return "a" if hashlib.sha256(b"half" + opening_turn(pair).encode()).digest()[0] % 2 == 0 else "b"


def split(pairs: Sequence[PreferencePair], held_out_share: float) -> Split:
    """Keeps the last `held_out_share` of the conversations, by `place`."""
    is_held_out = np.fromiter((place(pair) >= 1.0 - held_out_share for pair in pairs), dtype=bool, count=len(pairs))
    return Split(picked(pairs, np.flatnonzero(~is_held_out)), picked(pairs, np.flatnonzero(is_held_out)))


def mixed(
    pairs: Sequence[PreferencePair],
    red_team_share: float | None,
    mix_pairs: int = 0,
    seed: int = 0,
    *,
    tranche_shares: Mapping[Tranche, float] | None = None,
) -> Sequence[PreferencePair]:
    """Modes (paper 5.1) and tranches in given shares, in their order; without shares all as they are.

    With shares of both, each mode has the shares of tranches. Conversations are taken in an order drawn by `seed`,
    which shares do not change: a larger share of a kind holds the smaller one.

    Args:
        red_team_share: None leaves the modes as they are.
        mix_pairs: how many in all; 0 takes as many as the shares allow.

    Errors:
        DataError: a kind has fewer pairs than its share needs, or none at all.
    """
    if red_team_share is None and not tranche_shares:
        return pairs
    modes = {None: 1.0} if red_team_share is None else {Mode.HELPFUL: 1 - red_team_share, Mode.RED_TEAM: red_team_share}
    tranches: Iterable[tuple[Tranche | None, float]] = tranche_shares.items() if tranche_shares else [(None, 1.0)]
    shares: dict[_Kind, float] = {
        (mode, tranche): of_mode * of_tranche for mode, of_mode in modes.items() for tranche, of_tranche in tranches
    }
    there: dict[_Kind, list[int]] = {kind: [] for kind in shares}
    for place, pair in enumerate(pairs):
        kind = (None if red_team_share is None else pair.mode, pair.tranche if tranche_shares else None)
        if kind in there:
            there[kind].append(place)
    total = mix_pairs or min(int(len(there[kind]) / share) for kind, share in shares.items() if share > 0)
    kept: set[int] = set()
    for kind, count in _counts(shares, total).items():
        if count > len(there[kind]) or (shares[kind] > 0 and not there[kind]):
            name = " ".join(part.value for part in kind if part)
            raise DataError(
                f"The shares of the mix need {max(count, 1)} {name} pairs and there are {len(there[kind])}; lower "
                "mix_pairs, or change red_team_share or tranche_shares."
            )
        drawn = sorted(there[kind], key=lambda place: (_draw(pairs[place], seed), place))
        kept.update(drawn[:count])
    return picked(pairs, sorted(kept))


def _counts(shares: Mapping[_Kind, float], total: int) -> dict[_Kind, int]:
    """Whole numbers that sum to `total`, by largest remainders; of equal ones the later kind has the odd pair."""
    exact = {kind: round(total * share, 9) for kind, share in shares.items()}
    counts = {kind: int(value) for kind, value in exact.items()}
    kinds = list(exact)
    by_remainder = sorted(kinds, key=lambda kind: (counts[kind] - exact[kind], -kinds.index(kind)))
    for kind in by_remainder[: total - sum(counts.values())]:
        counts[kind] += 1
    return counts


def _draw(pair: PreferencePair, seed: int) -> tuple[bytes, bytes, bytes]:
    """The place of a pair in the order of `seed`: by its opening turn, as `split` has it, then by its turns and sides.

    Of texts alone, so that the same comparisons are drawn in every workspace: ids are made anew by each import. The
    turns go one by one, so that what has a beginning in common, as the comparisons of a conversation have, lies
    together.
    """
    turns = b"".join(_drawn(seed, message.role, message.text)[:8] for message in pair.context)
    return _drawn(seed, opening_turn(pair)), turns, _drawn(seed, pair.chosen, pair.rejected)


def _drawn(seed: int, *texts: str) -> bytes:
    return hashlib.sha256("\x1f".join([f"mix {seed}", *texts]).encode()).digest()


def some_of(pairs: Sequence[PreferencePair], count: int, seed: int = 0) -> Sequence[PreferencePair]:
    """At most `count` pairs (0: all), conversation by conversation in an order drawn by `seed`, in their own order.

    A smaller count takes a part of what a larger one takes.
    """
    if not 0 < count < len(pairs):
        return pairs
    drawn = sorted(range(len(pairs)), key=lambda place: (_draw(pairs[place], seed), place))
    return picked(pairs, sorted(drawn[:count]))


def held_out_in_fold(pair: PreferencePair, fold: int, folds: int, held_out_share: float) -> bool:
    """Whether a fold tests on this pair: its `place` lies in a window of `held_out_share` that ends at the fold's end.

    With one fold that is `split`. The windows overlap where folds * held_out_share is above 1.
    """
    distance = ((fold + 1) / folds - place(pair)) % 1.0
    return 0.0 < distance <= held_out_share


def stored_pairs(
    store: Store,
    mode: Mode | None = None,
    tranche: Tranche | None = None,
    half: Half | None = None,
    *,
    folder: Path | None = None,
) -> Sequence[PreferencePair]:
    """The store's pairs, weakest grades left out (paper 2.2), sides that read the same too.

    Args:
        folder: keeps them on the disk where this is, one at a time in memory.
    """
    pairs = (
        pair
        for pair in store.pairs(mode=mode, tranche=tranche)
        if pair.chosen != pair.rejected and half in (None, half_of(pair))
    )
    return kept(pairs, folder)


def some_stored(
    store: Store,
    what: str,
    mode: Mode | None = None,
    tranche: Tranche | None = None,
    *,
    folder: Path | None = None,
) -> Sequence[PreferencePair]:
    """`stored_pairs` that there must be.

    Errors:
        DataError: there are none; where there are others than those asked for, it says which.
    """
    pairs = stored_pairs(store, mode, tranche, folder=folder)
    if pairs:
        return pairs
    there = Counter(f"{pair.mode.value} {pair.tranche.value}" for pair in store.pairs() if pair.chosen != pair.rejected)
    if not there:
        raise DataError(f"The workspace holds no {what}; import some (prefloop import) or collect them.")
    asked = " and ".join(f"{name} {one.value}" for name, one in (("mode", mode), ("tranche", tranche)) if one)
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(there.items()))
    raise DataError(
        f"None of the workspace's {there.total()} comparisons is of {asked} (there are: {counted}); change that, or "
        "import such comparisons."
    )


def kept(pairs: Iterable[PreferencePair], folder: Path | None) -> Sequence[PreferencePair]:
    """The pairs in memory, or on the disk where `folder` is."""
    return list(pairs) if folder is None else PairFile(pairs, folder)


def prompts_of(pairs: Iterable[PreferencePair]) -> list[Context]:
    """The different contexts of these pairs, in their order (paper B.1: the PM's split without its replies)."""
    return list(dict.fromkeys(pair.context for pair in pairs))


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of them, evenly over the list: a store's order is that of its imports, tranche by tranche."""
    kept = min(count, len(items))
    return [items[place * len(items) // kept] for place in range(kept)]


def conversations_of(pairs: Iterable[PreferencePair]) -> list[Sequence[Message]]:
    """Whole conversations that end with the preferred reply, the longest of each opening's contexts only."""
    longest: dict[str, PreferencePair] = {}
    for pair in pairs:
        key = pair.conversation_id
        if key not in longest or len(pair.context) > len(longest[key].context):
            longest[key] = pair
    return [(*pair.context, Message(role="assistant", text=pair.chosen)) for pair in longest.values()]


def keep_pairs(folder: RunFolder, pairs: Sequence[PreferencePair], most: int = 300) -> None:
    """Some of what a PM is trained on, evenly taken, beside its run: what it knows can be looked at later."""
    rows = (pair.model_dump_json() for pair in evenly(pairs, most))
    (folder.path / _KEPT).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def kept_pairs(folder: Path) -> list[PreferencePair]:
    """What `keep_pairs` left in a run's folder; nothing in one of an older version.

    Errors:
        DataError: the file is damaged.
    """
    file = folder / _KEPT
    if not file.is_file():
        return []
    return read_rows(file, PreferencePair.model_validate_json, "delete it to do without those pairs")
