"""Language models: our tokenizer, a new Llama, loading and saving of Hugging Face folders. Knows no training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from prefloop.errors import ModelError
from prefloop.models.adapters import adapter_base, has_head, is_adapter, merge_adapter, save_adapter
from prefloop.models.checkpoint import replace_folder
from prefloop.models.trie import settle
from prefloop.render import END, OWN_CHAT_TEMPLATE, PAD, SPECIAL_TOKENS, Renderer

transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # what is wrong with a model is our one sentence
transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # loading takes a blink here; the bars that matter are ours


_FAULTS = (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError, StrictDataclassError)
"""What transformers raises for a folder that is missing, damaged or of the wrong types."""


_ALIGNMENT = 64  # bytes, of memory that torch allocates on a CPU

_LAST_NORMS = ("norm", "final_layer_norm", "ln_f")  # Llama, Qwen and OLMo; GPT-NeoX; GPT-2


class LanguageModel(NamedTuple):
    """A causal language model and the renderer of its tokenizer."""

    model: Any
    renderer: Renderer

    def to(self, device: torch.device | str) -> LanguageModel:
        """Moves the model; how tries run through its trunk is decided anew there (`settle`)."""
        self.model.to(device)
        with suppress(ModelError):  # it answers all the same; who needs shared beginnings asks for `require_exact`
            settle(self.model.base_model)
        return self


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` tokens with our headers as special tokens and our chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[token for token in SPECIAL_TOKENS if token not in (PAD, END)],
        chat_template=OWN_CHAT_TEMPLATE,
    )


def new_llama(
    tokenizer: PreTrainedTokenizerFast, *, hidden: int, layers: int, heads: int, window_tokens: int, seed: int
) -> LlamaForCausalLM:
    """A randomly initialised Llama with tied embeddings; the feed-forward width is 8/3 hidden, in steps of 32."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=-(-hidden * 8 // 3 // 32) * 32,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=window_tokens,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config)


def load_tokenizer(path: str | Path) -> Any:
    """The tokenizer of a Hugging Face folder or hub id."""
    try:
        return AutoTokenizer.from_pretrained(str(path))
    except _FAULTS as error:
        raise ModelError(f"No tokenizer can be loaded from {path}: {_first_sentence(error)}") from None


def load_config(path: str | Path) -> Any:
    """The configuration of a Hugging Face folder or hub id, without weights."""
    try:
        return AutoConfig.from_pretrained(str(path))
    except _FAULTS as error:
        raise ModelError(f"No model can be loaded from {path}: {_first_sentence(error)}") from None


def load_weights(
    kind: Any, path: str | Path, dtype: torch.dtype = torch.float32, *, config: Any = None, trunk_alone: bool = False
) -> Any:
    """A model of a transformers class (`AutoModelForCausalLM`, say) with every one of its tensors from the files.

    An adapter is merged into its base.

    Args:
        config: instead of the one beside the weights.
        trunk_alone: what stands around the trunk, and the trunk's pooler, may be missing: torch's generator draws it.

    Errors:
        ModelError: no safetensors, a damaged file, one with values that are not finite, or one whose tensors are
            missing or of another shape: transformers would fill those with random numbers.
    """
    if is_adapter(path):
        with torch.random.fork_rng(
            devices=[]
        ):  # a head that the base lacks is drawn before the adapter's takes its place
            base, config = adapter_base(path), config or load_config(path)
            config.vocab_size = load_config(base).vocab_size  # a padding token may have been added over the base
            model = load_weights(kind, base, dtype, config=config, trunk_alone=trunk_alone or has_head(path))
        merge_adapter(model, path)
        _require_finite(model, path)
        return model
    try:
        model, loaded = kind.from_pretrained(
            str(path),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            **({} if config is None else {"config": config}),
        )
    except _FAULTS as error:
        raise ModelError(f"No model can be loaded from {path}: {_first_sentence(error)}") from None
    trunk = f"{model.base_model_prefix}."
    needed = [
        key
        for key in loaded["missing_keys"]
        if not trunk_alone or (key.startswith(trunk) and not key.startswith(f"{trunk}pooler."))
    ]
    wrong = [*needed, *(key for key, *_ in loaded["mismatched_keys"])]
    if wrong:
        raise ModelError(
            f"The weights at {path} do not fit its config.json: {len(wrong)} tensors are missing or of another shape "
            f"({sorted(wrong)[0]} first); fetch the model again."
        )
    _align(model)
    _require_finite(model, path)
    return model


def _require_finite(model: Any, path: str | Path) -> None:
    for name, weight in model.named_parameters():
        if weight.sum(dtype=torch.float32).isfinite():  # cheaper than to look at each; large finite ones may overflow
            continue
        if broken := int((~weight.isfinite()).sum()):
            raise ModelError(
                f"The weights at {path} hold {broken} values that are not finite numbers (in {name} first); fetch the "
                "model or train it again."
            )


