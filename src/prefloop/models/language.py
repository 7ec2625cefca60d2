"""Language models: our tokenizer, a new Llama, loading and saving of Hugging Face folders. Knows no training."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from prefloop.errors import ModelError
from prefloop.models.checkpoint import replace_folder
from prefloop.render import END, OWN_CHAT_TEMPLATE, PAD, SPECIAL_TOKENS, Renderer

transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # loading takes a blink here; the bars that matter are ours


class LanguageModel(NamedTuple):
    """A causal language model and the renderer of its tokenizer."""

    model: Any
    renderer: Renderer


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
    except (OSError, ValueError) as error:
        raise ModelError(f"No tokenizer can be loaded from {path}: {_first_sentence(error)}") from None


def load_language_model(path: str | Path, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """A causal language model from a Hugging Face folder or hub id, in evaluation mode.

    Errors:
        ModelError: there is no such model, or it is not a causal language model.
    """
    renderer = Renderer(load_tokenizer(path))
    try:
        for name in AutoConfig.from_pretrained(str(path)).architectures or ():
            if name.endswith("ForSequenceClassification"):  # would load, its head dropped without a word
                raise ModelError(f"{path} holds a {name}, a preference model perhaps; give a causal language model.")
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=dtype)
    except (OSError, ValueError) as error:
        raise ModelError(f"No language model can be loaded from {path}: {_first_sentence(error)}") from None
    model.train(False)
    return LanguageModel(model, renderer)


def save_model(model: Any, tokenizer: Any, path: Path) -> Path:
    """Writes a Hugging Face folder (safetensors, tokenizer beside) whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".writing-{path.name}"
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary, safe_serialization=True)
    tokenizer.save_pretrained(temporary)
    replace_folder(temporary, path)
    return path


def window_tokens(model: Any) -> int:
    """How many tokens the model can attend to."""
    return int(model.config.max_position_embeddings)


def _first_sentence(error: BaseException) -> str:
    return str(error).strip().split("\n")[0].rstrip(".") + "; check the path."
