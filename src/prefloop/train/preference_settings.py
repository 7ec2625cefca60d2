"""What can be set in a preference-model run, and what each setting means. Knows no model and no training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from prefloop.config import DEVICE, NAME, Config, Seed
from prefloop.errors import ConfigError
from prefloop.schema import HELD_OUT_SHARE, Mode, Tranche

__all__ = ["PreferenceRun"]


class PreferenceRun(Config):
    """`prefloop train preference RUN.toml`."""

    name: str = Field("pm", pattern=NAME, description="goes into the names of the run folder and the snapshot")
    start: Path = Field(description="Hugging Face folder: a language model (fresh head) or a PM (PM pre-training)")
    sandbox_contrasts: int = Field(
        0, ge=0, description="contrast pairs of the tiny world (PM pre-training); 0 takes the workspace's judgments"
    )
    sandbox_judgments: int = Field(
        0, ge=0, description="simulated judgments of the tiny chat model's replies instead of the workspace's"
    )
    ranked_files: tuple[Path, ...] = Field(
        (), description="ranked answers (PM pre-training): Stack Exchange's Posts.xml or JSON lines, plain or gzipped"
    )
    ranked_binary: bool = Field(True, description="each ranked A > B as GOOD: A > BAD: A and BAD: B > GOOD: B")
    ranked_pairs_per_question: int = Field(4, ge=1, description="ranked pairs drawn from one question at most")
    half: Literal["a", "b"] | None = Field(None, description="only this half of the conversations (paper 4.2)")
    mode: Mode | None = Field(None, description="only comparisons of this mode; empty takes both")
    tranche: Tranche | None = Field(None, description="only comparisons of this tranche; empty takes all")
    held_out_share: float = Field(
        HELD_OUT_SHARE, ge=0.0, lt=1.0, description="share of conversations kept for evaluation"
    )
    lora_rank: int = Field(
        0, ge=0, description="of LoRA adapters, which then learn alone, with the head; 0: all learns"
    )
    lora_scale: float = Field(2.0, gt=0.0, description="of the adapters (alpha / rank)")
    shard: bool = Field(False, description="split the weights over the processes of torchrun (FSDP2); saved whole")
    epochs: int = Field(1, ge=1, description="the paper's is 1, against overfitting")
    pairs_per_step: int = Field(32, ge=1, description="comparisons in an optimiser step")
    learning_rate: float = Field(3e-4, gt=0.0, description="about 3e-4 at 1 M parameters, 1e-5 at 7 B")
    learning_rate_fraction: float | None = Field(
        None,
        gt=0.0,
        description="of the language model's learning rate, in place of learning_rate (paper A.2: 0.1 in PM "
        "pre-training, 0.01 on human feedback)",
    )
    language_model_learning_rate: float | None = Field(
        None, gt=0.0, description="what that is a fraction of; empty: as the run recorded it that made the start"
    )
    schedule: Literal["constant", "cosine"] = Field("constant", description="after the warm-up; cosine ends at 0")
    warmup_steps: int = Field(5, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.01, ge=0.0, description="of matrices; norms do not decay")
    max_gradient_norm: float = Field(1.0, gt=0.0, description="longer gradients are shortened to this")
    label_smoothing: float = Field(0.0, ge=0.0, lt=0.5, description="share of judgments taken to be wrong")
    grade_probabilities: tuple[float, ...] = Field(
        (), max_length=4, description="chance that the chosen reply is better, by grade from 'much better' on; empty: 1"
    )
    worker_weights: Path | None = Field(
        None, description="JSON file of worker id to weight (at least 0, 0 leaves out); others weigh 1"
    )
    red_team_weight: float = Field(
        1.0, ge=0.0, description="lambda: weight of red-team comparisons beside helpful ones (paper 5.1)"
    )
    red_team_share: float | None = Field(
        None, ge=0.0, le=1.0, description="share of red-team comparisons in training; empty takes what is there"
    )
    tranche_weights: dict[Tranche, float] = Field(
        {}, description="weight of the comparisons of a tranche; those that it does not name weigh 1"
    )
    tranche_shares: dict[Tranche, float] = Field(
        {}, description="shares of tranches in training, 1 in all, of both modes alike; empty takes what is there"
    )
    mix_pairs: int = Field(
        0, ge=0, description="comparisons of a mix with red_team_share or tranche_shares; 0: as many as these allow"
    )
    training_pairs: int = Field(
        0, ge=0, description="comparisons to train on at most, drawn by seed, the fewer within the more; 0 takes all"
    )
    centring: float = Field(
        0.0, ge=0.0, description="weight of the squared mean score of a comparison: holds the zero of the scores"
    )
    language_weight: float = Field(
        0.0, ge=0.0, description="of the language-model loss on the chosen texts, beside the preference loss"
    )
    freeze_embeddings: bool = Field(
        False, description="token embeddings stay the start's: faster with a large vocabulary, and few data wear none"
    )
    start_scale: float = Field(
        1.0, gt=0.0, description="multiplies the head of a PM to start from: a less sure start unlearns sooner"
    )
    start_share: float = Field(
        0.0, ge=0.0, lt=1.0, description="of the start's weights in the written model: few judgments forget less"
    )
    max_context_tokens: int = Field(
        1024, ge=8, description="conversation and reply; the oldest turns are dropped; stays with the model"
    )
    row_tokens: int | None = Field(
        None, ge=16, description="length of a packed row; empty: long, or short where attention needs a mask"
    )
    tokens_per_forward: int = Field(
        16_384, ge=16, description="tokens (before sharing) computed at once: memory, never the result"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="autocast of the forward and backward pass; auto takes bfloat16 where it is faster"
    )
    saved_dtype: Literal["float32", "float16", "bfloat16"] = Field(
        "float32", description="of the written weights; adapters: float32"
    )
    evaluate_every_steps: int = Field(0, ge=0, description="steps between looks at the held-out pairs; 0: at the end")
    checkpoint_every_steps: int = Field(100, ge=1, description="steps that a killed run loses at most")
    device: str = Field("auto", pattern=DEVICE, description="'auto' takes a GPU if there is one")
    seed: Seed = Field(0, description="of a fresh head, the order, a mix and simulated data")

    @property
    def peak_learning_rate(self) -> float:
        """Of the optimiser after the warm-up.

        Errors:
            ConfigError: a fraction of a rate that nobody filled in.
        """
        if self.learning_rate_fraction is None:
            return self.learning_rate
        if self.language_model_learning_rate is None:
            raise ConfigError(
                f"learning_rate_fraction = {self.learning_rate_fraction:g} needs language_model_learning_rate; set it."
            )
        return self.learning_rate_fraction * self.language_model_learning_rate

    @field_validator("tranche_weights")
    @classmethod
    def _weights_are_positive(cls, weights: dict[Tranche, float]) -> dict[Tranche, float]:
        if any(weight < 0 for weight in weights.values()):
            raise ValueError("a weight is a number of at least 0")
        return weights

    @field_validator("tranche_shares")
    @classmethod
    def _shares_are_of_one(cls, shares: dict[Tranche, float]) -> dict[Tranche, float]:
        if shares and (min(shares.values()) < 0 or not math.isclose(sum(shares.values()), 1)):
            raise ValueError("shares are numbers of at least 0 that sum to 1")
        return shares

    @field_validator("grade_probabilities")
    @classmethod
    def _better_is_likelier(cls, chances: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0.5 <= chance <= 1 for chance in chances):
            raise ValueError("the chosen reply is the better one with a chance from 0.5 to 1")
        return chances
