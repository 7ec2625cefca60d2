"""Training a language model from scratch or on from a folder. One loop, top to bottom; knows no preference.

Every token of the texts is a target (headers and the person's turns too), or with `targets` the replies alone:
supervised fine-tuning. Policies start from either. Texts are packed as tries, so documents never see each other.

Deviations from the paper: (1) the models are trained from scratch on the texts at hand, (2) an optional warm-up on
random tokens written twice, where the second copy is the target, builds the copying heads that a small model
otherwise finds late, if at all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from tqdm import tqdm

from prefloop.config import DEVICE, NAME, Config, Seed
from prefloop.errors import DataError, TrainingError
from prefloop.models.checkpoint import (
    latest_checkpoint,
    load_optimizer_state,
    optimizer_state,
    save_checkpoint,
)
from prefloop.models.devices import device_named
from prefloop.models.head import head_logps
from prefloop.models.language import (
    LanguageModel,
    load_language_model,
    new_llama,
    save_model,
    scale_logits,
    train_tokenizer,
    window_tokens,
)
from prefloop.models.output_head import output_head
from prefloop.models.trie import pack, packed_hidden, require_exact
from prefloop.render import Renderer
from prefloop.runs import RunFolder
from prefloop.schema import HELD_OUT_SHARE, Message
from prefloop.train.divergence import require_room, require_sound
from prefloop.train.threads import own_threads_afterwards, take_threads

Conversation = Sequence[Message]


class ModelShape(Config):
    """A new Llama, where no `start` is given."""

    hidden: int = Field(128, ge=8, description="width of the residual stream")
    layers: int = Field(4, ge=1, description="of attention and feed-forward")
    heads: int = Field(4, ge=1, description="of attention; hidden is a multiple of twice as many")
    vocabulary: int = Field(2048, ge=300, description="size of the byte-level BPE trained on the texts")
    window_tokens: int = Field(512, ge=16, description="the longest conversation that the model can attend to")

    @model_validator(mode="after")
    def _heads_are_even(self) -> Self:
        # Rotary positions turn the numbers of a head in pairs.
        if self.hidden % (2 * self.heads):
            raise ValueError(
                f"hidden is {self.hidden} with {self.heads} heads; make it a multiple of {2 * self.heads}, "
                "so that every head is equally and evenly wide"
            )
        return self


class LanguageRun(Config):
    """`prefloop train lm RUN.toml`."""

    name: str = Field("lm", pattern=NAME, description="goes into the names of the run folder and the snapshot")
    start: Path | None = Field(None, description="Hugging Face folder to go on from; empty starts from scratch")
    sandbox_dialogues: int = Field(
        0, ge=0, description="texts of the tiny world; 0 takes the workspace's conversations"
    )
    sandbox_assistants: int = Field(
        0, ge=0, description="texts of the tiny world, each several dialogues of one assistant, good or bad"
    )
    held_out_share: float = Field(
        HELD_OUT_SHARE, ge=0.0, lt=1.0, description="share of the workspace's conversations left out"
    )
    targets: Literal["all", "replies", "last_reply"] = Field(
        "all", description="tokens that are learned: all of the text, every reply, or the one that people preferred"
    )
    shape: ModelShape = ModelShape()
    copy_steps: int = Field(0, ge=0, description="warm-up steps on random tokens written twice")
    copy_tokens_per_step: int = Field(2048, ge=64, description="smaller than tokens_per_step: what counts is steps")
    steps: int = Field(1000, ge=1, description="optimiser steps on the texts")
    tokens_per_step: int = Field(8192, ge=64, description="tokens of text that make an optimiser step")
    row_tokens: int = Field(512, ge=16, description="length of a packed row; short rows are cheap on a CPU")
    learning_rate: float = Field(2e-3, gt=0.0, description="peak; cosine to a tenth of it")
    warmup_steps: int = Field(50, ge=0, description="linear from 0")
    weight_decay: float = Field(0.1, ge=0.0, description="of matrices; norms do not decay")
    max_gradient_norm: float = Field(1.0, gt=0.0, description="longer gradients are shortened to this")
    held_out_conversations: int = Field(200, ge=0, description="taken from the end of the texts for lm/held_out_loss")
    checkpoint_every_steps: int = Field(200, ge=1, description="also when the held-out loss is measured")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="autocast of the forward and backward pass")
    logit_scale: float = Field(
        1.0, gt=0.0, description="multiplies the logits of the written model: above 1, rare slips become rarer"
    )
    saved_dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="of the written weights")
    device: str = Field("auto", pattern=DEVICE, description="'auto' takes a GPU if there is one")
    seed: Seed = Field(0, description="of weights, texts and order")


@own_threads_afterwards()
def train_language_model(
    run: LanguageRun,
    conversations: Sequence[Conversation],
    folder: RunFolder,
    *,
    resume: bool = False,
    progress: Callable[..., Any] = tqdm,
) -> Path:
    """Trains and writes `folder/model` (a Hugging Face folder); returns its path.

    Errors:
        DataError: no conversations, or none that fits the window.
        ModelError: `run.start` cannot be loaded, its attention cannot go through packed texts exactly, or
            `output_head` refuses it.
        TrainingError: a loss, a gradient or a weight is not finite; the last checkpoint stays.
    """
    take_threads(folder)
    held_out = conversations[len(conversations) - run.held_out_conversations :] if run.held_out_conversations else []
    training = conversations[: len(conversations) - len(held_out)]
    if not training:
        raise DataError(f"{len(conversations)} conversations leave none to train on; give more texts.")
    torch.manual_seed(run.seed)
    model, renderer = _start(run, training).to(device_named(run.device))
    require_exact(model.base_model)  # texts are packed, and a window would be undone
    output_head(model)
    window = window_tokens(model)
    texts = _tokenized(training, renderer, window, run.targets)
    held_out_texts = _tokenized(held_out, renderer, window, run.targets)
    if not texts:
        raise DataError(
            f"None of the {len(training)} conversations has a reply within the window of {window} tokens; set "
            "targets = 'all', or give shorter ones."
        )
    optimizer = _optimizer(model, run)
    order = _Order(len(texts), run.seed)
    first_step = 0
    if resume and (checkpoint := latest_checkpoint(folder.checkpoints)) is not None:
        model.load_state_dict(checkpoint.part("model"), strict=False)
        load_optimizer_state(optimizer, checkpoint.part("optimizer"), checkpoint.state["optimizer"])
        order.load(checkpoint.state["order"])
        first_step = checkpoint.step
    if resume:
        folder.rewind(first_step)
    total = run.copy_steps + run.steps
    advice = f"lower learning_rate (now {run.learning_rate:g}) and start again; the last checkpoint stays"
    model.train()
    bar = progress(range(first_step, total), initial=first_step, total=total, desc=f"train lm {run.name}")
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = run.learning_rate * _schedule(step, run)
        is_copying = step < run.copy_steps
        part = _copy_batch(step, run, renderer) if is_copying else order.take(texts, run.tokens_per_step)
        loss = _loss(model, part, run)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), run.max_gradient_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise TrainingError(f"Step {step + 1} has loss {loss.item()} and gradient norm {norm.item()}; {advice}.")
        optimizer.step()
        optimizer.zero_grad()
        row: dict[str, Any] = {"step": step + 1, "lm/loss": loss.item(), "lm/gradient_norm": norm.item()}
        is_last = step + 1 == total
        if is_last or (step + 1) % run.checkpoint_every_steps == 0:
            with torch.no_grad():
                require_sound(model, _loss(model, part[:1], run)[None], f"After step {step + 1} ", advice)
            if held_out_texts:
                row["lm/held_out_loss"] = held_out_loss(model, held_out_texts, run)
            folder.log(row)
            is_tied = model.config.tie_word_embeddings
            tensors, optimizer_facts = optimizer_state(optimizer)
            save_checkpoint(
                folder.checkpoints,
                step + 1,
                {f"model.{k}": v for k, v in model.state_dict().items() if not (is_tied and k == "lm_head.weight")}
                | {f"optimizer.{k}": v for k, v in tensors.items()},
                {"optimizer": optimizer_facts, "order": order.state()},
            )
        else:
            folder.log(row)
        bar.set_postfix(loss=f"{loss.item():.3f}")
    model.eval()
    if run.logit_scale != 1.0:
        scale_logits(model, run.logit_scale)
    saved_dtype = getattr(torch, run.saved_dtype)
    require_room(model.to(saved_dtype), saved_dtype)
    return save_model(model, renderer.tokenizer, folder.path / "model")


class Text(NamedTuple):
    """Ids, and the places in them (never the first) that are learned."""

    ids: list[int]
    targets: list[int]


@torch.no_grad()
def held_out_loss(model: Any, texts: Sequence[Text], run: LanguageRun) -> float:
    """Mean negative log-likelihood of the targets, nats."""
    model.eval()
    total, tokens = 0.0, 0
    for start in range(0, len(texts), 64):
        part = texts[start : start + 64]
        count = sum(len(text.targets) for text in part)
        total += _loss(model, part, run).item() * count
        tokens += count
    model.train()
    return total / tokens


def _start(run: LanguageRun, training: Sequence[Conversation]) -> LanguageModel:
    if run.start is not None:
        return load_language_model(run.start)
    tokenizer = train_tokenizer(
        # Message by message: a word that begins a reply is not led by a space and must get a token of its own.
        (message.text for conversation in training for message in conversation),
        run.shape.vocabulary,
    )
    shape = run.shape
    model = new_llama(
        tokenizer,
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        window_tokens=shape.window_tokens,
        seed=run.seed,
    )
    return LanguageModel(model, Renderer(tokenizer))


def _tokenized(
    conversations: Sequence[Conversation], renderer: Renderer, window_tokens: int, targets: str
) -> list[Text]:
    """Ids of each conversation; what is longer than the window keeps its beginning. Without a target it is left out."""
    texts = []
    for conversation in conversations:
        rendered = renderer.conversation(conversation)
        wanted = [targets == "all" or is_response for is_response in rendered.is_response]
        if targets == "last_reply":
            last = len(rendered.ids) - len(renderer.turn_ids(conversation[-1]))
            wanted = [is_wanted and place >= last for place, is_wanted in enumerate(wanted)]
        size = min(len(rendered.ids), window_tokens)
        texts.append(Text(rendered.ids[:size], [place for place in range(1, size) if wanted[place]]))
    return [text for text in texts if text.targets]


class _Order:
    """Walks through shuffled texts, epoch after epoch; where it stands is its epoch and its place."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch, self.place = size, seed, 0, 0
        self._shuffle()

    def take(self, texts: Sequence[Text], tokens: int) -> list[Text]:
        taken: list[Text] = []
        while sum(len(text.ids) for text in taken) < tokens:
            if self.place == self.size:
                self.epoch, self.place = self.epoch + 1, 0
                self._shuffle()
            taken.append(texts[self._permutation[self.place]])
            self.place += 1
        return taken

    def state(self) -> dict[str, int]:
        return {"epoch": self.epoch, "place": self.place}

    def load(self, state: dict[str, int]) -> None:
        self.epoch, self.place = state["epoch"], state["place"]
        self._shuffle()

    def _shuffle(self) -> None:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        self._permutation = torch.randperm(self.size, generator=generator).tolist()


