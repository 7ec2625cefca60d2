"""The head that gives a causal LM's own logits from the hidden states of its trunk. Knows no training and no packing.

Most models multiply hidden states by the output embedding and are done. Granite divides the logits by a constant of its
config and Cohere multiplies them; Gemma 2 bends them. Whoever runs trunk and head by themselves, as the tries do, must
do the same, or its log-probabilities are not the model's: so what a model does there is looked at, not believed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from prefloop.errors import ModelError
from prefloop.models.head import Head, ScaledHead

__all__ = ["output_head"]

_SCALE = "_prefloop_logit_scale"  # at a model that was looked at; its copies have it too
_FACTORS = ("logit_scale", "logits_scaling")  # in a config: Cohere multiplies by the first, HyperCLOVA X by the second
_DIVISORS = ("logits_scaling",)  # Granite
_WIDEST = 100.0  # of the probe's logits: what bends them shows there, however small those of fresh weights are


class _Probed(NamedTuple):
    given: Tensor  # by the trunk
    read: Tensor  # by the head
    wide: Tensor  # in the place of what the head made of it
    logits: Tensor  # that the model made of those


def output_head(model: Any) -> Head:
    """The model's output embedding, scaled as the model scales its logits.

    A model is looked at the first time, by two forwards of three tokens. Ask once where it is loaded: before it is
    split over processes, and before threads share it.

    Errors:
        ModelError: its logits are not its head's on the trunk's last hidden states, times a constant of its config.
    """
    scale = getattr(model, _SCALE, None)
    if scale is None:
        scale = _scale_of(model)
        setattr(model, _SCALE, scale)
    layer: torch.nn.Module = model.get_output_embeddings()
    return layer if scale == 1.0 else ScaledHead(layer, scale)


def _scale_of(model: Any) -> float:
    name = getattr(model.config, "model_type", type(model.config).__name__)
    advice = "so training would see other log-probabilities than sampling; take another causal model."
    probed = _probed(model)
    if probed is None:
        raise ModelError(f"A {name} model makes its logits without calling its output embedding, {advice}")
    tolerance = 1e-5 if probed.logits.dtype == torch.float32 else 2e-2
    if not _is_close(probed.read, probed.given, tolerance):
        raise ModelError(f"A {name} model changes the hidden states between its trunk and its head, {advice}")
    for scale in _scales(model.config):
        if _is_close(probed.logits, probed.wide * scale, tolerance):
            return scale
    raise ModelError(
        f"A {name} model changes its logits after the head, and not by a constant that its config names "
        f"({' or '.join(_FACTORS)}), {advice}"
    )


def _scales(config: Any) -> list[float]:
    factors = [float(getattr(config, name, None) or 1.0) for name in _FACTORS]
    return [1.0, *factors, *(1.0 / float(getattr(config, name, None) or 1.0) for name in _DIVISORS)]


def _probed(model: Any) -> _Probed | None:
    """What a model does with wide logits in the place of its head's; None where it does not call its head as a layer.

    The wide ones tell a bend from a straight line in any dtype, and cost no weights.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def after_head(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        values = torch.linspace(-_WIDEST, _WIDEST, output.numel(), device=output.device)
        wide = values.view_as(output).to(output.dtype)
        seen.append((inputs[0], wide))
        return wide.clone()  # some models change their logits in place

    ids = torch.tensor([[index % model.config.vocab_size for index in (3, 1, 4)]], device=model.device)
    hook = model.get_output_embeddings().register_forward_hook(after_head)
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
            given: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            logits: Tensor = model(input_ids=ids, use_cache=False).logits
    finally:
        model.train(was_training)
        hook.remove()
    return _Probed(given, *seen[0], logits) if seen else None


def _is_close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Relative to the larger one as a whole; False for shapes that differ and for what is not finite."""
    if one.shape != other.shape:
        return False
    return bool((one.float() - other.float()).norm() <= tolerance * other.float().norm())