@torch.no_grad()
def make_room_for_padding(model: Any, pad_id: int) -> None:
    """Makes `pad_id` the model's padding, and grows its embedding where the id lies beyond it.

    The new rows are the mean of the others. In the output embedding that gives the new token the mean logit, and so, as
    exp is convex, at most the probability 1 / (vocabulary + 1) anywhere, where a row of zeros might give it the most.
    """
    model.config.pad_token_id = pad_id
    before = model.get_input_embeddings().weight.shape[0]
    if pad_id < before:
        return
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(pad_id + 1, mean_resizing=False)
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        for rows in (getattr(layer, "weight", None), getattr(layer, "bias", None)):
            if rows is not None:
                rows[before:] = rows[:before].float().mean(dim=0)


def _align(model: Any) -> None:
    """Moves weights that lie as a mapped file has them, at any eighth byte, to where torch would have put them.

    Products of few rows are summed in another order when a matrix does not begin at a multiple of 16 bytes, so without
    this a model would give other last digits after it was saved and loaded.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.data_ptr() % _ALIGNMENT:
            tensor.data = tensor.data.clone()


def load_fresh_classifier(path: str | Path, seed: int) -> Any:
    """The trunk of a language model in a sequence classifier with one label; `seed` draws the weights around it.

    Those are the head, and a pooler where a masked language model was saved without one.

    Errors:
        ModelError: there is no such trunk, or no classifier for it.
    """
    config = load_config(path)
    config.num_labels = 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return load_weights(AutoModelForSequenceClassification, path, config=config, trunk_alone=True)


def check_model(source: str | Path, *, is_preference_model: bool) -> None:
    """Looks whether a Hugging Face folder or hub id can become a snapshot; reads no weights, only their headers.

    Errors:
        ModelError: no such model, a broken or missing file, or a model of the other kind.
    """
    folder = Path(source)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{folder} holds no config.json, so it is no model folder; give a Hugging Face folder.")
        _check_weight_files(folder)
    elif folder.is_absolute() or str(source).startswith("."):
        raise ModelError(f"There is no model folder at {folder}; check the path.")
    names = [str(name) for name in getattr(load_config(source), "architectures", None) or ()]
    if any(name.endswith("ForSequenceClassification") for name in names) != is_preference_model:
        found = ", ".join(names) or "model of unknown kind"
        wanted, other = ("preference model", "policy") if is_preference_model else ("policy", "preference_model")
        raise ModelError(f"{source} holds a {found}, which is no {wanted}; give another model or --kind {other}.")
    Renderer(load_tokenizer(source))


def _check_weight_files(folder: Path) -> None:
    if is_adapter(folder):
        if Path(base := adapter_base(folder)).is_dir():
            _check_weight_files(Path(base))
        return
    index = folder / "model.safetensors.index.json"
    try:
        whole = json.loads(index.read_text(encoding="utf-8"))["weight_map"] if index.is_file() else {}
        names = sorted(set(whole.values())) or ["model.safetensors"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{index} is no index of weight files; fetch the model again.") from None
    for name in names:
        if not (folder / name).is_file():
            raise ModelError(f"{folder} lacks {name}; fetch the model again, or save its weights as safetensors.")
        try:
            with safe_open(folder / name, "pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{folder / name} is damaged ({error}); fetch the model again.") from None


def load_language_model(path: str | Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A causal language model from a Hugging Face folder or hub id, in evaluation mode.

    Errors:
        ModelError: there is no such model, or it is not a causal language model.
    """
    renderer = Renderer(load_tokenizer(path))
    for name in load_config(path).architectures or ():
        if name.endswith("ForSequenceClassification"):  # would load, its head dropped without a word
            raise ModelError(f"{path} holds a {name}, a preference model perhaps; give a causal language model.")
    model = load_weights(AutoModelForCausalLM, path, dtype)
    make_room_for_padding(model, renderer.pad_id)
    model.train(False)
    return LanguageModel(model, renderer)


@torch.no_grad()
def scale_logits(model: Any, scale: float) -> None:
    """Multiplies all logits in place, as sampling at temperature 1 / scale would, for whoever samples it later.

    The scale goes into the last norm, because an output embedding that is tied cannot carry it.

    Errors:
        ModelError: no last norm is found.
    """
    norm = next((n for name in _LAST_NORMS if (n := getattr(model.base_model, name, None)) is not None), None)
    if norm is None:
        raise ModelError(f"{type(model).__name__} has no last norm that is known here; leave logit_scale at 1.")
    for parameter in norm.parameters():
        parameter.mul_(scale)


def save_model(model: Any, tokenizer: Any, path: Path) -> Path:
    """Writes a Hugging Face folder (safetensors, tokenizer beside) whole or not at all; of a LoRA model the adapter."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".writing-{path.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    if getattr(model, "adapter", None) is not None:
        temporary.mkdir()
        save_adapter(model, temporary)
    else:
        model.save_pretrained(temporary, safe_serialization=True)
    tokenizer.save_pretrained(temporary)
    replace_folder(temporary, path)
    return path


def window_tokens(model: Any) -> int:
    """How many tokens the model can attend to."""
    return int(model.config.max_position_embeddings)


def _first_sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).strip().split("\n")]
    text = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return text.rstrip(".") + "; check the path and the files there."