def _copy_batch(step: int, run: LanguageRun, renderer: Renderer) -> list[Text]:
    """Random tokens written twice; the loss is on the second copy alone, but for its first token."""
    generator = torch.Generator().manual_seed(run.seed * 1_000_003 + step)
    vocabulary = len(renderer.tokenizer)
    texts, tokens = [], 0
    while tokens < run.copy_tokens_per_step:
        length = int(torch.randint(8, 33, (1,), generator=generator))
        once = torch.randint(0, vocabulary, (length,), generator=generator).tolist()
        texts.append(Text(once + once, list(range(length + 1, 2 * length))))
        tokens += 2 * length
    return texts


def _loss(model: Any, texts: Sequence[Text], run: LanguageRun) -> Tensor:
    """Mean next-token loss (nats) over the targets of all texts."""
    batch = pack([text.ids for text in texts], run.row_tokens).to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=run.dtype == "bfloat16"):
        index = torch.cat(
            [places[torch.tensor(text.targets) - 1] for places, text in zip(batch.token_index, texts, strict=True)]
        )
        target = torch.tensor([text.ids[place] for text in texts for place in text.targets], device=model.device)
        hidden = packed_hidden(model.base_model, batch, index)
        return -head_logps(output_head(model), hidden, target).mean()


def _optimizer(model: Any, run: LanguageRun) -> torch.optim.Optimizer:
    """AdamW; matrices decay, vectors (norms) do not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": run.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=run.learning_rate, betas=(0.9, 0.95), fused=True)


def _schedule(step: int, run: LanguageRun) -> float:
    """Linear warm-up, then cosine to a tenth."""
    total = run.copy_steps + run.steps
    if step < run.warmup_steps:
        return (step + 1) / run.warmup_steps
    done = (step - run.warmup_steps) / max(total - run.warmup_steps, 1)
    return 0.1 + 0.45 * (1.0 + math.cos(math.pi * done))
