"""Bradley-Terry and Elo: hand-computed ratings, planted ratings, separable and unconnected data, real votes."""

import csv
import math
from pathlib import Path

import evalica
import numpy as np
import pytest
from scipy.special import expit

from prefloop.errors import DataError
from prefloop.stats import ELO_PER_NAT, bradley_terry, elo, expected_win_rate


def _planted(strengths: list[float], games: int, seed: int) -> tuple[list[str], list[str], np.ndarray]:
    generator = np.random.default_rng(seed)
    first = generator.integers(len(strengths), size=games)
    second = (first + 1 + generator.integers(len(strengths) - 1, size=games)) % len(strengths)
    true = np.array(strengths)
    won = (generator.random(games) < expit(true[first] - true[second])).astype(float)
    return [f"s{i}" for i in first], [f"s{i}" for i in second], won


def test_two_players_by_hand() -> None:
    # 3 of 4 won: r = ln(3/1) = 1.0986, Elo = 400 log10(3) = 190.85; 1/(1+10^(-190.85/400)) = 0.75
    assert bradley_terry(np.array([[0, 1], [3, 0]]))[1] == pytest.approx(math.log(3))
    table = elo(["new"] * 4, ["old"] * 4, [1, 1, 1, 0], anchor="old")
    assert table.ratings["new"].value == pytest.approx(400 * math.log10(3))
    assert expected_win_rate(table.ratings["new"].value) == pytest.approx(0.75)
    assert table.ratings["old"].model_dump() == {"value": 0, "low": 0, "high": 0, "n": 4, "clusters": 4}


def test_a_unit_of_strength_is_174_points() -> None:
    assert pytest.approx(173.7, abs=0.05) == ELO_PER_NAT  # 400 / ln 10 (paper 2.4 rounds to 174)


def test_chain_by_hand() -> None:
    # a beats b 2:1, b beats c 3:1 and a never meets c: r_b = -ln 2, r_c = -ln 2 - ln 3
    wins = np.array([[0, 2, 0], [1, 0, 3], [0, 1, 0]])
    assert bradley_terry(wins) == pytest.approx([0, -math.log(2), -math.log(6)])


def test_a_tie_is_half_a_win_each_way() -> None:
    # (1 + 0.5) : (0 + 0.5) = 3 : 1
    table = elo(["new", "new"], ["old", "old"], [1, 0.5], anchor="old")
    assert table.ratings["new"].value == pytest.approx(400 * math.log10(3))


def test_swapping_the_sides_changes_nothing() -> None:
    first, second, won = _planted([0, 0.4, 0.8], 300, seed=1)
    straight = elo(first, second, won, anchor="s0", resamples=50)
    swapped = elo(second, first, 1 - won, anchor="s0", resamples=50)
    for name, interval in straight.ratings.items():
        assert swapped.ratings[name].value == pytest.approx(interval.value)


def test_another_anchor_moves_all_ratings_alike() -> None:
    first, second, won = _planted([0, 0.4, 0.8], 300, seed=1)
    low, high = (elo(first, second, won, anchor=name, resamples=50).ratings for name in ("s0", "s2"))
    shifts = [low[name].value - high[name].value for name in low]
    assert shifts == pytest.approx([shifts[0]] * 3)


