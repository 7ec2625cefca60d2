"""Training a preference model (PM) on comparisons. One loop, top to bottom; knows no store and no policy.

PM pre-training on ranked answers and fine-tuning on judgments are the same loop on other pairs (paper 3.1, A.2). The
comparisons of one conversation are kept together, so that its turns are computed once.

Deviations from the paper: (1) the learning rate is a setting, a fraction of the language model's as an option; (2) it
is constant after a linear warm-up, as in the paper, with cosine decay as an option; (3) AdamW, whose details the paper
does not give; (4) the last step of an epoch is not smaller than the others, the comparisons are shared out evenly;
(5) optionally the written weights lie between the start and the end of training (weight-space ensembling, Wortsman et
al. 2022, "Robust fine-tuning of zero-shot models"): a PM of few judgments keeps more of what PM pre-training taught.
PM pre-training may carry a language-model loss on the chosen texts beside its own (Askell et al. 2021, section 4).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from prefloop.errors import ConfigError, DataError, TrainingError
from prefloop.losses import preference_losses
from prefloop.models.adapters import add_lora, trained_state
from prefloop.models.checkpoint import (
    latest_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from prefloop.models.devices import device_named
from prefloop.models.preference import PreferenceModel, conversation_key
from prefloop.runs import RunFolder
from prefloop.schema import PreferencePair
from prefloop.train.divergence import require_room, require_sound
from prefloop.train.lessons import Lessons, read_worker_weights, usable_pairs
from prefloop.train.preference_settings import PreferenceRun
from prefloop.train.preference_step import Lesson, StepLosses, backward, encode, require_one_fits
from prefloop.train.processes import Processes
from prefloop.train.sharding import clip_gradients, put_optimizer_state, require_several, shard, whole_state
from prefloop.train.threads import own_threads_afterwards, take_threads

_PAIRS_AT_ONCE = 512  # whose ids are in memory while held-out pairs are scored
_SCALE_PAIRS = 1000  # to measure mean and deviation of the scores on
_BFLOAT16_FROM_PARAMETERS = 2_000_000  # measured on AVX-512: at 0.9 M no faster than fp32, at 3.4 M 1.6 times


class PreferenceTraining(NamedTuple):
    """What training gives. `dropped_*` counts pairs by reason, `pairs` and `dropped_long_pairs` in every epoch."""

    model: PreferenceModel
    path: Path
    steps: int
    pairs: int
    dropped_identical_pairs: int
    dropped_long_pairs: int
    dropped_turns: int
    dropped_blank_pairs: int
    dropped_weightless_pairs: int


@own_threads_afterwards()
def train_preference(
    run: PreferenceRun,
    pairs: Sequence[PreferencePair],
    folder: RunFolder,
    held_out: Sequence[PreferencePair] = (),
    *,
    resume: bool = False,
    weights: Sequence[float] | None = None,
    progress: Callable[..., Any] = tqdm,
) -> PreferenceTraining:
    """Trains and writes `folder/model` (a Hugging Face folder). Resumed runs go on to the same numbers.

    Under torchrun the processes share each step's pairs, and with `run.shard` the weights; the first writes the files.
    `weights` says how much each pair counts, beside its worker and mode; all pairs must then be usable.

    Errors:
        ConfigError: `run.shard` with one process alone, or with settings that need the whole trunk at hand.
        DataError: no usable pairs, held-out ones of which none fits the window, or a run resumed on other pairs than it
            began with.
        ModelError: `run.start` is no model to start from.
        TrainingError: a loss, a weight or a score is not finite; the last checkpoint stays.
    """
    processes = Processes.of_environment()
    take_threads(folder, processes)
    usable = usable_pairs(pairs)
    lessons = lessons_of(run, usable.pairs, weights)
    model = start_model(run)
    require_one_fits(model, held_out, "held-out pairs")
    output = model.output_embedding(run.start) if run.language_weight else None
    dtype = autocast_dtype(run, model)
    if dtype is torch.bfloat16 and model.device.type == "cpu" and not model.shares_beginnings:
        model.model.set_attn_implementation("eager")  # torch's fused attention is slow in bfloat16 there
    plan = StepPlan(lessons.pairs, run)
    counts = _no_counts()
    fingerprint = _fingerprint(lessons)
    first_step, last_saved = 0, None
    checkpoint = latest_checkpoint(folder.checkpoints) if resume else None
    processes.wait()  # nobody writes before all have looked
    result = folder.path / "model"
    if checkpoint is not None:
        if checkpoint.state["data"] != fingerprint:
            raise DataError(
                f"{folder.path} was started on other pairs or weights than these {len(lessons.pairs)}; resume it "
                "with its own data, or start a new run."
            )
        model.model.load_state_dict(checkpoint.part("model"), strict=not run.lora_rank)
        counts, first_step, last_saved = checkpoint.state["counts"], checkpoint.step, checkpoint.path
    if run.shard:
        check_shard(run, model, processes)
        shard(model.trunk, processes)
    optimizer = optimizer_of(model, run)
    if checkpoint is not None:
        load_optimizer_state(optimizer, checkpoint.part("optimizer"), checkpoint.state["optimizer"])
        put_optimizer_state(optimizer)
    if not processes.is_first:
        folder = processes.scratch_folder()
    if resume:
        folder.rewind(first_step)
    learned: list[Lesson] = []  # of the last step that had any
    bar = progress(
        range(first_step, len(plan)), initial=first_step, total=len(plan), desc=f"train preference {run.name}"
    )
    for step in bar:
        number = step + 1
        places = plan.places(step)
        chances, counted = (values[places].tolist() for values in (lessons.probabilities, lessons.weights))
        encoded = encode(model, [lessons.pairs[place] for place in places], counts, chances, counted)
        rate = run.peak_learning_rate * _schedule(step, len(plan), run)
        for group in optimizer.param_groups:
            group["lr"] = rate
        row: dict[str, Any] = {"step": number, "preference/learning_rate": rate, "preference/pairs": len(encoded)}
        if encoded:
            losses = backward_of(run, model, encoded, output, dtype, processes)
            processes.sum_gradients(model.model.parameters())
            clip = clip_gradients if run.shard else torch.nn.utils.clip_grad_norm_
            gradient_norm = float(clip(model.model.parameters(), run.max_gradient_norm))
            if not (math.isfinite(losses.loss) and math.isfinite(gradient_norm)):
                advice = _advice(run, last_saved)
                raise TrainingError(
                    f"Step {number} has loss {losses.loss} and gradient norm {gradient_norm}; {advice}."
                )
            optimizer.step()
            optimizer.zero_grad()
            learned = encoded
            row |= _step_metrics(losses, gradient_norm, run)
            bar.set_postfix(loss=f"{losses.loss:.3f}")
        is_last = number == len(plan)
        if counts["pairs"] == 0:  # nothing fitted yet, so there is nothing to keep
            if is_last:
                raise model.none_fits(f"the {len(lessons.pairs)} pairs")
            continue
        is_evaluated = held_out and (is_last or (run.evaluate_every_steps and number % run.evaluate_every_steps == 0))
        is_saved = is_last or number % run.checkpoint_every_steps == 0
        if learned and (is_evaluated or is_saved):
            scores = torch.tensor(model.score_ids([learned[0].ids.chosen, learned[0].ids.rejected]))
            require_sound(model.model, scores, f"After step {number} ", _advice(run, last_saved), processes)
        if is_evaluated:
            row |= held_out_metrics(model, held_out)
        folder.log(row)
        if is_saved:
            tensors, optimizer_facts = optimizer_state(optimizer)
            state = {f"model.{name}": value for name, value in trained_state(model.model).items()}
            state |= {f"optimizer.{name}": value for name, value in tensors.items()}
            facts = {"optimizer": optimizer_facts, "counts": counts, "data": fingerprint}
            last_saved = save_checkpoint(folder.checkpoints, number, whole_state(state), facts)
    if run.shard:
        trained, model = whole_state(model.model.state_dict()), start_model(run)
        model.model.load_state_dict(trained)
    if run.start_share:
        _blend(model, start_model(run), run.start_share)
    saved_dtype = torch.float32 if run.lora_rank else getattr(torch, run.saved_dtype)  # a base stays what it is
    require_room(model.model.to(saved_dtype), saved_dtype)
    model.model.to(torch.float32)  # what is scored next is what will be saved
    _set_scale(model, held_out or lessons.pairs)
    model.model.to(saved_dtype)
    if processes.is_first:
        model.save(result)
    model.model.to(torch.float32)
    processes.wait()  # nobody leaves before the files are written
    return PreferenceTraining(
        model,
        result,
        len(plan),
        dropped_identical_pairs=usable.identical,
        dropped_blank_pairs=usable.blank,
        dropped_weightless_pairs=lessons.dropped_weightless,
        **counts,
    )


def lessons_of(run: PreferenceRun, usable: Sequence[PreferencePair], weights: Sequence[float] | None = None) -> Lessons:
    """What usable pairs teach under the run's weights and probabilities. Errors as of `Lessons.of` and the files."""
    return Lessons.of(
        usable,
        grade_probabilities=run.grade_probabilities,
        worker_weights=None if run.worker_weights is None else read_worker_weights(run.worker_weights),
        red_team_weight=run.red_team_weight,
        tranche_weights=run.tranche_weights,
        pair_weights=weights,
    )


