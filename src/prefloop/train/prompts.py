"""More prompts for a policy, made by a language model that reads a few of people's (paper 4.1), and filtered.

Few-shot: some opening messages of people, one after the other, and the header of the next one; what the model writes
there is a candidate. A candidate is dropped, and counted by reason, where it does not end, is too short or too long, is
(nearly) the same as one before it or as one it was shown, or overlaps with a held-out prompt. Knows no store.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field

from prefloop.config import NAME, Config, Seed
from prefloop.errors import DataError
from prefloop.models.language import LanguageModel, window_tokens
from prefloop.models.sampling import TorchSampler
from prefloop.schema import Message, SamplingSettings
from prefloop.stats import near_duplicates, normalised

__all__ = ["GeneratedPrompts", "PromptsRun", "generate_prompts"]

_BATCH = 128


class PromptsRun(Config):
    """`prefloop prompts generate RUN.toml`."""

    name: str = Field("prompts", pattern=NAME, description="goes into the name of the run folder")
    model: Path = Field(description="language model that writes: a folder or a snapshot")
    count: int = Field(1000, ge=1, description="prompts wanted")
    most_tries: int = Field(10, ge=1, description="candidates drawn at most, in multiples of count")
    shots: int = Field(10, ge=0, description="messages of people shown before each candidate (the paper: about 10)")
    mode: Literal["helpful", "red_team"] = Field("helpful", description="of the people's messages that are shown")
    temperature: float = Field(1.0, gt=0.0, le=10.0, description="of the candidates")
    max_tokens: int = Field(64, ge=1, description="a candidate that has not ended by then is dropped")
    least_characters: int = Field(10, ge=1, description="shorter candidates are dropped")
    most_characters: int = Field(1000, ge=1, description="longer ones too")
    least_difference: float = Field(
        0.3, ge=0.0, le=1.0, description="Jaccard distance over runs of five characters below which two are the same"
    )
    seed: Seed = Field(0, description="of the messages shown and of the candidates")


class GeneratedPrompts(NamedTuple):
    """What is kept, and how many candidates were dropped, by reason."""

    prompts: list[str]
    candidates: int
    dropped: dict[str, int]


def generate_prompts(
    run: PromptsRun, model: LanguageModel, shown: Sequence[str], held_out: Sequence[str]
) -> GeneratedPrompts:
    """At most `run.count` new opening messages.

    Args:
        shown: people's messages from the training split, from which the shots are drawn.
        held_out: messages that no generated prompt may resemble.

    Errors:
        DataError: too few messages for the shots, or shots that fill the window.
    """
    if len(shown) < run.shots:
        raise DataError(f"shots = {run.shots} and there are {len(shown)} messages of people to show; lower it.")
    renderer = model.renderer
    sampler = TorchSampler(model.model, renderer, "prompts")
    stops = renderer.next_user_stops()
    settings = SamplingSettings(temperature=run.temperature, max_response_tokens=run.max_tokens, stop=stops)
    room = window_tokens(model.model) - run.max_tokens
    sieve = _Sieve(run, shown, held_out)
    drawn = 0
    while len(sieve.kept) < run.count and drawn < run.most_tries * run.count:
        size = min(_BATCH, run.most_tries * run.count - drawn)
        prompts = []
        for place in range(drawn, drawn + size):
            shots = random.Random(f"{run.seed} {place}").sample(list(shown), run.shots)
            ids = renderer.next_user_ids([Message(role="user", text=text) for text in shots])
            while len(ids) > room and shots:
                del shots[0]
                ids = renderer.next_user_ids([Message(role="user", text=text) for text in shots])
            if len(ids) > room:
                raise DataError(f"max_tokens = {run.max_tokens} fills the model's window; lower it.")
            prompts.append(ids)
        candidates = [replies[0] for replies in sampler.sample(prompts, 1, settings, run.seed + drawn)]
        sieve.sift(
            [
                (_without_stop(renderer.decode(sample.ids), stops), sample.finish_reason == "stop")
                for sample in candidates
            ]
        )
        drawn += size
    return GeneratedPrompts(sieve.kept[: run.count], drawn, sieve.dropped)


class _Sieve:
    """Keeps what is new, and counts the rest."""

    def __init__(self, run: PromptsRun, shown: Sequence[str], held_out: Sequence[str]) -> None:
        self._run, self._shown, self._held_out = run, list(shown), list(held_out)
        self.kept: list[str] = []
        self.dropped: dict[str, int] = {}

    def sift(self, candidates: Sequence[tuple[str, bool]]) -> None:
        """Takes (text, whether it ended) in their order."""
        run, fit = self._run, []
        for text, has_ended in candidates:
            text = text.strip()
            if not has_ended:
                self._drop("unfinished")
            elif len(text) < run.least_characters:
                self._drop("too short")
            elif len(text) > run.most_characters:
                self._drop("too long")
            else:
                fit.append(text)
        known = [*self._held_out, *self._shown, *self.kept]
        texts = [*known, *fit]
        alike: dict[int, set[int]] = {}
        for first, second, _ in near_duplicates(texts, 1.0 - run.least_difference):
            alike.setdefault(max(first, second), set()).add(min(first, second))
        first_of: dict[str, int] = {}  # equal texts are looked at once: what befell the first befalls the others
        overlapping: set[int] = set()
        gone: set[int] = set()
        for place, text in enumerate(texts):
            first = first_of.setdefault(normalised(text), place)
            if place < len(known):
                continue
            like = ({first} if first < place else set()) | (alike.get(first, set()) - gone)
            if first in overlapping or any(other < len(self._held_out) for other in like):
                self._drop("overlaps with a held-out prompt")
                overlapping.add(place)
                gone.add(place)
            elif like:
                self._drop("duplicate")
                gone.add(place)
            else:
                self.kept.append(text)

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def _without_stop(text: str, stops: Sequence[str]) -> str:
    ends = [text.index(stop) for stop in stops if stop in text]
    return text[: min(ends)] if ends else text
