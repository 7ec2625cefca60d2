"""Splits keep conversations whole; halves are halves; mixes have their shares."""

from collections import Counter
from collections.abc import Sequence

import pytest

from prefloop.errors import DataError
from prefloop.loop.data import conversations_of, evenly, half_of, mixed, prompts_of, some_of, split
from prefloop.schema import Message, Mode, PreferencePair, Tranche


def pair(opening: str, *more: str) -> PreferencePair:
    turns = [Message(role=("user", "assistant")[i % 2], text=text) for i, text in enumerate((opening, *more))]
    return PreferencePair(context=tuple(turns), chosen="good", rejected="bad", conversation_id=opening)


def test_pairs_that_open_alike_stay_together() -> None:
    pairs = [pair(f"question {i}") for i in range(500)] + [pair(f"question {i}", "x", "and then?") for i in range(500)]
    training, held_out = split(pairs, 0.2)
    openings = [{p.context[0].text for p in part} for part in (training, held_out)]
    assert not openings[0] & openings[1]
    assert len(training) + len(held_out) == 1000
    assert 60 <= len(openings[1]) <= 140  # 500 openings at 0.2: mean 100, standard deviation 9
    assert all(half_of(pairs[i]) == half_of(pairs[i + 500]) for i in range(500))
    in_a = sum(half_of(p) == "a" for p in pairs[:500])
    assert 200 <= in_a <= 300  # mean 250, standard deviation 11


def test_a_larger_share_keeps_what_a_smaller_one_kept() -> None:
    pairs = [pair(f"question {i}") for i in range(300)]
    small, large = split(pairs, 0.1).held_out, split(pairs, 0.3).held_out
    assert all(p in large for p in small)
    assert split(pairs, 0.0).held_out == []


def test_prompts_are_the_different_contexts_in_order() -> None:
    first, second = pair("a"), pair("b")
    assert prompts_of([first, second, first]) == [first.context, second.context]


def test_conversations_end_with_the_preferred_reply_of_the_last_turn() -> None:
    short, long = pair("a"), pair("a", "x", "more")
    assert conversations_of([short, long]) == [(*long.context, Message(role="assistant", text="good"))]


def test_some_are_taken_from_everywhere() -> None:
    assert evenly(list("abcdefghij"), 4) == ["a", "c", "f", "h"]  # places 0, 10 / 4, 20 / 4, 30 / 4, rounded down
    assert evenly([1, 2, 3], 5) == [1, 2, 3]
    assert evenly([], 5) == []


def test_mixing_takes_shares_of_both_modes() -> None:
    pairs = [
        pair(f"{mode.value}{n}").model_copy(update={"mode": mode})
        for mode, count in ((Mode.HELPFUL, 30), (Mode.RED_TEAM, 12))
        for n in range(count)
    ]

    def counts(share: float | None, total: int = 0) -> tuple[int, int]:
        taken = mixed(pairs, share, total)
        assert [pair for pair in pairs if pair in taken] == taken  # in order, none twice
        return sum(p.mode == Mode.HELPFUL for p in taken), sum(p.mode == Mode.RED_TEAM for p in taken)

    assert counts(None) == (30, 12)
    assert counts(0.5) == (12, 12)  # min(30 / 0.5, 12 / 0.5) = 24 in all
    assert counts(0.25, 20) == (15, 5)
    assert counts(0.0) == (30, 0)
    assert counts(1.0) == (0, 12)
    small, large = mixed(pairs, 0.2, 10), mixed(pairs, 0.4, 10)
    assert {p.conversation_id for p in small if p.mode == Mode.RED_TEAM} <= {p.conversation_id for p in large}
    assert mixed(pairs, 0.5, seed=1) != mixed(pairs, 0.5, seed=2)
    with pytest.raises(DataError, match="need 20 red_team pairs and there are 12"):
        mixed(pairs, 0.5, 40)
    with pytest.raises(DataError, match="there are 0"):
        mixed(pairs[:30], 0.5)


def test_mixing_takes_shares_of_tranches() -> None:
    counts = {Tranche.BASE: (20, 20), Tranche.REJECTION_SAMPLED: (30, 0), Tranche.ONLINE: (12, 8)}
    pairs = [
        pair(f"{tranche}{mode}{n}").model_copy(update={"mode": mode, "tranche": tranche})
        for tranche, both in counts.items()
        for mode, count in zip(Mode, both, strict=True)
        for n in range(count)
    ]

    def taken(share: float | None, total: int, **shares: float) -> dict[str, int]:
        mix = mixed(pairs, share, total, tranche_shares={Tranche(name): value for name, value in shares.items()})
        return dict(Counter(f"{one.mode.value} {one.tranche.value}" for one in mix))

    both = taken(None, 0, base=0.5, online=0.5)  # min(40 / 0.5, 20 / 0.5) = 40 in all, of both modes as they are
    assert sum(count for name, count in both.items() if name.endswith("base")) == 20
    assert (both["helpful online"], both["red_team online"]) == (12, 8)
    # with shares of both each mode has the shares of tranches: min(20 / 0.3, 12 / 0.3, 20 / 0.2, 8 / 0.2) = 40
    assert taken(0.4, 0, base=0.5, online=0.5) == {
        "helpful base": 12,
        "helpful online": 12,
        "red_team base": 8,
        "red_team online": 8,
    }
    assert sum(taken(None, 10, base=1 / 3, rejection_sampled=1 / 3, online=1 / 3).values()) == 10
    with pytest.raises(DataError, match="need 5 red_team rejection_sampled pairs and there are 0"):
        taken(0.5, 10, rejection_sampled=1.0)


def test_what_is_drawn_depends_on_texts_and_seed_alone() -> None:
    pairs = [pair(f"question {n}", *("answer", "and then?") * later) for n in range(40) for later in range(3)]
    pairs = [one.model_copy(update={"mode": list(Mode)[n % 2]}) for n, one in enumerate(pairs)]
    again = [one.model_copy(update={"conversation_id": f"id {len(pairs) - n}"}) for n, one in enumerate(pairs)]

    def texts(taken: Sequence[PreferencePair]) -> set[tuple[Message, ...]]:
        return {one.context for one in taken}

    for other in (again, again[::-1]):  # imported once more, and in another order
        assert texts(some_of(pairs, 20, seed=1)) == texts(some_of(other, 20, seed=1))
        assert texts(mixed(pairs, 0.25, 40, seed=1)) == texts(mixed(other, 0.25, 40, seed=1))
    assert texts(some_of(pairs, 20, seed=1)) != texts(some_of(pairs, 20, seed=2))


def test_conversations_are_drawn_whole() -> None:
    pairs = [pair(f"question {n}", *("answer", "and then?") * later) for later in range(3) for n in range(40)]
    taken = Counter(one.context[0].text for one in some_of(pairs, 20))
    assert sorted(taken.values()) == [2] + [3] * 6  # 20 = 6 * 3 + 2
    alike = [pair("hi", *(f"branch {n}", "and then?") * later) for later in range(3) for n in range(10)]
    later = Counter(one.context[1].text for one in some_of(alike, 20) if len(one.context) > 1)
    assert sorted(later.values()) == [2] * 5  # the ten openings come first, then one conversation after another