def check_shard(run: PreferenceRun, model: PreferenceModel, processes: Processes) -> None:
    """ConfigError where the run's model cannot be split over these processes."""
    if run.language_weight or run.lora_rank or not model.shares_beginnings:
        raise ConfigError("shard goes with causal models, without language_weight and lora_rank; set it to false.")
    require_several(processes)


def start_model(run: PreferenceRun) -> PreferenceModel:
    """`run.start` as a PM on the run's device: loaded with its head, or a language model's trunk under a fresh one."""
    limits = {"row_tokens": run.row_tokens, "max_tokens": run.max_context_tokens}
    if PreferenceModel.is_at(run.start):
        model = PreferenceModel.load(run.start, **limits)
        with torch.no_grad():
            model.head.weight.mul_(run.start_scale)
    else:
        model = PreferenceModel.from_language_model(run.start, run.seed, **limits)
    model.trunk.get_input_embeddings().requires_grad_(not run.freeze_embeddings)
    if run.lora_rank:
        if run.start_share or run.start_scale != 1.0 or not hasattr(model.model, "score"):
            raise ConfigError(
                "lora_rank goes with causal models, and neither with start_share nor start_scale; set it to 0."
            )
        add_lora(model.model, run.lora_rank, run.lora_scale, run.seed, base=run.start, head="score")
    return model.to(device_named(run.device))


