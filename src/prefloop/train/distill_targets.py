"""What a teacher that reads an example prompt expects at every token of some texts, computed once and kept in a file.

A file of targets is safetensors with a digest of everything that it depends on (teacher, prompt, texts, classes), so
that a run with other learning rates, or another student, takes it again and a wrong one is refused. Knows no optimiser.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prefloop.errors import DataError, ModelError
from prefloop.losses import top_classes
from prefloop.models.head import tokens_at_once
from prefloop.models.output_head import output_head
from prefloop.models.trie import pack, packed_hidden
from prefloop.render import Renderer
from prefloop.schema import Message

__all__ = ["DistillText", "DistillTexts", "Targets", "encode_texts", "load_targets", "make_targets", "targets_digest"]

_ROWS_A_FORWARD = 8


@dataclass(frozen=True)
class DistillText:
    """One text without the prompt, as ids. `is_target` is True on the tokens whose distribution is learned."""

    ids: list[int]
    is_target: list[bool]
    prompted_ids: list[int]  # the same behind the prompt: ends with the turns of `ids`

    @property
    def places(self) -> list[int]:
        """Places in `ids` of the targets."""
        return [place for place, wanted in enumerate(self.is_target) if wanted]


@dataclass(frozen=True)
class DistillTexts:
    """Texts that fit, and how many did not."""

    texts: list[DistillText]
    dropped_long: int


def encode_texts(
    renderer: Renderer,
    prompt: Sequence[Message],
    conversations: Sequence[Sequence[Message]],
    window_tokens: int,
    *,
    replies_only: bool,
) -> DistillTexts:
    """Ids of each conversation alone and behind the prompt; one that does not fit behind it is left out and counted.

    The first token of a conversation has no place before it where there is no prompt, so it is no target.

    Errors:
        DataError: the prompt alone fills the window, or no conversation fits behind it.
    """
    room = window_tokens - len(renderer.conversation(prompt).ids)
    if room < 2:
        raise DataError(
            f"The example prompt has {window_tokens - room} tokens and the model's window {window_tokens}, which "
            "leaves no room for a text; shorten the prompt."
        )
    texts: list[DistillText] = []
    for conversation in conversations:
        alone = renderer.conversation(conversation)
        prompted = renderer.conversation([*prompt, *conversation]).ids
        turns = sum(len(renderer.turn_ids(message)) for message in conversation)
        if len(prompted) > window_tokens or turns < 2:
            continue
        first = len(alone.ids) - turns + 1
        is_target = [
            place >= first and (not replies_only or is_response) for place, is_response in enumerate(alone.is_response)
        ]
        if any(is_target):
            texts.append(DistillText(alone.ids, is_target, prompted))
    if not texts:
        raise DataError(
            f"None of the {len(conversations)} texts fits the {room} tokens that the example prompt leaves of the "
            "window; shorten the prompt or give shorter texts."
        )
    return DistillTexts(texts, len(conversations) - len(texts))


@dataclass(frozen=True)
class Targets:
    """The teacher's classes at every target of the texts, text after text; `starts[i]` is where text i begins."""

    ids: Int[Tensor, "token kept"]
    logps: Float[Tensor, "token class"]
    starts: list[int]

    def of(self, texts: Iterable[int]) -> tuple[Int[Tensor, "token kept"], Float[Tensor, "token class"]]:
        """The classes of some texts, one after the other, in int64 and float32."""
        rows = torch.cat([torch.arange(self.starts[text], self.starts[text + 1]) for text in texts])
        # Stored in halves: brought back to sum to 1.
        return self.ids[rows].long(), self.logps[rows].float().log_softmax(-1)


def targets_digest(teacher: Path, texts: Sequence[DistillText], classes: int) -> str:
    """A digest of what the targets depend on."""
    whole = hashlib.sha256(f"{classes}\n".encode())
    files = sorted(teacher.glob("*.safetensors")) if teacher.is_dir() else []
    for file in files:
        with file.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, "sha256").digest())
    if not files:
        whole.update(str(teacher).encode())
    for text in texts:
        whole.update(json.dumps([text.prompted_ids, text.places]).encode())
    return whole.hexdigest()


@torch.no_grad()
def make_targets(
    teacher: Any, texts: Sequence[DistillText], classes: int, path: Path, digest: str, progress: Callable[..., Any]
) -> Targets:
    """Reads every text behind the prompt once (the prompt is computed once for several texts) and writes the file.

    Errors:
        DataError: as many classes as the vocabulary has tokens, or more.
    """
    head: Any = output_head(teacher)
    vocabulary = len(head.weight)
    if classes >= vocabulary:
        raise DataError(f"classes = {classes} and the vocabulary has {vocabulary} tokens; keep fewer.")
    device = next(teacher.parameters()).device
    ids, logps, starts = [], [], [0]
    order = range(0, len(texts), _ROWS_A_FORWARD)
    for start in progress(order, desc="teacher", unit_scale=_ROWS_A_FORWARD):
        part = texts[start : start + _ROWS_A_FORWARD]
        longest = max(len(text.prompted_ids) for text in part)
        batch = pack([text.prompted_ids for text in part], 4 * longest).to(device)
        at = [
            index[len(text.prompted_ids) - len(text.ids) + torch.tensor(text.places) - 1]
            for index, text in zip(batch.token_index, part, strict=True)
        ]
        hidden = packed_hidden(teacher.base_model, batch, torch.cat(at))
        for chunk in torch.split(hidden, tokens_at_once(head)):
            top = top_classes(head(chunk), classes)
            ids.append(top.ids.int().cpu())
            logps.append(top.logps.clamp(min=torch.finfo(torch.float16).min).half().cpu())
        starts += [starts[-1] + sum(len(text.places) for text in part[: place + 1]) for place in range(len(part))]
    targets = Targets(torch.cat(ids), torch.cat(logps), starts)
    _write(path, targets, digest)
    return targets


def load_targets(path: Path, digest: str) -> Targets:
    """What `make_targets` wrote.

    Errors:
        DataError: it belongs to another teacher, prompt, texts or number of classes.
        ModelError: the file is damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("digest")
            tensors = {name: file.get_tensor(name) for name in ("ids", "logps", "starts")}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"The targets {path} are damaged ({error}); delete the file to compute them again.") from None
    if found != digest:
        raise DataError(
            f"The targets {path} were made by another teacher, from another prompt or texts, or with another number of "
            "classes; name another file, or delete this one."
        )
    return Targets(tensors["ids"], tensors["logps"], tensors["starts"].tolist())


def _write(path: Path, targets: Targets, digest: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    tensors = {"ids": targets.ids, "logps": targets.logps, "starts": torch.tensor(targets.starts)}
    save_file(tensors, temporary, {"digest": digest})
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(temporary, path)
