"""Context distillation: a model learns to answer without an example prompt as its teacher answers with it.

One loop, top to bottom. The teacher reads the prompt and every text once; its most likely tokens and their
log-probabilities are stored (`distill_targets`), and the student, which never sees the prompt, is trained on the KL to
them (formulas in `losses`). Knows no preference and no reward.

Deviations from the paper (A.1): (1) the texts are conversations (and questions with their best answers where files of
those are given), not half pretraining data, (2) AdamW with a short warm-up before the linear decay to 0, (3) the
prompt's last token predicts no target, because the student has no place for it.
As in the paper: top 50 log-probabilities and one class for the rest, KL of stored to student, 32 texts a step, one
pass, one teacher for students of all sizes (they share its tokenizer).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from prefloop.config import DEVICE, NAME, Config, Seed
from prefloop.errors import ConfigError, DataError, TrainingError
from prefloop.losses import distill_losses
from prefloop.models.checkpoint import (
    latest_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from prefloop.models.devices import device_named
from prefloop.models.head import of_logits
from prefloop.models.language import LanguageModel, load_language_model, save_model, window_tokens
from prefloop.models.output_head import output_head
from prefloop.models.responses import same_tokens
from prefloop.models.trie import pack, packed_hidden, require_exact
from prefloop.report import Report, Series, Tile, line_plot
from prefloop.runs import RunFolder
from prefloop.schema import HELD_OUT_SHARE, Interval, Message
from prefloop.stats import clustered_ratio
from prefloop.train.distill_targets import (
    DistillText,
    Targets,
    encode_texts,
    load_targets,
    make_targets,
    targets_digest,
)
from prefloop.train.divergence import require_sound
from prefloop.train.threads import own_threads_afterwards, take_threads

__all__ = ["DistillResult", "DistillRun", "train_distillation"]


class DistillRun(Config):
    """`prefloop train distill RUN.toml`."""

    name: str = Field("distilled", pattern=NAME, description="goes into the names of the run folder and the snapshot")
    teacher: Path = Field(description="the model that reads the prompt: a folder or a snapshot")
    student: Path | None = Field(None, description="the model that is trained; empty starts from the teacher")
    prompt: Path = Field(
        description="example dialogues: JSON, a list of {role, text}; 'sandbox_hhh' is the one that ships"
    )
    sandbox_dialogues: int = Field(
        0, ge=0, description="texts of the tiny world; 0 takes the workspace's conversations"
    )
    ranked_files: tuple[Path, ...] = Field(
        (), description="questions of these files with their best answers, beside the other texts"
    )
    held_out_share: float = Field(
        HELD_OUT_SHARE, ge=0.0, lt=1.0, description="of the workspace's conversations left out"
    )
    held_out_texts: int = Field(100, ge=0, description="taken from the end of the texts for distill/held_out_kl")
    targets: Literal["all", "replies"] = Field("all", description="tokens that are learned: all (the paper) or replies")
    cache: Path | None = Field(
        None, description="file of the teacher's targets, taken again where it fits; empty keeps it in the run's folder"
    )
    classes: int = Field(50, ge=1, description="log-probabilities that are stored a token; one class holds the rest")
    epochs: int = Field(1, ge=1, description="passes over the texts (the paper's is 1)")
    texts_per_step: int = Field(32, ge=1, description="texts that make an optimiser step")
    row_tokens: int = Field(512, ge=16, description="length of a packed row; short rows are cheap on a CPU")
    learning_rate: float = Field(1e-4, gt=0.0, description="peak; linear to 0 (the paper: 0.05 of pretraining's)")
    warmup_steps: int = Field(10, ge=0, description="linear from 0")
    weight_decay: float = Field(0.0, ge=0.0, description="of all weights")
    max_gradient_norm: float = Field(1.0, gt=0.0, description="longer gradients are shortened to this")
    checkpoint_every_steps: int = Field(50, ge=1, description="also when the held-out KL is measured")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="autocast of the forward and backward pass")
    device: str = Field("auto", pattern=DEVICE, description="'auto' takes a GPU if there is one")
    seed: Seed = Field(0, description="of texts and order")


class DistillResult(NamedTuple):
    """What a run gives. KLs are nats a token over the stored classes, on held-out texts; None without any."""

    path: Path
    kl_before: Interval | None
    kl_after: Interval | None
    texts: int
    dropped_long: int
    targets: Path
    report: Path


@own_threads_afterwards()
def train_distillation(
    run: DistillRun,
    prompt: Sequence[Message],
    conversations: Sequence[Sequence[Message]],
    folder: RunFolder,
    *,
    resume: bool = False,
    progress: Callable[..., Any] = tqdm,
) -> DistillResult:
    """Trains and writes `folder/model` (a Hugging Face folder).

    Errors:
        DataError: too few texts, none that fits behind the prompt, or a cache that belongs to other data.
        ConfigError: teacher and student write texts differently.
        ModelError: one of them cannot be loaded or cannot share beginnings exactly, or `output_head` refuses it.
        TrainingError: a loss, a gradient or a weight is not finite; the last checkpoint stays.
    """
    take_threads(folder)
    if len(conversations) <= run.held_out_texts:
        raise DataError(
            f"{len(conversations)} texts leave none to train on beside {run.held_out_texts} held-out ones; give more."
        )
    torch.manual_seed(run.seed)
    teacher = load_language_model(run.teacher)
    student = load_language_model(run.student or run.teacher)
    if not same_tokens(teacher.renderer, student.renderer):
        raise ConfigError(
            f"The teacher {run.teacher} and the student {run.student} have different tokenizers; distil into a model "
            "of the same family."
        )
    for model in (teacher.model, student.model):
        require_exact(model.base_model)
        output_head(model)  # refuses before the teacher reads the texts
    window = min(window_tokens(teacher.model), window_tokens(student.model))
    encoded = encode_texts(teacher.renderer, prompt, conversations, window, replies_only=run.targets == "replies")
    texts = encoded.texts
    held_out = list(range(max(len(texts) - run.held_out_texts, 1), len(texts)))
    training = list(range(len(texts) - len(held_out)))
    device = device_named(run.device)
    path = run.cache or folder.path / "targets.safetensors"
    targets = _targets(run, teacher, texts, path, device, progress)
    del teacher
    model = student.to(device).model
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=run.learning_rate, betas=(0.9, 0.95), weight_decay=run.weight_decay
    )
    steps_per_epoch = -(-len(training) // run.texts_per_step)
    total = run.epochs * steps_per_epoch
    first_step = 0
    if resume and (checkpoint := latest_checkpoint(folder.checkpoints)) is not None:
        model.load_state_dict(checkpoint.part("model"), strict=False)
        load_optimizer_state(optimizer, checkpoint.part("optimizer"), checkpoint.state["optimizer"])
        first_step = checkpoint.step
    if resume:
        folder.rewind(first_step or -1)  # a run killed before its first checkpoint writes the row of step 0 anew
    if first_step == 0 and held_out:
        folder.log({"step": 0, **_held_out(model, texts, targets, held_out, run)})
    advice = f"lower learning_rate (now {run.learning_rate:g}) and start again; the last checkpoint stays"
    model.train()
    bar = progress(range(first_step, total), initial=first_step, total=total, desc=f"train distill {run.name}")
    for step in bar:
        rate = run.learning_rate * _schedule(step, total, run.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        part = _order(training, run.seed, step // steps_per_epoch)[
            step % steps_per_epoch * run.texts_per_step : (step % steps_per_epoch + 1) * run.texts_per_step
        ]
        loss = _losses(model, texts, targets, part, run).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.max_gradient_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingError(f"Step {step + 1} has loss {loss.item()} and gradient norm {norm.item()}; {advice}.")
        optimizer.step()
        optimizer.zero_grad()
        row = {
            "step": step + 1,
            "distill/loss": loss.item(),
            "distill/gradient_norm": norm.item(),
            "distill/learning_rate": rate,
        }
        if step + 1 == total or (step + 1) % run.checkpoint_every_steps == 0:
            with torch.no_grad():
                given = _losses(model, texts, targets, part[:1], run)
            require_sound(model, given, f"After step {step + 1} ", advice)
            if held_out:
                row |= _held_out(model, texts, targets, held_out, run)
            folder.log(row)
            tensors, facts = optimizer_state(optimizer)
            tied = model.config.tie_word_embeddings
            save_checkpoint(
                folder.checkpoints,
                step + 1,
                {f"model.{k}": v for k, v in model.state_dict().items() if not (tied and k == "lm_head.weight")}
                | {f"optimizer.{k}": v for k, v in tensors.items()},
                {"optimizer": facts},
            )
        else:
            folder.log(row)
        bar.set_postfix(loss=f"{loss.item():.3f}")
    model.train(False)
    saved = save_model(model.cpu(), student.renderer.tokenizer, folder.path / "model")
    curve = [(row["step"], _interval(row)) for row in folder.metrics() if "distill/held_out_kl" in row]
    return DistillResult(
        saved,
        curve[0][1] if curve else None,
        curve[-1][1] if curve else None,
        len(training),
        encoded.dropped_long,
        path,
        _report(run, folder, curve),
    )


def _targets(
    run: DistillRun,
    teacher: LanguageModel,
    texts: Sequence[DistillText],
    path: Path,
    device: torch.device,
    progress: Callable[..., Any],
) -> Targets:
    digest = targets_digest(run.teacher, texts, run.classes)
    if path.exists():
        return load_targets(path, digest)
    return make_targets(teacher.to(device).model, texts, run.classes, path, digest, progress)


def _losses(model: Any, texts: Sequence[DistillText], targets: Targets, part: Sequence[int], run: DistillRun) -> Tensor:
    """KL of the student to the stored classes at every target of some texts, text after text; (token,)."""
    device = next(model.parameters()).device
    batch = pack([texts[place].ids for place in part], run.row_tokens).to(device)
    at = torch.cat(
        [index[torch.tensor(texts[place].places) - 1] for index, place in zip(batch.token_index, part, strict=True)]
    )
    ids, logps = targets.of(part)
    with torch.autocast(device.type, torch.bfloat16, enabled=run.dtype == "bfloat16"):
        hidden = packed_hidden(model.base_model, batch, at)
        return of_logits(output_head(model), distill_losses, hidden, ids.to(device), logps.to(device))


@torch.no_grad()
def _held_out(
    model: Any, texts: Sequence[DistillText], targets: Targets, places: Sequence[int], run: DistillRun
) -> dict[str, float]:
    """Mean KL a token on held-out texts; the interval is clustered by text."""
    model.train(False)
    sums, counts = [], []
    for start in range(0, len(places), run.texts_per_step):
        part = places[start : start + run.texts_per_step]
        sizes = [len(texts[place].places) for place in part]
        for losses in torch.split(_losses(model, texts, targets, part, run).cpu().double(), sizes):
            sums.append(losses.sum().item())
            counts.append(float(len(losses)))
    model.train()
    kl = clustered_ratio(sums, counts)
    name = "distill/held_out_kl"
    return {name: kl.value, f"{name}_low": kl.low, f"{name}_high": kl.high, "distill/held_out_texts": kl.n}


def _interval(row: dict[str, Any]) -> Interval:
    name = "distill/held_out_kl"
    return Interval(value=row[name], low=row[f"{name}_low"], high=row[f"{name}_high"], n=row["distill/held_out_texts"])


def _order(training: Sequence[int], seed: int, epoch: int) -> list[int]:
    """The texts of an epoch in their order: from the seed alone, so a resumed run needs no generator's state."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return [training[place] for place in torch.randperm(len(training), generator=generator).tolist()]


