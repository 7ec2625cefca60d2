"""The nouns of a quality report: measured numbers, or the reason why there is none. Knows no store and no page."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from prefloop.config import QualitySubject
from prefloop.quality.drift import Drift
from prefloop.quality.item_nouns import ItemReport
from prefloop.quality.measured import Measured
from prefloop.schema import Mode, Noun, Tranche, now

Level = Literal["good", "warning", "unknown"]
FlagKind = Literal["flipped", "noise", "side", "length", "first", "pace", "straight", "copies", "paste"]


class Finding(Noun):
    """One sentence of the verdict, and what to do about it (empty where nothing is to be done)."""

    subject: QualitySubject
    level: Level
    sentence: str
    next_step: str = ""


class VoidReason(Noun):
    """Why comparisons count for nothing, and how many."""

    reason: str
    comparisons: int


class Counts(Noun):
    """What there is. Judgments are each worker's latest on a comparison; corrected ones are counted apart."""

    comparisons: dict[str, int] = Field(description="by state")
    void_reasons: tuple[VoidReason, ...]
    judgments: int
    corrected: int = Field(description="judgments that a later one replaced")
    imported: int = Field(description="judgments that came from files; they have no worker, grade or time")
    conversations: int
    workers: int
    by_tranche: dict[Tranche, int]
    by_mode: dict[Mode, int]
    by_grade: dict[int, int] = Field(description="in shown order; imported judgments have no grade")
    weakest_share: Measured = Field(description="graded judgments of the two middle grades, which training leaves out")
    void_share: Measured = Field(description="comparisons that are void, of all that are not open")


class Agreement(Noun):
    """Agreement of different workers on the same comparison; intervals are clustered by conversation."""

    comparisons: int = Field(description="comparisons with judgments of two or more workers")
    raw: Measured = Field(description="share of pairs of judgments with the same preferred side")
    alpha_side: Measured = Field(description="Krippendorff's alpha, nominal, on the preferred side")
    alpha_grade: Measured = Field(description="Krippendorff's alpha, ordinal, on the grade")


class ResearcherAgreement(Noun):
    """Workers against researchers on the same comparisons; intervals are clustered by conversation."""

    pairs: int = Field(description="pairs of a researcher's and a worker's judgment of one comparison")
    raw: Measured = Field(description="share of them with the same preferred side")
    kappa_side: Measured = Field(description="Cohen's kappa on the side")
    kappa_grade: Measured = Field(description="Cohen's kappa on the grade, disagreements squared")


class LengthEffect(Noun):
    """What length does to the choice in one mode."""

    longer_wins: Measured = Field(description="share of pairs whose longer reply (in characters) is the preferred one")
    slope: Measured = Field(description="log-odds of being preferred per unit of ln(length ratio)")


class Duplicates(Noun):
    """Texts that came more than once."""

    openings: int = Field(description="conversations with an opening turn")
    repeated_openings: Measured = Field(description="share of conversations whose opening copies an earlier one")
    most_repeated: tuple[tuple[str, int], ...] = Field(description="openings and how often they came, most first")
    near_copies: int = Field(description="pairs of different openings at least 0.8 alike (Jaccard on 5-letter runs)")
    near_copy_examples: tuple[tuple[str, str, float], ...]
    openings_checked: int = Field(description="different openings looked at for near copies")
    identical_responses: Measured = Field(description="share of judged comparisons whose two responses are one text")


class Flag(Noun):
    """What stands out in one worker. A reason to look at the work, never a verdict on the person."""

    kind: FlagKind
    sentence: str
    chance: float = Field(description="that an ordinary worker shows as much; of a test, not of guilt")
    threshold: float = Field(description="the chance below which the flag is raised, beside the rule's difference")


class FlagRule(Noun):
    """When a kind of flag is raised, and how often it falls on anybody where all workers are honest."""

    kind: FlagKind
    rule: str
    false_alarms: float = Field(description="share of reports on honest workers with at least one such flag, at most")


class NoiseModel(Noun):
    """The model of workers and items behind each worker's noise."""

    typical: Measured = Field(description="chance that the mean worker prefers the worse side of a typical item")
    spread: float | None = Field(description="standard deviation of strengths over workers; None where unknown")
    shared_judgments: int = Field(description="judgments on comparisons that two or more workers judged")


class Concentration(Noun):
    """How unevenly the judgments lie on workers; intervals resample workers."""

    top_20: Measured = Field(description="share of the judgments that the 20 busiest workers made")
    gini: Measured = Field(description="0: all workers made as many, near 1: one made all")


class WorkerQuality(Noun):
    """One worker's numbers, clustered by conversation."""

    worker_id: str
    pseudonym: str
    is_simulated: bool
    judgments: int
    noise: Measured = Field(
        description="chance to prefer the worse side of a typical item, with the difficulty of the items taken out"
    )
    weight: float | None = Field(
        description="of this worker's judgments in training, 1 on average over workers; None where noise is unknown"
    )
    agreement: Measured = Field(description="share of pairs with others on the same comparison that agree, as it is")
    side_a: Measured = Field(description="share of clicks on the side shown as A")
    longer: Measured = Field(description="share of pairs whose longer reply is the preferred one")
    finished_first: Measured = Field(description="share of clicks on the response that was complete first")
    weakest: Measured = Field(description="share of the two middle grades")
    decision_seconds: Measured = Field(description="geometric mean of the time from both replies done to the judgment")
    reading_seconds: Measured = Field(description="the same from the first token of either reply")
    too_fast: Measured = Field(description="share of judgments made faster than anybody reads")
    longest_run: int = Field(description="most clicks on one side in a row")
    own_copies: Measured = Field(
        description="share of the worker's openings that copy an earlier one of their own, or nearly so"
    )
    opening_characters: Measured = Field(description="geometric mean length of the openings that this worker wrote")
    variety: Measured = Field(
        description="1 less the mean overlap (Jaccard of words) of two own openings; among the texts that were kept"
    )
    pasted: Measured = Field(description="share of long user turns that came faster than anybody types")
    flags: tuple[Flag, ...] = ()


class QualityReport(Noun):
    """Everything that the report says; its JSON dump is the report for programs."""

    created_at: datetime = Field(default_factory=now)
    scope: str = Field(description="which comparisons: mode, tranche, study")
    verdict: tuple[Finding, ...] = ()
    gate: tuple[str, ...] = Field(
        (), description="why the settings' gate is closed; empty: it is open, or there is none"
    )
    counts: Counts
    agreement: Agreement
    agreement_without_weakest: Agreement
    researchers: ResearcherAgreement
    retest: Measured = Field(description="share of pairs seen again by the same worker that got the same preference")
    side_a: Measured = Field(description="share of clicks on the side shown as A; 0.5 is fair")
    finished_first: Measured = Field(description="share of clicks on the response that was complete first")
    length: dict[Mode, LengthEffect]
    decision_seconds: Measured = Field(description="geometric mean of the time from both replies done to the judgment")
    reading_seconds: Measured = Field(description="the same from the first token of either reply")
    too_fast: Measured = Field(description="share of judgments made faster than anybody reads")
    duplicates: Duplicates
    items: ItemReport
    drift: Drift
    concentration: Concentration
    noise: NoiseModel
    label_smoothing: Measured = Field(
        Measured(unknown="It was not computed."), description="share of training labels that are wrong, at least"
    )
    flag_rules: tuple[FlagRule, ...]
    workers: tuple[WorkerQuality, ...] = Field(description="most judgments first")
