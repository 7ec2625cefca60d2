"""The nouns of what was judged: tranches, openings, topics, languages, scores. Knows no store and no page."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prefloop.quality.measured import Measured
from prefloop.schema import Interval, Mode, Noun, Tranche
from prefloop.stats import Cycles

PersonalKind = Literal["e-mail", "telephone", "payment card", "IBAN", "IP address", "US social security"]


class Lengths(Noun):
    """How a length is spread: plain quantiles of all of them, of twenty or more."""

    n: int
    p5: float
    p25: float
    median: float
    p75: float
    p95: float


class TrancheReport(Noun):
    """One tranche in one mode."""

    name: str = Field(description="mode and tranche")
    mode: Mode
    tranche: Tranche
    comparisons: int = Field(description="judged, with two replies that differ")
    judgments: int
    conversations: int
    openings: int = Field(description="different opening turns")
    turns: dict[int, int] = Field(description="comparisons by the turn of the conversation that they stand at")
    replies: Lengths | None = Field(description="characters of both replies; None: fewer than twenty")
    prompts: Lengths | None = Field(description="characters of the user turn that they answer")
    longer_wins: Measured = Field(description="share of pairs whose longer reply is the preferred one")
    agreement: Measured = Field(description="share of pairs of judgments with the same preferred side")
    label_noise: Measured = Field(description="share of labels against what two workers agree on, from their agreement")
    ceiling: Measured = Field(description="the most that a PM is expected to agree with one worker")
    words: Measured = Field(description="different words in as many openings as the other tranches are compared at")
    topics: Measured = Field(description="topics that would be as mixed if all were as common, at that size")


class Shared(Noun):
    """Openings that two tranches share, or the two sides of a split."""

    first: str
    second: str
    exact: int = Field(description="different openings that stand on both sides, equal once normalised")
    near: int = Field(description="further openings of the second one at least 0.8 like one of the first's")
    share: Measured = Field(description="of the second one's openings, those that the first has too, exactly or nearly")
    examples: tuple[tuple[str, str, float], ...]


class Leaks(Noun):
    """Openings on both sides of a line that evaluation takes to be a wall."""

    openings_checked: int = Field(description="different openings, the earliest; near ones are looked for among them")
    held_out_share: float
    split: Shared | None = Field(description="training (first) and held out (second), as runs split")
    by_row: Measured = Field(
        description="comparisons whose opening training would hold too, were single comparisons held out at random"
    )
    tranches: tuple[Shared, ...]


class Topic(Noun):
    """Openings that share words."""

    words: tuple[str, ...] = Field(description="the most telling ones")
    share: Interval = Field(description="of the openings that were clustered")
    by_tranche: dict[str, float]
    examples: tuple[str, ...]


class Language(Noun):
    """A language that users write in; 'unsure' where a turn is short or mixed."""

    code: str
    share: Interval


class Personal(Noun):
    """What looks like personal data in users' turns."""

    kind: PersonalKind
    share: Interval = Field(description="of the turns looked at")
    examples: tuple[str, ...] = Field(description="with all but the ends masked")


class Texts(Noun):
    """Checks of what users wrote, on a sample of turns."""

    turns_checked: int
    languages: tuple[Language, ...]
    personal: tuple[Personal, ...]


class ScoredTranche(Noun):
    """One tranche's scores by one PM."""

    name: str
    mean: Measured
    quantiles: Lengths
    bins: tuple[float, ...] = Field(description="share of the scores between successive edges")
    tail: Measured = Field(description="share of replies whose score lies above the threshold of the tail")
    accuracy: Measured = Field(description="share of judgments whose preferred reply has the higher score")
    held_out: Measured = Field(description="the same on conversations that runs hold out")


class Gap(Noun):
    """Agreement with judgments where the two scores differ by so much."""

    low: float
    high: float
    agreement: Interval


class ScoreReport(Noun):
    """What one PM's scores say of the data. It was trained on some of it, so only held-out accuracy is fair."""

    model_id: str
    name: str
    edges: tuple[float, ...]
    tail_from: float = Field(description="95% of the replies of the tranche `tail_of` score less")
    tail_of: str
    tranches: tuple[ScoredTranche, ...]
    agreement: Measured = Field(description="of judgments that name their worker with the higher score")
    gaps: tuple[Gap, ...] = Field(description="the same by size of the gap, smallest first")


class ItemReport(Noun):
    """What was judged."""

    tranches: tuple[TrancheReport, ...]
    compared_openings: int = Field(description="size at which diversity is compared; 0: tranches are too small")
    leaks: Leaks
    topics: tuple[Topic, ...]
    topics_unknown: str = ""
    texts: Texts | None
    cycles: Cycles | None
    cycles_unknown: str = ""
    scores: tuple[ScoreReport, ...]
