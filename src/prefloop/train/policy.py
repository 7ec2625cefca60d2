"""Training a policy against a preference model by PPO. One loop, top to bottom; formulas live in `losses`.

A batch: sample replies, score them by both PMs, the reference and the value model, form rewards and advantages, take
the optimiser steps of policy and value model, log, and at times snapshot, evaluate and checkpoint.

Where this departs from the paper (4.1, B.1), or fills in what it leaves open:
 1. The reward is the PM score shifted and scaled to mean 0 and deviation 1 on replies of the starting policy
    (`normalise`); the paper takes the raw score. The PM is read at the end token of the reply, as in training.
 2. A reply that runs into the limit is scored as if it ended there, less `no_end_penalty`; the paper does not say.
 3. The KL penalty (k1) is spent token by token, from the log-probabilities recorded while sampling; its coefficient
    defaults to more than the paper's 0.001, which holds for PMs that are harder to fool.
 4. The value model is a trunk of its own that starts from the PM, with its own optimiser; lambda of GAE is 0.95, and
    advantages are whitened over the batch. The paper describes neither.
 5. Several replies to one prompt may stand in a batch (`samples_per_prompt`), the prompt computed once. 1 is the
    paper's.
 6. Optimiser: Adam, epsilon 1e-5, gradient norm clipped. Linear warm-up and halving every so many episodes, as in
    the paper's robustness and online runs.
As in the paper: one reply is an episode, clip 0.2, gamma 1, no entropy bonus, temperature 1, no top-p and no top-k.

Everything drawn at random has a seed of its own, derived from the run's: a resumed run needs no generator's state.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from prefloop.config import NAME, Config
from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.losses import (
    explained_variance,
    generalised_advantages,
    masked_mean,
    sequence_kl,
    token_rewards,
    whitened,
)
from prefloop.models.checkpoint import latest_checkpoint, save_checkpoint
from prefloop.models.language import load_language_model, save_model, window_tokens
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import Prompt, encode_prompts, same_tokens
from prefloop.models.trie import require_exact
from prefloop.models.value import ValueModel
from prefloop.runs import RunFolder
from prefloop.schema import Message, Noun
from prefloop.train.alarms import Alarms
from prefloop.train.gauges import Gauges, Watching
from prefloop.train.policy_report import write_report
from prefloop.train.ppo_update import Learner, TrainingBatch, plan_minibatches
from prefloop.train.rollout import Budget, Models, Rollout, Workers, collect, derived_seed
from prefloop.train.snapshots import Evaluated, Gold, PolicySnapshot, evaluate_snapshot

_log = logging.getLogger(__name__)


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
    episodes: int = Field(3072, ge=1, description="replies trained on, rounded up to whole batches")
    episodes_per_batch: int = Field(256, ge=2, description="replies between two looks at fresh samples")
    samples_per_prompt: int = Field(1, ge=1, description="replies to one prompt in a batch; more are cheaper")
    epochs: int = Field(2, ge=1, description="passes over each batch (the paper's K: 1, 2 or 4)")
    minibatches: int = Field(4, ge=1, description="optimiser steps an epoch")
    max_response_tokens: int = Field(64, ge=1, description="a longer reply is cut off")
    learning_rate: float = Field(2e-4, gt=0.0, description="of the policy; about 2e-4 at 1 M parameters, 1e-6 at 7 B")
    value_learning_rate: float = Field(5e-4, gt=0.0, description="of the value model")
    learning_rate_warmup_episodes: int = Field(0, ge=0, description="linear from 0")
    halve_learning_rate_every_episodes: int = Field(0, ge=0, description="0 never; the paper's online runs 100,000")
    value_warmup_batches: int = Field(0, ge=0, description="first batches in which the value model alone learns")
    kl_coefficient: float = Field(0.02, ge=0.0, description="reward units per nat")
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
    row_tokens: int = Field(128, ge=16, description="length of a packed row; short rows are cheap on a CPU")
    tokens_per_forward: int = Field(
        4096, ge=16, description="bounds memory; on a CPU parts that fit the cache are fast"
    )
    workers: int = Field(0, ge=0, description="jobs side by side on a CPU; 0 takes 2 where there are 2 cores")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="autocast of the updates; sampling stays as it is"
    )
    device: str = Field("auto", pattern="^(auto|cpu|cuda(:[0-9]+)?)$", description="'auto' takes a GPU if there is one")
    seed: int = Field(0, description="of prompts, samples and minibatches")


class PolicyResult(Noun):
    """What a run gives."""

    snapshots: tuple[PolicySnapshot, ...] = Field(description="the first is the start, with 0 episodes")
    best: PolicySnapshot = Field(description="highest held-out PM score on the evaluation prompts: the one to deploy")
    alarms: tuple[str, ...] = Field(description="reasons, in order")
    report: str = Field(description="path of the HTML report")


def train_policy(
    run: PolicyRun,
    prompts: Sequence[Sequence[Message]],
    folder: RunFolder,
    evaluation_prompts: Sequence[Sequence[Message]],
    *,
    resume: bool = False,
    gold: Gold | None = None,
    progress: Callable[..., Any] = tqdm,
) -> PolicyResult:
    """Trains; writes `folder/snapshots/episodes-*`, metrics, checkpoints and `folder/report.html`.

    Args:
        prompts: contexts that end with the person's turn, of the PM's training split.
        evaluation_prompts: others, the same at every snapshot.
        gold: a known preference that training never sees, for the record (sandbox).

    Errors:
        ConfigError: a batch that the prompts or the settings cannot make.
        DataError: no prompts, or a run resumed on other prompts than it began with.
        ModelError: a model that cannot be used, or a PM whose scores are not numbers.
        TrainingError: a loss or a gradient is not finite; the last checkpoint stays.
    """
    device = _device(run.device)
    models = _load(run, device)
    watching = Gauges.load(run.watching_preference_models, run.row_tokens, device)
    room, given = _room_tokens(run, models, *watching.values()), (prompts, evaluation_prompts)
    training, evaluation = (encode_prompts(models.renderer, part, room).prompts for part in given)
    order = _PromptOrder(training, run)
    budget = Budget(run.row_tokens, run.tokens_per_forward)
    batches = -(-run.episodes // run.episodes_per_batch)
    steps_per_batch = run.epochs * min(run.minibatches, order.prompts_per_batch)
    snapshot_batches = {round(batches * (i + 1) / run.snapshots) for i in range(run.snapshots)} - {0}
    fingerprint = _fingerprint(training, evaluation)

    with _workers(run, device) as workers:

        def evaluate(episodes: int, path: Path) -> Evaluated:
            seed = derived_seed(run.seed, "evaluation")  # the same at every snapshot
            evaluated = evaluate_snapshot(
                models, evaluation, episodes, str(path), run.max_response_tokens, seed, budget, workers, gold, watching
            )
            gauges.keep(evaluation, episodes, evaluated.replies)
            return evaluated

        checkpoint = latest_checkpoint(folder.checkpoints) if resume else None
        mark = checkpoint.state.get("root_kl_mark", 0) if checkpoint else 0
        gauges = Gauges(folder, watching, run.snapshot_every_root_kl, mark)
        if checkpoint is None:
            folder.rewind(-1)
            start = evaluate(0, run.policy)
            folder.log({"step": 0, "episodes": 0} | start.snapshot.metrics())
            state: dict[str, Any] = {"batch": 0, "alarms": None, "score_scale": _score_scale(run, start.scores_train)}
            snapshots = [start.snapshot]
        else:
            state = checkpoint.state
            if state["prompts"] != fingerprint:
                raise DataError(f"{folder.path} was started on other prompts; resume it with its own, or start anew.")
            folder.rewind(checkpoint.step)
            snapshots = [PolicySnapshot.model_validate(row) for row in state["snapshots"]]
        mean, std = state["score_scale"]
        alarms = Alarms(snapshots[0].reply_tokens, snapshots[0].stopped, run.dtype, state["alarms"])
        value = _value_model(models, mean, std)
        if run.dtype == "bfloat16" and device.type == "cpu":
            for model in (models.policy, value.trunk):  # torch's fused attention is slow in bfloat16 there
                model.set_attn_implementation("eager")
        learner = Learner(
            models.policy,
            value,
            clip=run.clip,
            value_clip=run.value_clip,
            max_gradient_norm=run.max_gradient_norm,
            autocast=lambda: torch.autocast(device.type, torch.bfloat16, enabled=run.dtype == "bfloat16"),
        )
        if checkpoint is not None:
            learner.load(checkpoint, state["optimizers"])

        bar = progress(range(state["batch"], batches), initial=state["batch"], total=batches, desc=f"train {run.name}")
        for index in bar:
            clock = _Stopwatch()
            rollout = collect(
                models,
                learner.value,
                order.batch(index),
                run.samples_per_prompt,
                run.max_response_tokens,
                derived_seed(run.seed, "rollout", index),
                budget,
                workers,
                on_sampled=partial(clock.lap, "sampling"),
            )
            clock.lap("scoring")

            rewards_at_end = (rollout.scores - mean) / std - run.no_end_penalty * ~rollout.is_stopped
            rewards = token_rewards(
                rewards_at_end, rollout.logp_rollout, rollout.logp_reference, rollout.is_response, run.kl_coefficient
            )
            advantages, returns = generalised_advantages(
                rewards, rollout.values, rollout.is_response, run.gamma, run.gae_lambda
            )
            batch = TrainingBatch(
                rollout.is_response,
                rollout.logp_rollout,
                rollout.values,
                whitened(advantages, rollout.is_response),
                returns,
            )

            seed = derived_seed(run.seed, "minibatches", index)
            plan = plan_minibatches(rollout, run.epochs, run.minibatches, budget, seed, device)
            rate = _schedule(run, index * run.episodes_per_batch)
            jobs: list[Callable[[], Any]] = [partial(learner.update_value, plan, batch, run.value_learning_rate * rate)]
            if index >= run.value_warmup_batches:
                jobs.append(partial(learner.update_policy, plan, batch, run.learning_rate * rate))
            updates = workers.run(*jobs)
            clock.lap("update")

            done = index + 1
            step, episodes = done * steps_per_batch, done * run.episodes_per_batch
            row = {"step": step, "episodes": episodes} | _rollout_metrics(rollout, rewards, returns)
            for group, update in zip(("value", "policy"), updates, strict=False):
                row |= {f"{group}/{name}": value for name, value in update._asdict().items()}
            row |= {"policy/learning_rate": run.learning_rate * rate, "kl/coefficient": run.kl_coefficient}
            folder.log(row | clock.metrics(run.episodes_per_batch))
            for name, reason in alarms.check(row):
                _log.warning("%s at %d episodes: %s", name, episodes, reason)
                folder.log({"step": step, "episodes": episodes, "alarm/name": name, "alarm/reason": reason})
            bar.set_postfix(score=f"{row['score/train']:.3f}", kl=f"{row['kl/k1']:.2f}")

            is_snapshot = gauges.is_due(row["kl/k1"]) or done in snapshot_batches
            if is_snapshot:
                path = folder.path / "snapshots" / f"episodes-{episodes:08d}"
                save_model(models.policy, models.renderer.tokenizer, path)
                snapshots.append(evaluate(episodes, path).snapshot)
                folder.log({"step": step, "episodes": episodes} | snapshots[-1].metrics())
            if is_snapshot or done % run.checkpoint_every_batches == 0 or done == batches:
                tensors, optimizers = learner.state()
                facts = {
                    "batch": done,
                    "score_scale": [mean, std],
                    "snapshots": [snapshot.model_dump(mode="json") for snapshot in snapshots],
                    "alarms": alarms.state(),
                    "root_kl_mark": gauges.mark,
                    "optimizers": optimizers,
                    "prompts": fingerprint,
                }
                save_checkpoint(folder.checkpoints, step, tensors, facts)

    best = max(snapshots, key=lambda snapshot: snapshot.score_held_out.value)
    report = write_report(folder, run.name, snapshots, best, alarms.reasons)
    return PolicyResult(snapshots=tuple(snapshots), best=best, alarms=tuple(alarms.reasons), report=str(report))


class _PromptOrder:
    """Which prompts make a batch: all of them in a random order before any comes again.

    Errors:
        ConfigError: the batch is no multiple of the samples of a prompt.
    """

    def __init__(self, prompts: Sequence[Prompt], run: PolicyRun) -> None:
        self.prompts_per_batch, rest = divmod(run.episodes_per_batch, run.samples_per_prompt)
        if rest:
            raise ConfigError(
                f"episodes_per_batch = {run.episodes_per_batch} is no multiple of samples_per_prompt = "
                f"{run.samples_per_prompt}; change one of them."
            )
        self._prompts, self._seed = prompts, run.seed
        self._epoch, self._order = -1, list[int]()

    def batch(self, index: int) -> list[Prompt]:
        """The prompts of one batch; what came before does not matter."""
        start = index * self.prompts_per_batch
        return [self._at(place) for place in range(start, start + self.prompts_per_batch)]

    def _at(self, place: int) -> Prompt:
        epoch, within = divmod(place, len(self._prompts))
        if self._epoch != epoch:
            generator = np.random.default_rng(derived_seed(self._seed, "prompts", epoch))
            self._epoch, self._order = epoch, generator.permutation(len(self._prompts)).tolist()
        return self._prompts[self._order[within]]


class _Stopwatch:
    """Seconds of the parts of a batch."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name], self._last = now - self._last, now

    def metrics(self, episodes: int) -> dict[str, float]:
        total = sum(self._seconds.values())
        return {f"time/{name}_seconds": value for name, value in self._seconds.items()} | {
            "time/episodes_per_second": episodes / total
        }


