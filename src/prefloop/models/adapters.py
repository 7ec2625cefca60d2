"""LoRA adapters (Hu et al. 2022) over causal models and preference models, by peft: made, saved, merged and shared.

An adapter folder is peft's own format, with tokenizer and config.json beside it, so that peft and vLLM load it as it is
over its base. Here it is merged into its base when it is loaded to be used alone, and kept apart when several are
served over one base. Knows no training, no conversations and no server.

    <folder>/adapter_config.json         rank, scale, and where the base is
             adapter_model.safetensors   the two factors of every linear layer, and a preference model's head
             base.json                   SHA-256 of the base's weights: over other weights the adapter means nothing
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from prefloop.errors import ModelError

__all__ = ["adapted", "adapter_base", "add_lora", "is_adapter", "linear_part", "sharing_copy", "trained_state"]

_CONFIG, _WEIGHTS, _BASE = "adapter_config.json", "adapter_model.safetensors", "base.json"
_PREFIX = "base_model.model."  # peft's, of every name in a file
_NAME = "default"  # of an adapter within a model


class LinearPart(NamedTuple):
    """What a linear layer computes with: an adapter is already added to the weight, differentiably."""

    weight: Tensor
    bias: Tensor | None


class _Made(NamedTuple):
    """What `add_lora` notes at a model for the time when it is saved."""

    base: str
    config: Any
    head: str | None


def add_lora(model: Any, rank: int, scale: float, seed: int, *, base: str | Path = "", head: str | None = None) -> None:
    """Puts a fresh adapter beside every linear layer of a trunk, in place. It changes nothing yet, and alone learns.

    Args:
        model: a causal LM, a sequence classifier or a trunk.
        rank: of the factors.
        scale: on their product, alpha / rank.
        seed: draws one factor; the other is 0.
        base: folder or hub id of the model's weights, for saving.
        head: name of a layer outside the trunk that learns whole and is saved with the adapter.

    Errors:
        ModelError: peft is missing, the base is an adapter itself, or a layer of the trunk cannot carry one.
    """
    peft = _peft()
    if base and is_adapter(base):
        raise ModelError(
            f"{base} is an adapter; merge it first (prefloop snapshots export) and start from that folder."
        )
    trunk = model if model.base_model is model else model.base_model
    kinds = {name: type(module).__name__ for name, module in trunk.named_modules()}
    targets = sorted({name.rpartition(".")[2] for name, kind in kinds.items() if kind in ("Linear", "Conv1D")})
    config = peft.LoraConfig(
        r=rank,
        lora_alpha=rank * scale,
        target_modules=targets,
        fan_in_fan_out="Conv1D" in kinds.values(),
        task_type=None if not base else "CAUSAL_LM" if head is None else "SEQ_CLS",
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(config, model, _NAME)
    if head is not None:
        model.get_submodule(head).weight.requires_grad_(True)
    model.adapter = _Made(str(Path(base).resolve()) if Path(base).is_dir() else str(base), config, head)


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (Path(path) / _CONFIG).is_file()


def adapter_base(path: str | Path) -> str:
    """The base of an adapter: a folder or a hub id.

    Errors:
        ModelError: the folder of the base is gone, or its weights are others by now.
    """
    base = str(_read_json(Path(path) / _CONFIG).get("base_model_name_or_path", ""))
    noted = _read_json(Path(path) / _BASE).get("sha256") if (Path(path) / _BASE).is_file() else None
    if noted is not None and not Path(base).is_dir():
        raise ModelError(f"The adapter at {path} needs its base model at {base}, which is gone; put it back there.")
    if noted is not None and noted != _weights_hash(Path(base)):
        raise ModelError(
            f"The weights at {base} are not those that the adapter at {path} was made over; put them back."
        )
    return base


def save_adapter(model: Any, folder: Path) -> None:
    """Writes the adapter of a model that `add_lora` made, and the model's configuration, into an existing folder."""
    made: _Made = model.adapter
    config = copy.copy(made.config)
    config.base_model_name_or_path, config.inference_mode = made.base, True
    config.modules_to_save = None if made.head is None else [made.head]
    config.save_pretrained(str(folder))
    tensors = {
        _PREFIX + name.replace(f".{_NAME}.", "."): value.detach().cpu().contiguous()
        for name, value in trained_state(model).items()
    }
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if Path(made.base).is_dir():
        digest = _weights_hash(Path(made.base))
        (folder / _BASE).write_text(json.dumps({"sha256": digest}) + "\n", encoding="utf-8")


