"""Which prompts a policy is trained on: people's of each mode and generated ones, in given shares. Knows no model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from prefloop.config import Config
from prefloop.errors import ConfigError, DataError

__all__ = ["PromptMix", "mixed_prompts"]

Item = TypeVar("Item")


class PromptMix(Config):
    """Shares of the prompts; only their proportions count. All 0 takes every prompt that is there."""

    helpful: float = Field(
        0.0, ge=0.0, description="share of contexts of helpful comparisons (a larger one: paper 4.4)"
    )
    red_team: float = Field(0.0, ge=0.0, description="share of contexts of red-team comparisons")
    generated: float = Field(0.0, ge=0.0, description="share of generated prompts (the paper's: 369 of 506 thousand)")
    file: Path | None = Field(None, description="generated prompts, as `prefloop prompts generate` writes them")

    def shares(self) -> dict[str, float]:
        """By source.

        Errors:
            ConfigError: a share of generated prompts without their file, or only zeros beside a share.
        """
        if self.generated > 0 and self.file is None:
            raise ConfigError(
                f"prompts.generated = {self.generated:g} and prompts.file names no file; make one with: prefloop "
                "prompts generate RUN.toml"
            )
        return {"helpful": self.helpful, "red_team": self.red_team, "generated": self.generated}


def mixed_prompts(sources: Mapping[str, Sequence[Item]], shares: Mapping[str, float], seed: int) -> list[Item]:
    """As many prompts as the shares allow, drawn by `seed`, sources mixed; without shares all there are.

    A source runs out first and sets the size: nothing is taken twice.

    Errors:
        DataError: a source with a share has no prompts.
    """
    total = sum(shares.values())
    if total == 0:
        return [item for items in sources.values() for item in items]
    wanted = {name: share / total for name, share in shares.items() if share > 0}
    for name in wanted:
        if not sources.get(name):
            raise DataError(
                f"prompts.{name} has a share of {wanted[name]:g} and there are 0 such prompts; set it to 0."
            )
    size = min(len(sources[name]) / share for name, share in wanted.items())
    mixed: list[Item] = []
    for name, share in wanted.items():
        # Half a prompt too much is rounding; the source that runs out gives all that it has.
        mixed += random.Random(f"{seed} {name}").sample(
            list(sources[name]), min(round(size * share), len(sources[name]))
        )
    random.Random(f"{seed} order").shuffle(mixed)
    return mixed