def _rollout_metrics(rollout: Rollout, rewards: Tensor, returns: Tensor) -> dict[str, float]:
    kl = sequence_kl(rollout.logp_rollout, rollout.logp_reference, rollout.is_response)
    return {
        "score/train": rollout.scores.mean().item(),
        "score/train_std": rollout.scores.std().item(),
        "score/held_out": rollout.held_out_scores.mean().item(),
        "reward/mean": rewards.sum(-1).mean().item(),
        "kl/k1": kl.k1.mean().item(),
        "kl/k1_standard_error": kl.k1.std().item() / len(kl.k1) ** 0.5,
        "kl/k3": kl.k3.mean().item(),
        "reply/tokens": rollout.reply_tokens.mean().item(),
        "reply/stopped": rollout.is_stopped.float().mean().item(),
        "policy/entropy": -masked_mean(rollout.logp_rollout, rollout.is_response).item(),
        "value/explained_variance": explained_variance(rollout.values, returns, rollout.is_response),
    }


def _score_scale(run: PolicyRun, scores: Sequence[float]) -> tuple[float, float]:
    """Mean and deviation that make the starting policy's scores 0 and 1, or 0 and 1 themselves."""
    if run.normalise == "none":
        return 0.0, 1.0
    mean, std = float(np.mean(scores)), float(np.std(scores))
    if std < 1e-6:
        raise ModelError(
            f"{run.preference_model} gives all {len(scores)} replies of the starting policy the score {mean:.3g}, so "
            "there is nothing to learn from it; train it on more comparisons."
        )
    return mean, std


