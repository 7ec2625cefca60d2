"""How simulated workers judge: by the gold preference, with noise, bias and carelessness that can be set.

A worker feels u = (gold(A) - gold(B)) / temperature + side_bias + logistic noise (Bradley-Terry), prefers A where
u > 0, and gives a stronger grade the larger |u| is. A careless judgment is a random grade. The probability of every
choice is therefore known, and with it the best accuracy that any preference model can reach.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from prefloop.schema import GRADES, Mode

STRENGTHS = (0.8, 1.7, 3.0)
"""|u| from which a grade is one step stronger than the weakest."""


@dataclass(frozen=True)
class Traits:
    """One simulated worker.

    Attributes:
        temperature: of the Bradley-Terry noise; 1 means that a gold difference of 1 is one unit of log odds.
        side_bias: added to u: positive favours the reply shown as A.
        careless: share of judgments given at random.
        seconds_per_judgment: time between both replies being complete and the judgment.
    """

    temperature: float = 1.0
    side_bias: float = 0.0
    careless: float = 0.05
    seconds_per_judgment: float = 0.0

    def probability(self, difference: float) -> float:
        """P(the better-by-`difference` reply is preferred), its sides drawn at random."""
        shown_as_a = _sigmoid(difference / self.temperature + self.side_bias)
        shown_as_b = 1.0 - _sigmoid(-difference / self.temperature + self.side_bias)
        return self.careless / 2 + (1.0 - self.careless) * (shown_as_a + shown_as_b) / 2

    def grade(self, chance: random.Random, gold_a: float, gold_b: float, mode: Mode) -> int:
        """The grade (1 to 8, in shown order) that this worker gives under the question of `mode`."""
        if chance.random() < self.careless:
            return chance.randint(1, GRADES)
        uniform = min(max(chance.random(), 1e-12), 1 - 1e-12)
        u = (gold_a - gold_b) / self.temperature + math.log(uniform / (1.0 - uniform))
        if mode is Mode.RED_TEAM:
            u = -u  # the question there is which reply is more harmful
        u += self.side_bias
        strength = sum(abs(u) >= limit for limit in STRENGTHS)  # 0 is about the same
        return 4 - strength if u > 0 else 5 + strength


@dataclass(frozen=True)
class Population:
    """A workforce drawn from a seed: each worker's traits vary around the given ones."""

    workers: int = 24
    typical: Traits = Traits()
    side_bias_deviation: float = 0.15
    seed: int = 0

    def traits(self) -> list[Traits]:
        chance = random.Random(f"population-{self.seed}")
        return [
            Traits(
                temperature=self.typical.temperature * math.exp(chance.gauss(0.0, 0.15)),
                side_bias=self.typical.side_bias + chance.gauss(0.0, self.side_bias_deviation),
                careless=self.typical.careless * 2 * chance.random(),
                seconds_per_judgment=self.typical.seconds_per_judgment,
            )
            for _ in range(self.workers)
        ]


def choice_probability(traits: Sequence[Traits], difference: float) -> float:
    """P(a random one of these workers prefers the reply that gold puts `difference` above the other)."""
    return sum(worker.probability(difference) for worker in traits) / len(traits)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
