"""What can be set in a policy run, and what each setting means. Knows no model and no training."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from prefloop.config import DEVICE, NAME, Config, Seed
from prefloop.losses import LARGEST_KL_ERROR
from prefloop.train.gauges import Watching
from prefloop.train.prompt_mix import PromptMix

__all__ = ["PolicyRun"]


class PolicyRun(Config):
    """`prefloop train policy RUN.toml`."""

    name: str = Field("policy", pattern=NAME, description="goes into the names of the run folder and the snapshots")
    policy: Path = Field(description="Hugging Face folder of the policy to start from; it is the reference too")
    preference_model: Path = Field(description="the PM that gives the reward")
    held_out_preference_model: Path = Field(
        description="a PM trained on other data: it watches, and picks the snapshot"
    )
    watching_preference_models: Watching = Field(
        {}, description="further PMs by name (other half, other sizes) that score every snapshot and choose nothing"
    )
    gold: bool = Field(
        False, description="sandbox: the known preference scores every snapshot too; training never sees it"
    )
    episodes: int = Field(3072, ge=1, description="replies trained on, rounded up to whole batches")
    episodes_per_batch: int = Field(256, ge=2, description="replies between two looks at fresh samples")
    samples_per_prompt: int = Field(1, ge=1, description="replies to one prompt in a batch; more are cheaper")
    epochs: int = Field(2, ge=1, description="passes over each batch (the paper's K: 1, 2 or 4)")
    prompts: PromptMix = PromptMix()
    minibatches: int = Field(4, ge=1, description="optimiser steps an epoch")
    max_response_tokens: int = Field(64, ge=1, description="a longer reply is cut off")
    learning_rate: float = Field(2e-4, gt=0.0, description="of the policy; about 2e-4 at 1 M parameters, 1e-6 at 7 B")
    value_learning_rate: float = Field(5e-4, gt=0.0, description="of the value model")
    learning_rate_warmup_episodes: int = Field(0, ge=0, description="linear from 0")
    halve_learning_rate_every_episodes: int = Field(0, ge=0, description="0 never; the paper's online runs 100,000")
    value_warmup_batches: int = Field(0, ge=0, description="first batches in which the value model alone learns")
    lora_rank: int = Field(
        0, ge=0, description="of LoRA adapters, which alone are trained then, over shared weights; 0 trains everything"
    )
    lora_scale: float = Field(2.0, gt=0.0, description="of the adapters (alpha / rank)")
    kl_coefficient: float = Field(0.02, ge=0.0, description="reward units per nat; where it starts with kl_target")
    kl_target: float | None = Field(None, gt=0.0, description="nats a reply that the coefficient steers to")
    kl_horizon_episodes: int = Field(
        10_000, ge=1, description="how slowly kl_target steers, above a fifth of episodes_per_batch; more is slower"
    )
    normalise: Literal["reference", "none"] = Field("reference", description="scale of the score within the reward")
    no_end_penalty: float = Field(1.0, ge=0.0, description="reward units taken off a reply that did not stop")
    gamma: float = Field(1.0, gt=0.0, le=1.0, description="discount per token; the paper's is 1")
    gae_lambda: float = Field(0.95, ge=0.0, le=1.0, description="1 takes whole returns, 0 one step")
    clip: float = Field(0.2, gt=0.0, description="of the probability ratio")
    value_clip: float | None = Field(None, gt=0.0, description="reward units that a value may move on one batch")
    max_gradient_norm: float = Field(1.0, gt=0.0, description="longer gradients are shortened to this")
    snapshots: int = Field(8, ge=1, description="saved and evaluated evenly along the run, besides the start")
    snapshot_every_root_kl: float = Field(
        0.0, ge=0.0, description="also whenever sqrt(KL) passes a multiple of this (square root of nats); 0 never"
    )
    checkpoint_every_batches: int = Field(4, ge=1, description="batches that a killed run loses at most")
    row_tokens: int = Field(
        128, ge=16, description="length of a packed row; short rows are cheap on a CPU, on a GPU take 2048"
    )
    tokens_per_forward: int = Field(
        1536, ge=16, description="bounds memory; on a CPU more is hardly faster, on a GPU take 16384"
    )
    shard: bool = Field(
        False, description="split policy and value model over the processes of torchrun (FSDP2); saved whole"
    )
    sampler_url: str | None = Field(
        None, description="a server that draws the replies: prefloop's model server, or vLLM; empty draws them here"
    )
    sampler_model: str = Field("rollout", description="the name under which that server serves the policy")
    sampler_folder: Path | None = Field(
        None, description="a folder that the server sees under the same path; the weights of each batch go there"
    )
    sampler_requests: int = Field(
        64, ge=1, description="prompts asked for at once; with 1, replies of the own server are the same bit for bit"
    )
    sampler_patience_seconds: float = Field(
        300.0, ge=0.0, description="how long a server that went away is waited for before the run stops"
    )
    importance_limit: float = Field(
        2.0, ge=1.0, description="a token's weight is cut here where that server thought it less likely than the policy"
    )
    workers: int = Field(0, ge=0, description="jobs side by side on a CPU; 0 takes 2 where there are 2 cores")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the products while drawing, scoring and updating; weights and evaluations stay in float32",
    )
    device: str = Field("auto", pattern=DEVICE, description="'auto' takes a GPU if there is one")
    seed: Seed = Field(0, description="of prompts, samples and minibatches")

    @property
    def steps_per_batch(self) -> int:
        """Optimiser steps on one batch; samples of one prompt stay together, so it has no more parts than prompts."""
        return self.epochs * min(self.minibatches, self.episodes_per_batch // self.samples_per_prompt)

    @model_validator(mode="after")
    def _kl_can_be_steered(self) -> Self:
        # The coefficient is steered by factors: at 0 it stays, and a factor of 0 or less would leave it there.
        if self.kl_target is None:
            return self
        if self.kl_coefficient == 0:
            raise ValueError(
                f"kl_target = {self.kl_target:g} multiplies kl_coefficient, which is 0 and would stay so; set it above "
                "0, or leave kl_target empty"
            )
        least = LARGEST_KL_ERROR * self.episodes_per_batch
        if self.kl_horizon_episodes <= least:
            raise ValueError(
                f"kl_horizon_episodes = {self.kl_horizon_episodes} lets one batch of {self.episodes_per_batch} "
                f"episodes take kl_coefficient to 0, where it would stay; set it above {least:g}"
            )
        return self