def test_planted_ratings_are_recovered_and_covered() -> None:
    strengths = [0.0, 0.3, -0.5, 1.0]
    hits = 0
    for seed in range(40):
        first, second, won = _planted(strengths, 400, seed)
        table = elo(first, second, won, np.arange(400) // 4, anchor="s0", seed=seed, resamples=200)
        for i in (1, 2, 3):
            interval = table.ratings[f"s{i}"]
            hits += interval.low <= strengths[i] * ELO_PER_NAT <= interval.high
            assert interval.value == pytest.approx(strengths[i] * ELO_PER_NAT, abs=110)  # four standard errors
    assert 0.89 <= hits / 120 <= 1.0  # 95% within three standard errors


def test_best_first_and_pairs_named_once() -> None:
    table = elo(["a", "b", "b", "a"], ["b", "a", "a", "b"], [0, 1, 0, 0.5], anchor="a")
    assert list(table.ratings) == ["b", "a"]
    # a against b: 0, 0, 1, 0.5 -> 1.5 of 4
    assert [(pair.first, pair.second, pair.win_rate.value) for pair in table.pairs] == [("a", "b", 0.375)]


def test_separable_data_are_regularised_and_said_so() -> None:
    # 4 of 4 won, half a win each way: ln(4.5/0.5) = ln 9
    table = elo(["new"] * 4, ["old"] * 4, [1, 1, 1, 1], anchor="old")
    assert table.is_regularised
    assert table.ratings["new"].value == pytest.approx(math.log(9) * ELO_PER_NAT)
    assert "half a win each way" in table.notes[0]
    with pytest.raises(DataError, match="separable"):
        bradley_terry(np.array([[0, 4], [0, 0]]))


def test_ordinary_data_are_not_regularised() -> None:
    first, second, won = _planted([0, 0.2], 200, seed=0)
    table = elo(first, second, won, anchor="s0", resamples=100)
    assert not table.is_regularised
    assert table.notes == ()


def test_unconnected_players_get_no_rating() -> None:
    table = elo(["a", "a", "c", "c"], ["b", "b", "d", "d"], [1, 0, 1, 0], anchor="a")
    assert set(table.ratings) == {"a", "b"}
    assert table.not_comparable == ("c", "d")
    assert "c, d" in table.notes[0]


def test_one_cluster_gives_no_interval_and_says_so() -> None:
    table = elo(["a", "a"], ["b", "b"], [1, 0.5], ["w", "w"], anchor="b")
    assert table.ratings["a"].low == -math.inf
    assert "one cluster" in table.notes[-1]


@pytest.mark.parametrize(
    ("first", "second", "outcomes", "message"),
    [
        ([], [], [], "0 observations"),
        (["a"], ["a"], [1], "compared with itself"),
        (["b"], ["c"], [1], "anchor 'a'"),
        (["a"], ["b"], [2], "not 2"),
        (["a"], ["b"], [], "do not pair up"),
    ],
)
def test_bad_input_is_named(first: list[str], second: list[str], outcomes: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        elo(first, second, outcomes, anchor="a")


def test_equals_evalica() -> None:
    first, second, won = _planted([0, 0.3, -0.5, 1.0, 2.0], 500, seed=4)
    winners = [evalica.Winner.X if w else evalica.Winner.Y for w in won]
    theirs = evalica.bradley_terry(first, second, winners, tolerance=1e-12, limit=10_000).scores
    mine = elo(first, second, won, anchor="s0", resamples=2).ratings
    for name, interval in mine.items():
        assert interval.value == pytest.approx(math.log(theirs[name] / theirs["s0"]) * ELO_PER_NAT, abs=1e-3)


@pytest.mark.real_data
def test_real_votes_give_the_published_order(data_root: Path) -> None:
    with (data_root / "llmfao" / "llmfao.csv").open(encoding="utf-8") as file:
        votes = list(csv.DictReader(file))
    with (data_root / "llmfao" / "llmfao-golden.csv").open(encoding="utf-8") as file:
        golden = {
            row["item"]: float(row["score"]) for row in csv.DictReader(file) if row["algorithm"] == "bradley_terry"
        }
    outcomes = [{"left": 1.0, "tie": 0.5, "right": 0.0}[vote["winner"]] for vote in votes]
    table = elo(
        [vote["left"] for vote in votes],
        [vote["right"] for vote in votes],
        outcomes,
        [vote["worker"] for vote in votes],
        anchor="GPT 4",
        resamples=50,
    )
    assert list(table.ratings) == sorted(golden, key=lambda name: -golden[name])
    for name, interval in table.ratings.items():
        assert interval.value == pytest.approx(math.log(golden[name] / golden["GPT 4"]) * ELO_PER_NAT, abs=0.1)
