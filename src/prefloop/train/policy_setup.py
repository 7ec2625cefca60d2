"""What a policy run needs before its first batch: models, windows, devices, prompts in their order. Trains nothing."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from prefloop.errors import ConfigError, DataError, ModelError
from prefloop.models.adapters import add_lora, sharing_copy
from prefloop.models.language import load_language_model, window_tokens
from prefloop.models.output_head import output_head
from prefloop.models.preference import PreferenceModel
from prefloop.models.responses import Prompt, same_tokens
from prefloop.models.trie import require_exact, runs_flat
from prefloop.models.value import Lora, ValueModel
from prefloop.train.policy_settings import PolicyRun
from prefloop.train.processes import Processes
from prefloop.train.rollout import Models, Workers, derived_seed
from prefloop.train.sharding import shard

_log = logging.getLogger(__name__)

_LEAST_HELD_OUT = 2


class PromptOrder:
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


def require_held_out_prompts(run: PolicyRun, prompts: Sequence[Prompt]) -> None:
    """Before the work: `score_scale` takes a deviation over the replies to these prompts.

    Errors:
        DataError: fewer than 2.
    """
    if run.normalise != "none" and len(prompts) < _LEAST_HELD_OUT:
        raise DataError(
            f"normalise = {run.normalise!r} takes the spread of the scores over held-out prompts, of which there are "
            f"{len(prompts)} and at least {_LEAST_HELD_OUT} are needed; import or collect more conversations, or set "
            "normalise to 'none'."
        )


def score_scale(run: PolicyRun, scores: Sequence[float]) -> tuple[float, float]:
    """Mean and deviation that make the starting policy's scores 0 and 1, or 0 and 1 themselves.

    Errors:
        ModelError: the scores do not differ, so there is nothing to learn.
    """
    if run.normalise == "none":
        return 0.0, 1.0
    mean, std = float(np.mean(scores)), float(np.std(scores))
    if std < 1e-6:
        raise ModelError(
            f"{run.preference_model} gives all {len(scores)} replies of the starting policy the score {mean:.3g}, so "
            "there is nothing to learn from it; train it on more comparisons."
        )
    return mean, std


def learning_rate_factor(run: PolicyRun, episodes: int) -> float:
    """The factor on both learning rates for a batch that begins after `episodes`."""
    warmup = run.learning_rate_warmup_episodes
    rise = min(1.0, (episodes + run.episodes_per_batch) / warmup) if warmup else 1.0
    halve = run.halve_learning_rate_every_episodes
    return rise * (0.5 ** (episodes // halve) if halve else 1.0)


def load_models(run: PolicyRun, device: torch.device) -> Models:
    """Policy, its frozen copy as the reference, and both PMs. With LoRA the reference is the policy's own weights.

    Errors:
        ModelError: one of them cannot be loaded or cannot share beginnings exactly, or the policy does with its
            logits what nothing here can follow (`output_head`).
    """
    policy, renderer = load_language_model(run.policy).to(device)
    output_head(policy)
    train = PreferenceModel.load(run.preference_model, row_tokens=run.row_tokens).to(device)
    held_out = train  # the same folder is loaded once, and scores once
    if run.held_out_preference_model != run.preference_model:
        held_out = PreferenceModel.load(run.held_out_preference_model, row_tokens=run.row_tokens).to(device)
    for judge in (train, held_out):
        judge.model.requires_grad_(False)
    require_exact(policy.base_model, min(train.max_tokens, held_out.max_tokens))  # which bound prompt and reply
    if not run.lora_rank:
        return Models(policy, copy.deepcopy(policy).requires_grad_(False), train, held_out, renderer)
    reference = sharing_copy(policy)
    add_lora(policy, run.lora_rank, run.lora_scale, derived_seed(run.seed, "policy adapter"), base=run.policy)
    return Models(policy, reference, train, held_out, renderer)


def value_model(run: PolicyRun, models: Models, mean: float, std: float) -> ValueModel:
    """Started from the PM where that reads the policy's tokens, otherwise from the policy's trunk."""
    pm = models.preference_model
    lora = Lora(run.lora_rank, run.lora_scale, derived_seed(run.seed, "value adapter")) if run.lora_rank else None
    if pm.shares_beginnings and same_tokens(pm.renderer, models.renderer):
        return ValueModel.from_preference_model(pm, mean, std, lora)
    difference = "has another tokenizer than the policy" if pm.shares_beginnings else "shares no beginnings"
    _log.warning("The preference model %s: the value model starts at 0.", difference)
    return ValueModel.from_policy(models.reference, lora)


def require_processes(run: PolicyRun, processes: Processes) -> None:
    """Whether these processes can do the run, before anything is loaded.

    Errors:
        ConfigError: `shard` with one process or with LoRA, or a batch of fewer prompts than processes.
    """
    if run.shard and processes.count == 1:
        raise ConfigError("shard = true needs several processes; start the run with torchrun, or set it to false.")
    if run.shard and run.lora_rank:
        raise ConfigError(
            f"shard = true goes without lora_rank (now {run.lora_rank}): adapters are small; set one of them to 0."
        )
    prompts = run.episodes_per_batch // run.samples_per_prompt
    if prompts < processes.count:
        raise ConfigError(
            f"episodes_per_batch = {run.episodes_per_batch} at samples_per_prompt = {run.samples_per_prompt} is a "
            f"batch of {prompts} prompts, which {processes.count} processes cannot share; raise the first."
        )


def learned_models(run: PolicyRun, models: Models, mean: float, std: float, processes: Processes) -> tuple[Any, Any]:
    """The policy and the value model that learn. With `run.shard` split, the policy beside the one that samples."""
    policy, value = models.policy, value_model(run, models, mean, std)
    if run.dtype == "bfloat16" and policy.device.type == "cpu":
        for model in (policy, value.trunk):  # torch's fused attention is slow in bfloat16 there
            if not runs_flat(model.base_model):
                model.set_attn_implementation("eager")
    for trunk in (policy.base_model, value.trunk):
        trunk.get_input_embeddings().padding_idx = None  # a PAD that was sampled is a token that learns like others
    if run.shard:
        policy = copy.deepcopy(policy)
        shard(policy.base_model, processes, policy.get_output_embeddings())
        shard(value.trunk, processes)
    return policy, value


def room_tokens(run: PolicyRun, models: Models, *watching: PreferenceModel) -> int:
    """What is left for a prompt in the windows of policy and PMs of its tokens; others read text (`readable_prompts`).

    Errors:
        ConfigError: nothing.
    """
    others = (models.preference_model, models.held_out, *watching)
    judges = [judge for judge in others if same_tokens(judge.renderer, models.renderer)]
    windows = [window_tokens(models.policy), *(judge.max_tokens for judge in judges)]
    rooms = [windows[0] - 1, *(judge.room_tokens for judge in judges)]  # besides what closes a cut reply for the PMs
    room = min(rooms) - run.max_response_tokens
    if room < 1:
        raise ConfigError(
            f"max_response_tokens = {run.max_response_tokens} leaves no room for a prompt in a window of "
            f"{min(windows)} tokens; lower it."
        )
    return room


def run_workers(run: PolicyRun, device: torch.device, processes: Processes) -> Workers:
    """Two jobs with half the cores each: independent forwards side by side waste less than one forward on all cores.

    With several processes each has one: they speak to each other in turn. A run's numbers depend on both counts, which
    follow from its settings and torch's threads.
    """
    cores = torch.get_num_threads()
    count = 1 if device.type != "cpu" or processes.count > 1 else run.workers or min(2, cores)
    return Workers(count, max(1, cores // count))


def prompts_fingerprint(*prompts: Sequence[Prompt]) -> str:
    """A digest of all prompts: a run is resumed on its own."""
    text = repr([[prompt.ids for prompt in part] for part in prompts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