def trained_state(model: Any) -> dict[str, Tensor]:
    """What training changes of a model, by name: an adapter and its head, or everything."""
    if getattr(model, "adapter", None) is None:
        whole: dict[str, Tensor] = model.state_dict()
        return whole
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def adapted(base: Any, path: str | Path) -> Any:
    """A model that shares all weights of `base` and has the adapter of a folder beside them.

    Errors:
        ModelError: peft is missing, or the adapter does not fit.
    """
    model = sharing_copy(base)
    _put(model, Path(path))
    return model.to(next(base.parameters()).device)


def merge_adapter(model: Any, path: str | Path) -> None:
    """Adds the adapter of a folder to the weights of its base, in place; what is left is a plain model.

    Errors:
        ModelError: peft is missing, or the adapter does not fit.
    """
    _put(model, Path(path))
    with torch.no_grad():
        for layer in [module for module in model.modules() if _is_lora(module)]:
            layer.get_base_layer().weight.add_(layer.get_delta_weight(_NAME))
    _replaced(model, lambda layer: layer.get_base_layer())
    model.requires_grad_(True)


def sharing_copy(model: Any) -> Any:
    """A copy whose weights are the model's own tensors, without its adapter: the model as it was before."""
    memo = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    twin = copy.deepcopy(model, memo)
    _replaced(twin, lambda layer: layer.get_base_layer())
    twin.adapter = None
    return twin


def linear_part(layer: Any) -> LinearPart | None:
    """Weight and bias of a linear layer, plain or with one adapter of the kind made here; None for any other layer."""
    if type(layer) is torch.nn.Linear:
        return LinearPart(layer.weight, layer.bias)
    if not _is_lora(layer) or type(base := layer.get_base_layer()) is not torch.nn.Linear:
        return None
    if layer.disable_adapters:
        return LinearPart(base.weight, base.bias)
    is_ours = layer.active_adapters == [_NAME] and not layer.merged and not layer.lora_variant
    if not is_ours or layer.lora_bias[_NAME] or type(layer.lora_dropout[_NAME]) is not torch.nn.Identity:
        return None
    return LinearPart(base.weight + layer.get_delta_weight(_NAME).to(base.weight.dtype), base.bias)


def has_head(path: str | Path) -> bool:
    """Whether the adapter brings a head with it: a preference model's."""
    return bool(_read_json(Path(path) / _CONFIG).get("modules_to_save"))


def _put(model: Any, path: Path) -> None:
    peft = _peft()
    try:
        config = peft.LoraConfig.from_pretrained(str(path))
        tensors = load_file(path / _WEIGHTS)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} holds no LoRA adapter that can be read ({error}); fetch it again.") from None
    if config.use_dora or config.bias != "none" or config.lora_bias:
        raise ModelError(f"The adapter at {path} is no plain LoRA (DoRA or biases); merge it into its base elsewhere.")
    heads = config.modules_to_save or []
    config.modules_to_save, config.lora_dropout = None, 0.0
    with torch.random.fork_rng(devices=[]):
        peft.inject_adapter_in_model(config, model, _NAME)
    names = {_file_name(name): value for name, value in model.named_parameters()}
    wanted = {name for name in names if ".lora_A." in name or ".lora_B." in name}
    wanted |= {f"{_PREFIX}{head}.weight" for head in heads}
    wrong = (wanted ^ tensors.keys()) | {
        name for name in wanted & tensors.keys() if names[name].shape != tensors[name].shape
    }
    if wrong:
        raise ModelError(
            f"The adapter at {path} does not fit its base: {len(wrong)} tensors are missing, unknown or of another "
            f"shape ({min(wrong)} first); fetch both again."
        )
    with torch.no_grad():
        for name, value in tensors.items():
            names[name].copy_(value)
    model.requires_grad_(False)


def _file_name(name: str) -> str:
    return _PREFIX + name.replace(f".{_NAME}.", ".").replace(".base_layer.", ".")


def _is_lora(module: Any) -> bool:
    return hasattr(module, "lora_A") and hasattr(module, "get_delta_weight")


def _replaced(model: Any, by: Callable[[Any], Any]) -> None:
    """Puts something else in the place of every layer with an adapter."""
    for name, layer in [(name, module) for name, module in model.named_modules() if _is_lora(module)]:
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, by(layer))


def _weights_hash(folder: Path) -> str:
    files = sorted(folder.glob("*.safetensors"))
    return _hash_of(tuple((file, (facts := file.stat()).st_size, facts.st_mtime_ns) for file in files))


@lru_cache(maxsize=16)
def _hash_of(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Of files as they are at these sizes and times: a run saves an adapter a batch over a base that stays."""
    whole = hashlib.sha256()
    for file, *_ in files:
        with file.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read ({error}); fetch the adapter again.") from None


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ModelError("Adapters need peft: pip install 'prefloop[lora]'.") from None
    return peft
