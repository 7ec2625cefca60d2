"""What a diagnosis is made of: evidence, findings, the diagnosis. Knows how to say it, not how to find it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from prefloop.schema import Interval, Noun

Cause = Literal[
    "template_mismatch",
    "optimiser_failing",
    "reward_gamed",
    "pm_near_chance",
    "pm_too_small",
    "pm_out_of_distribution",
    "policy_too_small",
    "policy_data_starved",
]
"""From symptom to cause to remedy: docs/diagnosis.md."""

Side = Literal["PM", "policy", "optimiser", "data"]


class Evidence(Noun):
    """Everything that was measured; None where it could not be, with the reason in `unknown`.

    Scores of a PM are in deviations of its scores on the start's replies, so that PMs can be compared.
    """

    episodes: int
    batches: int | None = Field(None, description="that the run has trained on")
    kl: Interval | None = Field(None, description="of the last snapshot, nats a reply")
    root_kl: float | None = None
    clip_fraction: float | None = Field(None, description="mean over the run's batches")
    moved_kl: float | None = Field(None, description="nats a token that one batch moved the policy, at most")
    explained_variance: float | None = Field(None, description="of the value model; mean over the last half")
    entropy_ratio: float | None = Field(None, description="last batches' entropy over the first batch's")
    score_trend: float | None = Field(None, description="rise on training prompts, first to last batches")
    rise: Interval | None = Field(None, description="of the PM trained against, last snapshot over the start")
    held_out_rises: Mapping[str, Interval] = Field(default={}, description="of PMs that watch")
    best_of_16: Interval | None = Field(None, description="rise of the best of 16 replies of the start, by that PM")
    best_of_16_held_out: Mapping[str, Interval] = Field(default={}, description="what the others give those replies")
    agreement: Mapping[str, Interval] = Field(
        default={}, description="pairs of the start's replies to one prompt that another PM orders alike; 0.5 is chance"
    )
    held_out_agreement: Interval | None = Field(None, description="of two PMs that watch, where there are two")
    learned: Interval | None = Field(None, description="accuracy on its training pairs, each before it was learned")
    reread: Interval | None = Field(None, description="accuracy on some of its training pairs now")
    judged: Interval | None = Field(None, description="accuracy on people's judgments of this policy's answers")
    gold: Interval | None = Field(None, description="agreement with the known preference on the start's replies")
    length_correlation: Interval | None = Field(None, description="score and tokens of replies to one prompt")
    length_correlation_held_out: float | None = None
    tokens: tuple[Interval, Interval] | None = Field(None, description="of a reply, start and end")
    stopped: tuple[Interval, Interval] | None = Field(None, description="share of replies that end, start and end")
    repeated: tuple[Interval, Interval] | None = Field(
        None, description="share of replies in which a run of four words comes again, start and end"
    )
    commonest: tuple[Interval, Interval] | None = Field(
        None, description="share of replies with the commonest five words in a row, start and end"
    )
    score_spread: float | None = Field(None, description="deviation of the PM's scores at the end over the start's")
    start_quality: Interval | None = Field(
        None, description="the start's mean score less that of the replies the PM learned from, in their deviations"
    )
    far: tuple[Interval, Interval] | None = Field(
        None, description="share of replies further from the PM's training data than 99% of that, start and end"
    )
    parameters: Mapping[str, int] = Field(default={}, description="of policy, PM and those that watch")
    layers: Mapping[str, int] = Field(default={})
    formats: Mapping[str, str] = Field(default={}, description="how each writes a conversation")
    same_vocabulary: bool | None = Field(None, description="policy and PM have the same tokens")
    other_layout: Mapping[str, Interval] = Field(
        default={}, description="nats a token that another way of writing conversations would save each model"
    )
    training_prompts: int | None = None
    alarms: tuple[str, ...] = ()
    unknown: Mapping[str, str] = Field(default={}, description="what could not be measured, and why")


class Finding(Noun):
    """One cause that the evidence speaks for."""

    cause: Cause
    side: Side
    sentence: str = Field(description="what is wrong, in plain words")
    evidence: tuple[str, ...] = Field(description="sentences with numbers")
    next: tuple[str, ...] = Field(description="what to do, the first thing first")


class Diagnosis(Noun):
    """The answer to "is it the PM or the policy?"."""

    run: str
    cause: Cause | None = Field(description="the one that explains most; None: nothing was found to be wrong")
    answer: str
    findings: tuple[Finding, ...] = Field(description="the named cause first")
    healthy: tuple[str, ...] = Field(description="what was looked at and is in order")
    evidence: Evidence
