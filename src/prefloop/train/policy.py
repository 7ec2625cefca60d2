"""Training a policy against a preference model by PPO. One loop, top to bottom; formulas live in `losses`.

A batch: sample replies, score them by both PMs, the reference and the value model, form rewards and advantages, take
the optimiser steps of policy and value model, log, and at times snapshot, evaluate and checkpoint.

Where this departs from the paper (4.1, B.1), or fills in what it leaves open:
 1. The reward is the PM score shifted and scaled to mean 0 and deviation 1 on replies of the starting policy
    (`normalise`); the paper takes the raw score. The PM is read at the end token of the reply, as in training.
 2. A reply that runs into the limit is scored as if it ended there, less `no_end_penalty`; the paper does not say.
 3. The KL penalty (k1) is spent token by token, from the log-probabilities recorded while sampling; its coefficient
    defaults to more than the paper's 0.001, which holds for PMs that are harder to fool. With `kl_target` it is moved
    after each batch so that the KL of a reply comes to that target (Ziegler et al. 2019); the paper's is fixed.
 4. The value model is a trunk of its own that starts from the PM, with its own optimiser; lambda of GAE is 0.95, and
    advantages are whitened over the batch. The paper describes neither.
 5. Several replies to one prompt may stand in a batch (`samples_per_prompt`), the prompt computed once. 1 is the
    paper's.
 6. With `sampler_url` a server draws the replies, from weights that it is sent after each batch. What it recorded is
    kept, and truncated importance weights on the policy's loss pay for its rounding; all else is computed here.
 7. Optimiser: Adam, epsilon 1e-5, gradient norm clipped. Linear warm-up and halving every so many episodes, as in
    the paper's robustness and online runs.
As in the paper: one reply is an episode, clip 0.2, gamma 1, no entropy bonus, temperature 1, no top-p and no top-k.

Everything drawn at random has a seed of its own, derived from the run's: a resumed run needs no generator's state.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from prefloop.errors import DataError
from prefloop.losses import (
    ImportanceWeights,
    adapted_kl_coefficient,
    explained_variance,
    generalised_advantages,
    importance_weights,
    masked_mean,
    rank_correlation,
    sequence_kl,
    token_rewards,
    whitened,
)
from prefloop.models.checkpoint import latest_checkpoint, save_checkpoint
from prefloop.models.devices import device_named
from prefloop.models.language import save_model
from prefloop.models.responses import readable_prompts
from prefloop.runs import RunFolder
from prefloop.schema import Message, Noun
from prefloop.train.alarms import Alarm, Alarms
from prefloop.train.gauges import HELD_OUT, TRAIN, Gauges, scorer_role
from prefloop.train.policy_report import write_report
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.policy_setup import (
    PromptOrder,
    learned_models,
    learning_rate_factor,
    load_models,
    prompts_fingerprint,
    require_held_out_prompts,
    require_processes,
    room_tokens,
    run_workers,
    score_scale,
)
from prefloop.train.ppo_update import Learner, TrainingBatch, plan_minibatches
from prefloop.train.processes import Processes
from prefloop.train.rollout import Budget, Rollout, collect, derived_seed
from prefloop.train.sampler_link import SamplerLink
from prefloop.train.snapshots import Evaluated, Gold, PolicySnapshot, evaluate_snapshot
from prefloop.train.threads import own_threads_afterwards, take_threads

_log = logging.getLogger(__name__)


class PolicyResult(Noun):
    """What a run gives."""

    snapshots: tuple[PolicySnapshot, ...] = Field(description="the first is the start, with 0 episodes")
    best: PolicySnapshot = Field(description="highest held-out PM score on the evaluation prompts: the one to deploy")
    alarms: tuple[str, ...] = Field(description="reasons, in order")
    report: str = Field(description="path of the HTML report")


@own_threads_afterwards()
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

    Under torchrun the processes share each batch; the first writes the files, and its result is the run's.

    Errors:
        ConfigError: a batch that the prompts or the settings cannot make.
        DataError: no prompts, too few held-out ones to scale the scores by, or a run resumed on other prompts than it
            began with.
        ModelError: a model that cannot be used, or a PM whose scores are not numbers.
        TrainingError: a loss, a gradient or a weight is not finite; the last checkpoint stays.
    """
    processes = Processes.of_environment()
    require_processes(run, processes)
    take_threads(folder, processes)
    device = device_named(run.device)
    models = load_models(run, device)
    link = SamplerLink(run, models, folder.path.name, processes) if run.sampler_url else None
    models = replace(models, sampler=link.sampler if link else None)
    watching = Gauges.load(run.watching_preference_models, run.row_tokens, device)
    room, given = room_tokens(run, models, *watching.values()), (prompts, evaluation_prompts)
    judges = {TRAIN: models.preference_model, HELD_OUT: models.held_out, **watching}
    named = {scorer_role(name): judge for name, judge in judges.items()}
    (training, unread), (evaluation, _) = (
        readable_prompts(models.renderer, part, room, named, run.max_response_tokens) for part in given
    )
    require_held_out_prompts(run, evaluation)
    left_out = len(prompts) - len(training)
    order = PromptOrder(training, run)
    budget = Budget(run.row_tokens, run.tokens_per_forward)
    batches = -(-run.episodes // run.episodes_per_batch)
    snapshot_batches = {round(batches * (i + 1) / run.snapshots) for i in range(run.snapshots)} - {0}
    fingerprint = prompts_fingerprint(training, evaluation)

    checkpoint = latest_checkpoint(folder.checkpoints) if resume else None
    processes.wait()  # nobody writes before all have looked

    def autocast() -> torch.autocast:
        return torch.autocast(device.type, torch.bfloat16, enabled=run.dtype == "bfloat16")

    def ring(step: int, episodes: int, begun: Iterable[Alarm]) -> None:
        for name, reason in begun:
            _log.warning("%s at %d episodes: %s", name, episodes, reason)
            folder.log({"step": step, "episodes": episodes, "alarm/name": name, "alarm/reason": reason})

    with (
        run_workers(run, device, processes) as workers,
        processes.own_folder(folder) as folder,
        link or nullcontext(),
    ):

        def evaluate(batches_done: int, path: Path) -> Evaluated:
            step, episodes = batches_done * run.steps_per_batch, batches_done * run.episodes_per_batch
            seed = derived_seed(run.seed, "evaluation")  # the same at every snapshot
            began = time.perf_counter()
            evaluated = evaluate_snapshot(
                models, evaluation, episodes, str(path), run.max_response_tokens, seed, budget, workers, gold, watching
            )
            row = {"step": step, "episodes": episodes} | evaluated.snapshot.metrics()
            row |= {} if batches_done else {"prompts/training": len(training)}
            folder.log(row | {"time/evaluation_seconds": time.perf_counter() - began})
            gauges.keep(evaluation, episodes, evaluated.replies)
            return evaluated

        done = checkpoint.state["batch"] if checkpoint else 0
        bar = progress(range(done, batches), initial=done, total=batches, desc=f"train {run.name}")
        mark = checkpoint.state.get("root_kl_mark", 0) if checkpoint else 0
        gauges = Gauges(folder, watching, run.snapshot_every_root_kl, mark)
        if checkpoint is None:
            folder.rewind(-1)
            gauges.begin_anew()
            if link:
                link.send(0)
            bar.set_postfix(evaluating="start")
            start = evaluate(0, run.policy)
            state: dict[str, Any] = {
                "batch": 0,
                "alarms": None,
                "score_scale": score_scale(run, start.scores_train),
                "kl_coefficient": run.kl_coefficient,
            }
            snapshots = [start.snapshot]
        else:
            state = checkpoint.state
            if state["prompts"] != fingerprint:
                raise DataError(f"{folder.path} was started on other prompts; resume it with its own, or start anew.")
            folder.rewind(checkpoint.step)
            snapshots = [PolicySnapshot.model_validate(row) for row in state["snapshots"]]
        mean, std = state["score_scale"]
        kl_coefficient = state["kl_coefficient"]
        start_tokens, start_stopped = snapshots[0].reply_tokens, snapshots[0].stopped
        alarms = Alarms(start_tokens, start_stopped, run.dtype, run.episodes_per_batch, state["alarms"])
        if checkpoint is None:
            ring(0, 0, alarms.check_start(left_out, len(prompts), room, run.max_response_tokens, unread))
        learner = Learner(
            *learned_models(run, models, mean, std, processes),
            clip=run.clip,
            value_clip=run.value_clip,
            max_gradient_norm=run.max_gradient_norm,
            autocast=autocast,
            processes=processes,
        )
        if checkpoint is not None:
            learner.load(checkpoint, state["optimizers"])
            if run.shard:
                learner.give_policy(models.policy)
            if link:
                link.send(checkpoint.step)

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
                autocast=autocast,
                processes=processes,
            )
            clock.lap("scoring")

            rewards_at_end = (rollout.scores - mean) / std - run.no_end_penalty * ~rollout.is_stopped
            rewards = token_rewards(
                rewards_at_end, rollout.logp_rollout, rollout.logp_reference, rollout.is_response, kl_coefficient
            )
            advantages, returns = generalised_advantages(
                rewards, rollout.values, rollout.is_response, run.gamma, run.gae_lambda
            )
            importance = None
            if rollout.logp_sampler is not None:
                importance = importance_weights(
                    rollout.logp_rollout, rollout.logp_sampler, rollout.is_response, run.importance_limit
                )
            batch = TrainingBatch(
                rollout.is_response,
                rollout.logp_rollout,
                rollout.values,
                whitened(advantages, rollout.is_response),
                returns,
                None if importance is None else importance.weights,
            )

            seed = derived_seed(run.seed, "minibatches", index)
            plan = plan_minibatches(rollout, run.epochs, run.minibatches, budget, seed, device, processes.count)
            rate = learning_rate_factor(run, index * run.episodes_per_batch)
            jobs: list[Callable[[], Any]] = [partial(learner.update_value, plan, batch, run.value_learning_rate * rate)]
            if index >= run.value_warmup_batches:
                jobs.append(partial(learner.update_policy, plan, batch, run.learning_rate * rate))
            updates = workers.run(*jobs)
            learner.require_sound(rollout, run.learning_rate * rate, run.value_learning_rate * rate)
            if run.shard:
                learner.give_policy(models.policy)  # sampling takes whole weights
            clock.lap("update")

            done = index + 1
            step, episodes = done * run.steps_per_batch, done * run.episodes_per_batch
            if link:
                link.send(step)
                clock.lap("sending")
            row = {"step": step, "episodes": episodes} | _rollout_metrics(rollout, rewards, returns)
            if importance is not None:
                row |= _sampler_metrics(importance)
            for group, update in zip(("value", "policy"), updates, strict=False):
                row |= {f"{group}/{name}": value for name, value in update._asdict().items()}
            row |= {"policy/learning_rate": run.learning_rate * rate, "kl/coefficient": kl_coefficient}
            folder.log(row | clock.metrics(run.episodes_per_batch))
            ring(step, episodes, alarms.check(row))
            if run.kl_target is not None:
                kl_coefficient = adapted_kl_coefficient(
                    kl_coefficient, row["kl/k1"], run.kl_target, run.episodes_per_batch, run.kl_horizon_episodes
                )
            bar.set_postfix(score=f"{row['score/train']:.3f}", kl=f"{row['kl/k1']:.2f}")

            is_snapshot = gauges.is_due(row["kl/k1"]) or done in snapshot_batches
            if is_snapshot:
                path = folder.path / "snapshots" / f"episodes-{episodes:08d}"
                save_model(models.policy, models.renderer.tokenizer, path)
                snapshots.append(evaluate(done, path).snapshot)
            if is_snapshot or done % run.checkpoint_every_batches == 0 or done == batches:
                tensors, optimizers = learner.state()
                facts = {
                    "batch": done,
                    "score_scale": [mean, std],
                    "kl_coefficient": kl_coefficient,
                    "snapshots": [snapshot.model_dump(mode="json") for snapshot in snapshots],
                    "alarms": alarms.state(),
                    "root_kl_mark": gauges.mark,
                    "optimizers": optimizers,
                    "prompts": fingerprint,
                }
                save_checkpoint(folder.checkpoints, step, tensors, facts)

        best = max(snapshots, key=lambda snapshot: snapshot.score_held_out.value)
        report = str(write_report(folder, run.name, snapshots, best, alarms.reasons)) if processes.is_first else ""
    processes.wait()  # nobody leaves before the files are written
    return PolicyResult(snapshots=tuple(snapshots), best=best, alarms=tuple(alarms.reasons), report=report)


class _Stopwatch:
    """Seconds of the parts of a batch."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Notes the time of the part that ends here."""
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
        "score/length_correlation": _length_correlation(rollout),
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


def _sampler_metrics(importance: ImportanceWeights) -> dict[str, float]:
    return {
        "sampler/weight_mean": importance.mean.item(),
        "sampler/truncated": importance.truncated.item(),
        "sampler/mean_difference": importance.mean_difference.item(),
        "sampler/largest_difference": importance.largest_difference.item(),
    }


def _length_correlation(rollout: Rollout) -> float:
    """Of scores, to a thousandth of their deviation (rounding breaks ties), and lengths as the PM reads them."""
    scores, deviation = rollout.scores.double(), rollout.scores.double().std()
    read_tokens = rollout.reply_tokens + ~rollout.is_stopped  # a cut reply is closed with an end token for the PM
    return rank_correlation((scores / deviation * 1000).round(), read_tokens) if deviation > 0 else 0.0