def _schedule(step: int, total: int, warmup_steps: int) -> float:
    """Linear warm-up, then linear to 0 (paper A.1)."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (total - step) / max(total - warmup_steps, 1)


def _report(run: DistillRun, folder: RunFolder, curve: Sequence[tuple[int, Interval]]) -> Path:
    """The curve of KL against steps (paper Figure 30)."""
    rows = [row for row in folder.metrics() if "distill/loss" in row]
    report = Report(
        f"Context distillation {run.name}",
        "How far the student without the example prompt is from its teacher with it: KL in nats a token over the "
        f"teacher's {run.classes} most likely tokens and one class for the rest. Intervals are 95%, over texts.",
    )
    if curve:
        report.tiles(
            [
                Tile("held-out KL before", curve[0][1], "nats a token, without training"),
                Tile("held-out KL after", curve[-1][1], f"{len(rows)} steps", "good"),
            ]
        )
    report.section("KL against steps")
    steps = Series("training texts", [float(row["step"]) for row in rows], [row["distill/loss"] for row in rows])
    lines = [steps]
    if curve:
        lines.append(
            Series(
                "held-out texts",
                [float(step) for step, _ in curve],
                [kl.value for _, kl in curve],
                [kl.low for _, kl in curve],
                [kl.high for _, kl in curve],
            )
        )
    report.plot(
        line_plot(lines, title="KL to the prompted teacher", x_label="optimiser steps", y_label="KL (nats a token)"),
        "The paper's Figure 30; a student of the teacher's own size can come close to 0.",
    )
    return report.write(folder.path / "report.html")