def _schedule(run: PolicyRun, episodes: int) -> float:
    """The factor on both learning rates for a batch that begins after `episodes`."""
    warmup = run.learning_rate_warmup_episodes
    rise = min(1.0, (episodes + run.episodes_per_batch) / warmup) if warmup else 1.0
    halve = run.halve_learning_rate_every_episodes
    return rise * (0.5 ** (episodes // halve) if halve else 1.0)


def _load(run: PolicyRun, device: torch.device) -> Models:
    policy, renderer = load_language_model(run.policy)
    require_exact(policy.base_model)
    policy.to(device)
    train, held_out = (
        PreferenceModel.load(path, row_tokens=run.row_tokens)
        for path in (run.preference_model, run.held_out_preference_model)
    )
    for judge in (train, held_out):
        judge.model.requires_grad_(False).to(device)
    return Models(policy, copy.deepcopy(policy).requires_grad_(False), train, held_out, renderer)


def _value_model(models: Models, mean: float, std: float) -> ValueModel:
    """Started from the PM where that reads the policy's tokens, otherwise from the policy's trunk."""
    pm = models.preference_model
    if pm.shares_beginnings and same_tokens(pm.renderer, models.renderer):
        return ValueModel.from_preference_model(pm, mean, std)
    difference = "has another tokenizer than the policy" if pm.shares_beginnings else "shares no beginnings"
    _log.warning("The preference model %s: the value model starts at 0.", difference)
    return ValueModel.from_policy(models.reference)


def _room_tokens(run: PolicyRun, models: Models, *watching: PreferenceModel) -> int:
    """What is left for a prompt in the windows of policy and PMs."""
    judges = (models.preference_model, models.held_out, *watching)
    windows = [window_tokens(models.policy), *(judge.max_tokens for judge in judges)]
    room = min(windows) - run.max_response_tokens - 1  # 1: the end token that closes a cut reply for the PMs
    if room < 1:
        raise ConfigError(
            f"max_response_tokens = {run.max_response_tokens} leaves no room for a prompt in a window of "
            f"{min(windows)} tokens; lower it."
        )
    return room


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device = {name!r}, and this machine has no GPU that torch can use; set device = 'cpu'.")
    return torch.device(name)


def _workers(run: PolicyRun, device: torch.device) -> Workers:
    """Two jobs with half the cores each: independent forwards side by side waste less than one forward on all cores."""
    cores = torch.get_num_threads()
    count = 1 if device.type != "cpu" else run.workers or min(2, cores)
    return Workers(count, max(1, cores // count))


def _fingerprint(*prompts: Sequence[Prompt]) -> str:
    text = repr([[prompt.ids for prompt in part] for part in prompts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
