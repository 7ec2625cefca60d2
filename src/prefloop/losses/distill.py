"""Context distillation: the KL from a teacher's most likely tokens and the rest to a student. Knows tensors alone.

Axes: `token` is any row of predicted places, `vocabulary` the logits, `kept` the teacher's k most likely tokens of a
place, `class` those k and one more for all others. Units: nats. Alignment: row i of every argument belongs to place i.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class TopClasses(NamedTuple):
    """A teacher's distribution as it is stored: the k most likely tokens, best first, and log-probabilities of k + 1
    classes, the last of them of all other tokens together."""

    ids: Int[Tensor, "token kept"]
    logps: Float[Tensor, "token class"]


def top_classes(logits: Float[Tensor, "token vocabulary"], k: int) -> TopClasses:
    """The k most likely tokens of each place and the rest class (paper A.1 keeps k = 50).

    `k` is less than the size of the vocabulary, so that something is left for the rest.
    """
    top = logits.float().topk(k, dim=-1)
    return TopClasses(top.indices, _class_logps(logits, top.indices))


def distill_losses(
    logits: Float[Tensor, "token vocabulary"],
    ids: Int[Tensor, "token kept"],
    logps_teacher: Float[Tensor, "token class"],
) -> Float[Tensor, " token"]:
    """KL(teacher || student) of each place over the k + 1 classes (paper A.1); 0 where they agree on all classes.

    It is at most the KL over the whole vocabulary, since classes thrown together can only hide differences.
    """
    logps_student = _class_logps(logits, ids)
    # A class that the teacher gives nothing costs nothing, whatever the student gives it.
    terms = torch.where(torch.isneginf(logps_teacher), 0.0, logps_teacher.exp() * (logps_teacher - logps_student))
    return terms.sum(-1)


def _class_logps(
    logits: Float[Tensor, "token vocabulary"], ids: Int[Tensor, "token kept"]
) -> Float[Tensor, "token class"]:
    logits = logits.float()
    whole = logits.logsumexp(-1, keepdim=True)
    rest = logits.scatter(-1, ids, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([logits.gather(-1, ids), rest], dim=-1) - whole
