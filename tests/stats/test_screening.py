"""Chances under "as everybody else", by hand, by counting all orders, and by their rate of false alarms."""

from __future__ import annotations

from itertools import pairwise, permutations

import numpy as np
import pytest

from prefloop.stats import at_least_chances, coin_chances, excess_chances, longest_runs, run_chances, score_chances


def test_coin() -> None:
    # 0 of 4: (1/16) on each side; 2 of 4: certain; nothing tossed: nothing to see
    assert coin_chances(np.array([0, 4, 2, 0]), np.array([4, 4, 4, 0])) == pytest.approx([1 / 8, 1 / 8, 1, 1])


def test_at_least() -> None:
    # 2 or more of 3 at 1/2: (3 + 1)/8; 0 or more: certain
    chances = at_least_chances(np.array([2, 0, 3]), np.array([3, 3, 3]), np.array([0.5, 0.5, 0.1]))
    assert chances == pytest.approx([0.5, 1.0, 0.001])


def test_excess() -> None:
    # 4 hits of 8 tries in all; the first group has 3 of 3 of them: C(4,3)/C(8,3) = 4/56
    assert excess_chances(np.array([3, 1]), np.array([3, 5]))[0] == pytest.approx(4 / 56)


def test_score() -> None:
    # pulls 1 1 -1 with chance 1/2: score 1/2 + 1/2 + 1/2, variance 3/4: z = 1.5/0.866
    pull, chosen = np.array([1.0, 1.0, -1.0]), np.array([1.0, 1.0, 0.0])
    z, chances = score_chances(pull, chosen, np.full(3, 0.5), np.zeros(3, dtype=np.int64), 2)
    assert z == pytest.approx([np.sqrt(3), 0.0])
    assert chances == pytest.approx([0.0833, 1.0], abs=1e-4)


def test_longest_runs_do_not_cross_groups() -> None:
    answers, groups = np.array([1, 1, 1, 0, 0, 0, 1]), np.array([0, 0, 1, 1, 1, 1, 1])
    assert list(longest_runs(answers, groups, 3)) == [2, 3, 0]


@pytest.mark.parametrize("answers", [[1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 2], [1, 1, 1, 0, 1, 0, 0]])
def test_chance_of_a_run_counts_runs_over_all_orders(answers: list[int]) -> None:
    longest, chance = run_chances(np.array(answers), np.zeros(len(answers), dtype=np.int64), 1)
    runs, orders = 0, 0
    for order in permutations(answers):
        breaks = [0, *(i for i in range(1, len(order)) if order[i] != order[i - 1]), len(order)]
        runs += sum(end - start >= longest[0] for start, end in pairwise(breaks))
        orders += 1
    assert chance[0] == pytest.approx(min(runs / orders, 1.0))


def test_equal_answers_alone_are_no_run() -> None:
    # with one kind of answer every order looks the same
    assert run_chances(np.ones(9, dtype=np.int64), np.zeros(9, dtype=np.int64), 1)[1] == pytest.approx([1.0])


def test_runs_of_random_answers_raise_as_few_alarms_as_stated() -> None:
    draw = np.random.default_rng(1)
    workers = np.repeat(np.arange(4000), 60)
    _, chances = run_chances(draw.integers(0, 2, len(workers)), workers, 4000)
    # 4000 workers at 0.05: 200 expected at most, standard deviation 14
    assert 20 <= (chances < 0.05).sum() <= 240


def test_a_planted_stretch_is_found() -> None:
    draw = np.random.default_rng(2)
    answers = draw.integers(0, 2, 300)
    answers[100:125] = 1
    longest, chances = run_chances(answers, np.zeros(300, dtype=np.int64), 1)
    assert longest[0] >= 25
    assert chances[0] < 1e-4
