"""Pairs on disk: the same as in memory, in any order, and gone with the last reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from prefloop.pair_file import PairFile, picked
from prefloop.schema import Message, Mode, PreferencePair, Tranche

PAIRS = [
    PreferencePair(
        context=(Message(role="user", text=f'Grüße {number}\n"zitiert"'),),
        chosen="ja " * number,
        rejected="nein",
        mode=Mode.RED_TEAM if number % 2 else Mode.HELPFUL,
        tranche=Tranche.ONLINE,
        grade=None if number % 3 else 2,
    )
    for number in range(7)
]


def test_a_file_is_the_same_sequence(tmp_path: Path) -> None:
    on_disk = PairFile(iter(PAIRS), tmp_path / "runs")
    assert list(on_disk) == PAIRS
    assert len(on_disk) == 7
    assert on_disk[0] == PAIRS[0]
    assert on_disk[-1] == PAIRS[-1]
    assert list(on_disk[2:5]) == PAIRS[2:5]
    with pytest.raises(IndexError):
        on_disk[7]
    assert list((tmp_path / "runs").iterdir()) == []  # it has no name


def test_an_empty_file_is_empty(tmp_path: Path) -> None:
    assert not PairFile([], tmp_path)


def test_picked_pairs_are_those_of_a_list(tmp_path: Path) -> None:
    on_disk = PairFile(PAIRS, tmp_path)
    places = [5, 0, 3]
    once = picked(on_disk, places)
    assert not isinstance(once, list)
    assert list(once) == picked(PAIRS, places) == [PAIRS[5], PAIRS[0], PAIRS[3]]
    assert list(picked(once, [2, 1])) == [PAIRS[3], PAIRS[0]]
    assert list(picked(on_disk, [])) == []
