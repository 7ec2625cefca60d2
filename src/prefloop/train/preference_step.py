"""One step's comparisons as ids, and their losses and gradients. Knows no optimiser, no order and no file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from prefloop.errors import DataError
from prefloop.losses import centring_penalties, preference_losses
from prefloop.models.preference import EncodedPair, PreferenceModel
from prefloop.schema import PreferencePair
from prefloop.train.processes import Processes

__all__ = ["Lesson", "StepLosses", "backward", "encode", "require_one_fits"]


class Lesson(NamedTuple):
    """A comparison as ids, how sure its label is and how much it counts."""

    ids: EncodedPair
    probability: float = 1.0
    weight: float = 1.0


class StepLosses(NamedTuple):
    """Means over the comparisons of a step (nats), their raw scores, and the tokens computed and before sharing."""

    loss: float
    language_loss: float
    centring: float
    chosen: Tensor  # (comparison,)
    rejected: Tensor
    tokens: int
    tokens_unshared: int


def encode(
    model: PreferenceModel,
    pairs: Sequence[PreferencePair],
    counts: dict[str, int],
    probabilities: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
) -> list[Lesson]:
    """The pairs that fit the window; adds to `counts`."""
    lessons = []
    for place, pair in enumerate(pairs):
        try:
            both = model.encode_pair(pair)
        except DataError:
            counts["dropped_long_pairs"] += 1
            continue
        lessons.append(
            Lesson(
                both,
                1.0 if probabilities is None else probabilities[place],
                1.0 if weights is None else weights[place],
            )
        )
        counts["pairs"] += 1
        counts["dropped_turns"] += both.dropped_turns
    return lessons


def require_one_fits(model: PreferenceModel, pairs: Sequence[PreferencePair], what: str) -> None:
    """That a model can be evaluated on these pairs, before hours of training and not after them; 0 pairs ask nothing.

    Errors:
        DataError: none of them fits its window.
    """
    for pair in pairs:
        with contextlib.suppress(DataError):  # too long: the next one may fit
            model.encode_pair(pair)
            return
    if pairs:
        raise model.none_fits(f"the {len(pairs)} {what}")


def backward(
    model: PreferenceModel,
    lessons: Sequence[Lesson],
    *,
    output: Tensor | None,
    dtype: torch.dtype | None,
    tokens_per_forward: int,
    label_smoothing: float = 0.0,
    language_weight: float = 0.0,
    centring: float = 0.0,
    processes: Processes | None = None,
) -> StepLosses:
    """Adds the gradient of the step's loss to the model's, in parts that bound memory and never change the result.

    The loss is the mean over `lessons` of weight times preference loss, plus the language-model loss and the centring
    penalty times their coefficients. At least one lesson is needed.

    Args:
        output: the output embedding for the language-model loss; None leaves it out.
        dtype: of autocast; None is fp32.
        processes: each computes its share of the parts, and as many as every other, so that split weights can be
            gathered by all at once; its gradient is that of its share, the losses are those of all.
    """
    processes = processes or Processes()
    total_loss = total_language = total_centring = 0.0
    tokens = tokens_unshared = 0
    scored: list[tuple[Tensor, Tensor]] = []
    if processes.count > 1:
        size = sum(len(one.ids.chosen) + len(one.ids.rejected) for one in lessons)
        tokens_per_forward = min(tokens_per_forward, -(-size // processes.count))
    parts = list(_parts(lessons, tokens_per_forward))
    for part, counts in processes.even(processes.share(parts), parts[0]):
        batch = model.pack([ids for lesson in part for ids in (lesson.ids.chosen, lesson.ids.rejected)])
        with torch.autocast(model.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            if output is None:
                scores, language_loss = model.forward_packed(batch), torch.zeros((), device=model.device)
            else:
                chosen_ones = range(0, 2 * len(part), 2)
                scores, language_loss = model.forward_packed_with_language(batch, chosen_ones, output)
        probability, weight = (scores.new_tensor([getattr(one, name) for one in part]) for name in Lesson._fields[1:])
        losses = preference_losses(scores[0::2], scores[1::2], label_smoothing, probability)
        loss = (weight * losses).sum() / len(lessons)
        language_loss = language_loss / len(lessons)
        penalty = centring_penalties(scores[0::2], scores[1::2]).sum() / len(lessons)
        whole = loss + language_weight * language_loss + centring * penalty
        (whole * float(counts)).backward()  # type: ignore[no-untyped-call]
        if not counts:
            continue
        total_loss += loss.item()
        total_language += language_loss.item()
        total_centring += penalty.item()
        scored.append((scores[0::2].detach().cpu(), scores[1::2].detach().cpu()))
        tokens, tokens_unshared = tokens + batch.tokens, tokens_unshared + batch.tokens_unshared
    chosen, rejected = (torch.cat(side) for side in zip(*processes.gathered(scored), strict=True))
    *means, computed, before = processes.summed(total_loss, total_language, total_centring, tokens, tokens_unshared)
    return StepLosses(means[0], means[1], means[2], chosen, rejected, int(computed), int(before))


def _parts(lessons: Sequence[Lesson], tokens: int) -> Iterator[Sequence[Lesson]]:
    """Runs of pairs of at most `tokens` tokens before sharing (a longer pair goes alone)."""
    start, used = 0, 0
    for index, lesson in enumerate(lessons):
        size = len(lesson.ids.chosen) + len(lesson.ids.rejected)
        if index > start and used + size > tokens:
            yield lessons[start:index]
            start, used = index, 0
        used += size
    if start < len(lessons):
        yield lessons[start:]
