"""Simulated judgments: their probabilities, biases and grades."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefloop.sandbox import Population, Traits, choice_probability
from prefloop.schema import Mode

differences = st.floats(-6, 6)


@given(differences, st.floats(0.1, 3), st.floats(-2, 2), st.floats(0, 1))
def test_swapping_the_replies_gives_the_other_probability(d: float, t: float, bias: float, careless: float) -> None:
    traits = Traits(temperature=t, side_bias=bias, careless=careless)
    assert traits.probability(d) + traits.probability(-d) == pytest.approx(1.0)


def test_probability_by_hand() -> None:
    # difference 0.7 at temperature 0.7 is one unit of log odds: 1 / (1 + e^-1) = 0.7311; 10% careless: 0.05 + 0.9 x
    assert Traits(temperature=0.7, careless=0.1).probability(0.7) == pytest.approx(0.05 + 0.9 / (1 + math.exp(-1)))
    assert choice_probability([Traits(careless=1.0)], 5.0) == pytest.approx(0.5)


@pytest.mark.parametrize("mode", list(Mode))
def test_grades_follow_the_probability(mode: Mode) -> None:
    traits, chance, n = Traits(careless=0.1), random.Random(1), 4000
    preferred_a = 0
    for _ in range(n):
        is_a_clicked = traits.grade(chance, 1.0, 0.4, mode) <= 4
        preferred_a += is_a_clicked if mode is Mode.HELPFUL else not is_a_clicked
    expected = traits.probability(0.6)
    assert preferred_a / n == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / n))


def test_a_stronger_difference_gets_a_stronger_grade() -> None:
    def mean_grade(gap: float) -> float:
        chance = random.Random(2)
        return sum(Traits(careless=0.0).grade(chance, gap, 0.0, Mode.HELPFUL) for _ in range(500)) / 500

    assert mean_grade(4.0) < mean_grade(1.0) < mean_grade(0.0) < mean_grade(-4.0)


def test_a_side_bias_favours_the_side() -> None:
    chance = random.Random(3)
    biased = Traits(side_bias=1.5, careless=0.0)
    shown_as_a = sum(biased.grade(chance, 0.0, 0.0, Mode.HELPFUL) <= 4 for _ in range(2000)) / 2000
    assert shown_as_a == pytest.approx(1 / (1 + math.exp(-1.5)), abs=0.04)


def test_a_population_depends_on_its_seed_alone() -> None:
    assert Population(seed=4).traits() == Population(seed=4).traits()
    assert Population(seed=4).traits() != Population(seed=5).traits()
