"""Settings of a round. The defaults are those of the demo on two cores; a deployment writes its own file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from prefloop.config import Config, Seed


class CollectionSettings(Config):
    """Judging: by simulated workers through the page's own routes, or by people who were invited."""

    people: Literal["simulated", "invited"] = Field(
        "simulated", description="'invited': the round waits until people have judged; resume it then"
    )
    helpful_comparisons: int = Field(2700, ge=1, description="comparisons to collect in helpful mode")
    red_team_comparisons: int = Field(1600, ge=0, description="comparisons to collect in red-team mode")
    compared: int = Field(400, ge=1, description="comparisons between the new snapshot and its start, for Elo")
    overlap: float = Field(0.04, ge=0.0, le=1.0, description="share of comparisons that a second worker judges too")
    turns_per_conversation: int = Field(2, ge=1, description="comparisons in one conversation")
    workers: int = Field(24, ge=1, description="simulated workers")
    careless: float = Field(0.05, ge=0.0, le=1.0, description="simulated: share of judgments given at random")
    temperature: float = Field(1.0, gt=0.0, description="simulated: of the Bradley-Terry noise, gold units")
    seconds_per_judgment: float = Field(0.0, ge=0.0, description="simulated: time a judgment takes")


class PreferenceSettings(Config):
    """The two PMs of a round, one on each half of the judgments (paper 4.2)."""

    epochs: int = Field(2, ge=1, description="passes over the judgments")
    pairs_per_step: int = Field(16, ge=1, description="comparisons in an optimiser step")
    learning_rate: float = Field(4e-4, gt=0.0, description="peak")
    schedule: Literal["constant", "cosine"] = Field("cosine", description="after the warm-up; cosine ends at 0")
    label_smoothing: float = Field(0.1, ge=0.0, lt=0.5, description="share of judgments taken to be wrong")
    start_scale: float = Field(0.3, gt=0.0, description="multiplies the head of a PM to start from")
    start_share: float = Field(0.0, ge=0.0, lt=1.0, description="of the start's weights in the PM that is kept")
    pre_training_pairs: int = Field(
        900, ge=0, description="sandbox: pairs of PM pre-training mixed into each half, so that it is not forgotten"
    )


class PolicySettings(Config):
    """PPO against the first PM, watched by the second."""

    episodes: int = Field(4608, ge=1, description="replies trained on")
    episodes_per_batch: int = Field(256, ge=2, description="replies between two looks at fresh samples")
    samples_per_prompt: int = Field(2, ge=1, description="replies to one prompt in a batch; more are cheaper")
    epochs: int = Field(2, ge=1, description="passes over each batch")
    minibatches: int = Field(4, ge=1, description="optimiser steps an epoch")
    learning_rate: float = Field(2e-4, gt=0.0, description="of the policy")
    value_learning_rate: float = Field(5e-4, gt=0.0, description="of the value model")
    kl_coefficient: float = Field(0.2, ge=0.0, description="reward units per nat")
    max_response_tokens: int = Field(80, ge=1, description="a longer reply is cut off")
    snapshots: int = Field(6, ge=1, description="saved and evaluated evenly along the run")
    extra_prompts: int = Field(2000, ge=0, description="sandbox: prompts drawn beside those of the judgments")
    evaluation_prompts: int = Field(256, ge=8, description="the same at every snapshot; never trained on")


class EvaluationSettings(Config):
    """Sandbox only: what is measured against the known truth at the end."""

    pairs: int = Field(2100, ge=2, description="held-out pairs for the preference models")
    prompts: int = Field(500, ge=2, description="held-out prompts for the win rate")


class RoundSettings(Config):
    """`prefloop round start ROUND.toml`; `prefloop demo` runs the defaults."""

    collection: CollectionSettings = CollectionSettings()
    preference: PreferenceSettings = PreferenceSettings()
    policy: PolicySettings = PolicySettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    seed: Seed = Field(0, description="draws all prompts, people and noise")
