"""What a model's settings say of the lengths that it reads, and at which it behaves otherwise. Computes nothing.

Transformers has no one name for any of it: windows of attention have half a dozen, kinds of layers four, and places may
be counted from an offset.
"""

from __future__ import annotations

import re
from typing import Any

from torch.nn import Embedding

from prefloop.errors import ModelError

__all__ = ["idle_window", "long_rope_from", "longest_tokens", "plain_window", "require_full_attention"]

_FULL = {"full_attention", "global"}
_KINDS = ("layer_types", "attention_layers")  # of all families but GPT-Neo; of GPT-Neo
_WINDOW = re.compile(r"window|chunk|local_attention")
_NO_WINDOW = re.compile(r"^(use|max)_|pattern")  # Qwen's max_window_layers counts layers
_TRIED = 256  # tokens of a window that is tried out; the trial of a wider one would take as long as loading
_NO_LIMIT = 10**9  # tokenizers without a limit give 10^30


def require_full_attention(config: Any) -> None:
    """Refuses a causal model of which each token may see less than all those before it.

    Errors:
        ModelError: it has layers of another kind, a sliding window, or what may be a window too wide to try out.
    """
    name, most = _family(config), longest_tokens(config)
    kinds = {kind for key in _KINDS for kind in getattr(config, key, None) or () if isinstance(kind, str)}
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    if not kinds <= _FULL or (window is not None and (most is None or window < most)):
        raise ModelError(
            f"A {name} model has windowed or non-attention layers ({', '.join(sorted(kinds)) or 'of one kind'}, window "
            f"{window or getattr(config, 'window_size', None)}), with which common beginnings cannot be shared "
            "exactly; take a causal model with full attention."
        )
    for key, tokens in _windows(config).items():
        if tokens > _TRIED:
            raise ModelError(
                f"A {name} model has {key} = {tokens}, which may be a window of its attention and is wider than the "
                f"{_TRIED} tokens that are tried out, so that common beginnings are not known to be shared exactly; "
                "take a causal model with full attention."
            )


def idle_window(config: Any) -> int:
    """The widest window that the settings name and `require_full_attention` lets pass, to be tried out; 0: none."""
    return max(_windows(config).values(), default=0)


def long_rope_from(config: Any) -> int | None:
    """The most tokens of a forward in which all positions turn by the short factors of LongRoPE; None: no LongRoPE.

    One longer sequence in a forward turns all others by the long factors too, shorter ones among them.
    """
    ropes: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    limits = [
        int(rope["original_max_position_embeddings"])
        for rope in (ropes, *ropes.values())  # one for all layers, or one for each kind of them
        if isinstance(rope, dict) and rope.get("rope_type") == "longrope"
    ]
    return min(limits, default=None)


def longest_tokens(config: Any) -> int | None:
    """How many positions a model was made for; None where its settings name no number."""
    most = getattr(config, "max_position_embeddings", None)
    return None if not isinstance(most, int) or most < 1 else most


def plain_window(model: Any, tokenizer: Any) -> int:
    """How many tokens a classifier that is computed without sharing reads: as its places and its tokenizer allow.

    RoBERTa and its kin count places from behind their padding's, which leaves fewer of them for tokens.

    Errors:
        ModelError: neither says a number.
    """
    places = [
        layer.num_embeddings - layer.padding_idx - 1
        for name, layer in model.base_model.named_modules()
        if isinstance(layer, Embedding) and "position" in name and layer.padding_idx is not None
    ]
    limits = (longest_tokens(model.config), tokenizer.model_max_length, *places)
    known = [int(limit) for limit in limits if limit and 0 < limit < _NO_LIMIT]
    if not known:
        raise ModelError(
            f"Neither {type(model).__name__} nor its tokenizer says how many tokens it reads; set model_max_length in "
            "tokenizer_config.json."
        )
    return min(known)


def _windows(config: Any) -> dict[str, int]:
    """Settings that may be windows of attention, in tokens, and would bind within what the model reads."""
    most = longest_tokens(config)
    found = {
        key: max((one for one in (value if isinstance(value, list) else [value]) if type(one) is int), default=0)
        for key, value in vars(config).items()
        if _WINDOW.search(key) and not _NO_WINDOW.search(key) and getattr(config, f"use_{key}", True)
    }
    return {key: tokens for key, tokens in found.items() if tokens > 1 and (most is None or tokens < most)}


def _family(config: Any) -> str:
    return str(getattr(config, "model_type", type(config).__name__))