@torch.no_grad()
def _blend(model: PreferenceModel, start: PreferenceModel, start_share: float) -> None:
    """Moves the weights of `model` towards those of `start`, in place."""
    weights = start.model.state_dict()
    for name, value in model.model.state_dict().items():
        value.lerp_(weights[name].to(value.device), start_share)


@torch.no_grad()
def _set_scale(model: PreferenceModel, pairs: Sequence[PreferencePair]) -> None:
    """Notes mean and deviation of the scores of both replies of reference pairs, evenly taken, beside the model."""
    taken = [pairs[place * len(pairs) // _SCALE_PAIRS] for place in range(_SCALE_PAIRS)]
    encoded = encode(model, taken if len(pairs) > _SCALE_PAIRS else pairs, _no_counts())
    if encoded:
        model.set_scale(model.score_ids([ids for one in encoded for ids in (one.ids.chosen, one.ids.rejected)]))


def _advice(run: PreferenceRun, last_saved: Path | None) -> str:
    """What to do where training has diverged."""
    kept = f"the last checkpoint is {last_saved}" if last_saved else "no checkpoint was written yet"
    return f"lower learning_rate (now {run.peak_learning_rate:g}) and start again; {kept}"


def _no_counts() -> dict[str, int]:
    return {"pairs": 0, "dropped_long_pairs": 0, "dropped_turns": 0}


def autocast_dtype(run: PreferenceRun, model: PreferenceModel) -> torch.dtype | None:
    """The autocast type, or None for fp32. On a CPU bfloat16 pays with AVX-512 BF16 or AMX, and from a size on."""
    if run.dtype != "auto":
        return torch.bfloat16 if run.dtype == "bfloat16" else None
    if model.device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    is_large = sum(parameter.numel() for parameter in model.model.parameters()) >= _BFLOAT16_FROM_PARAMETERS
    return torch.bfloat16 if is_large and torch.cpu._is_avx512_bf16_supported() else None


@torch.no_grad()
def held_out_metrics(model: PreferenceModel, held_out: Sequence[PreferencePair]) -> dict[str, float]:
    """Loss (nats, without smoothing) and accuracy (ties half) on pairs that are not trained on; 0 pairs give nothing.

    What does not fit the window is left out.
    """
    values: list[float] = []
    for start in range(0, len(held_out), _PAIRS_AT_ONCE):
        encoded = encode(model, held_out[start : start + _PAIRS_AT_ONCE], _no_counts())
        values += model.score_ids([ids for one in encoded for ids in (one.ids.chosen, one.ids.rejected)])
    if not values:
        return {}
    scores = torch.tensor(values)
    losses = preference_losses(scores[0::2], scores[1::2])
    return {
        "preference/held_out_loss": losses.mean().item(),
        "preference/held_out_accuracy": _accuracy(scores[0::2] - scores[1::2]),
    }


class StepPlan:
    """Which pairs each step takes: epochs in shuffled order of conversations, their pairs side by side."""

    def __init__(self, pairs: Sequence[PreferencePair], run: PreferenceRun) -> None:
        self._pairs, self._seed = pairs, run.seed
        keys = (hashlib.blake2b(conversation_key(pair).encode(), digest_size=8).digest() for pair in pairs)
        names = np.fromiter((int.from_bytes(key, "big") for key in keys), dtype=np.uint64, count=len(pairs))
        _, first, conversation = np.unique(names, return_index=True, return_inverse=True)
        appearance = np.argsort(np.argsort(first))[conversation]  # conversations in the order of their first pairs
        self._members = np.argsort(appearance, kind="stable")
        self._ends = np.cumsum(np.bincount(appearance))
        self._steps_an_epoch = -(-len(pairs) // run.pairs_per_step)
        self._epochs = run.epochs
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __len__(self) -> int:
        return self._epochs * self._steps_an_epoch

    def step(self, step: int) -> list[PreferencePair]:
        """The comparisons of one step."""
        return [self._pairs[place] for place in self.places(step)]

    def places(self, step: int) -> list[int]:
        """Where the comparisons of one step stand; steps of an epoch differ by one comparison at most."""
        epoch, place = divmod(step, self._steps_an_epoch)
        if epoch != self._epoch:
            shuffled = np.random.default_rng([self._seed, epoch]).permutation(len(self._ends))
            starts = np.concatenate([[0], self._ends[:-1]])
            self._order = np.concatenate([self._members[starts[one] : self._ends[one]] for one in shuffled])
            self._epoch = epoch
        first, last = (len(self._order) * edge // self._steps_an_epoch for edge in (place, place + 1))
        return [int(index) for index in self._order[first:last]]


def backward_of(
    run: PreferenceRun,
    model: PreferenceModel,
    lessons: Sequence[Lesson],
    output: Tensor | None,
    dtype: torch.dtype | None,
    processes: Processes | None = None,
) -> StepLosses:
    """`backward` with the settings of the run."""
    return backward(
        model,
        lessons,
        output=output,
        dtype=dtype,
        tokens_per_forward=run.tokens_per_forward,
        label_smoothing=run.label_smoothing,
        language_weight=run.language_weight,
        centring=run.centring,
        processes=processes,
    )


def _step_metrics(losses: StepLosses, gradient_norm: float, run: PreferenceRun) -> dict[str, float]:
    scores, differences = torch.cat([losses.chosen, losses.rejected]), losses.chosen - losses.rejected
    row = {
        "preference/loss": losses.loss,
        "preference/accuracy": _accuracy(differences),
        "preference/score_difference": differences.mean().item(),
        "preference/score_mean": scores.mean().item(),
        "preference/score_std": scores.std(correction=0).item(),
        "preference/gradient_norm": gradient_norm,
        "preference/tokens": losses.tokens,
        "preference/tokens_shared": 1 - losses.tokens / losses.tokens_unshared,
    }
    if run.language_weight:
        row["preference/language_loss"] = losses.language_loss
    if run.centring:
        row["preference/centring_penalty"] = losses.centring
    return row


def _accuracy(differences: Tensor) -> float:
    """Share of positive differences; 0 counts half, and one that is no number makes the share none."""
    return torch.where(differences.isnan(), differences, (differences.sign() + 1) / 2).mean().item()


def optimizer_of(model: PreferenceModel, run: PreferenceRun) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": run.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    # One fused step takes no mixture of split and whole weights.
    how: dict[str, bool] = {"foreach": False} if run.shard else {"fused": True}
    return torch.optim.AdamW(groups, lr=run.peak_learning_rate, betas=(0.9, 0.98), **how)


def _schedule(step: int, steps: int, run: PreferenceRun) -> float:
    if step < run.warmup_steps:
        return (step + 1) / (run.warmup_steps + 1)
    if run.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - run.warmup_steps) / max(steps - run.warmup_steps, 1)))


def _fingerprint(lessons: Lessons) -> str:
    """Hash of all that training sees of the pairs, in order."""
    digest = hashlib.sha256()
    for pair, probability, weight in zip(lessons.pairs, lessons.probabilities, lessons.weights, strict=True):
        texts = [conversation_key(pair), *(f"{turn.role}:{turn.text}" for turn in pair.context)]
        digest.update("\x1f".join([*texts, pair.chosen, pair.rejected, "\x1e"]).encode())
        if (probability, weight) != (1.0, 1.0):
            digest.update(repr([float(probability), float(weight)]).encode())
    return digest.hexdigest()
