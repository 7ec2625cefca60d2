"""Makes what both sides of `bench_pm.py` read: random models, a tokenizer, pairs as ids. Times nothing.

    python benchmarks/pm/prepare.py FOLDER --data HH_RLHF_FOLDER --pairs 128 --held-out 256 --seeds 3

FOLDER gets `start-0/` ...: Llamas with a one-label head, 17 M parameters, a byte-level BPE of 4,096 tokens beside them;
`real-0.json` ...: pairs of all tranches whose sides stay under 1,024 tokens; `held_out.json`: pairs with other opening
turns; `conversations.json`: comparisons of the tiny world, four of each conversation.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from prefloop.models.preference import PreferenceModel
from prefloop.sandbox import dialogues, world
from prefloop.schema import Message, PreferencePair
from prefloop.store.formats import hh_rlhf
from prefloop.store.imports import ImportedPair

LONGEST = 1023
VOCABULARY = 4096
TURNS = 4


def real_pairs(data: Path) -> list[PreferencePair]:
    """All usable pairs of every tranche below `data`, mixed by a fixed seed; a conversation is its opening turn."""
    pairs = [
        PreferencePair(
            context=pair.context,
            chosen=pair.chosen,
            rejected=pair.rejected,
            conversation_id=pair.context[0].text,
        )
        for file in sorted(data.glob("*.jsonl.gz"))
        for pair in hh_rlhf.read(file)
        if isinstance(pair, ImportedPair) and pair.chosen.strip() and pair.rejected.strip()
    ]
    random.Random(0).shuffle(pairs)
    return pairs


def conversations(count: int) -> list[PreferencePair]:
    """Comparisons at each of four turns of `count` conversations of the tiny world, against replies to other people."""
    pairs = []
    spoken = dialogues(world(), 1, 8 * count)
    replies = [turn.text for dialogue in dialogues(world(), 2, 4 * count) for turn in dialogue if turn.role != "user"]
    for number in range(count):
        turns: list[Message] = []
        while len(turns) < 2 * TURNS:
            turns += [turn for turn in next(spoken) if turn.role in ("user", "assistant")]
        for turn in range(TURNS):
            context, chosen = tuple(turns[: 2 * turn + 1]), turns[2 * turn + 1].text
            other = replies[(number * TURNS + turn) % len(replies)]
            if other != chosen:
                pairs.append(
                    PreferencePair(context=context, chosen=chosen, rejected=other, conversation_id=f"c{number}")
                )
    return pairs


def train_bpe(texts: Iterator[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE whose ids 0 and 1 are padding and end of text; it has no chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>")


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        num_labels=1,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rows_of(model: PreferenceModel, pairs: list[PreferencePair]) -> Iterator[dict[str, Any]]:
    """Pairs that fit, whole, with the ids that the other side is fed."""
    for pair in pairs:
        context = model.renderer.context_ids(pair.context)
        ids = {side: context + model.renderer.reply_ids(getattr(pair, side)) for side in ("chosen", "rejected")}
        if max(map(len, ids.values())) <= LONGEST:
            yield {"pair": pair.model_dump(mode="json"), **{f"{side}_ids": value for side, value in ids.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--held-out", type=int, required=True)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    folder: Path = options.folder
    pairs = real_pairs(options.data)
    replied = (hh_rlhf.build([*pair.context, Message(role="assistant", text=pair.chosen)]) for pair in pairs)
    tokenizer = train_bpe(text for text in replied if text)
    for seed in range(options.seeds):
        write_model(folder / f"start-{seed}", tokenizer, options.hidden, options.layers, seed)
    model = PreferenceModel.load(folder / "start-0")
    rows = rows_of(model, pairs)
    held_out = list(islice(rows, options.held_out))
    openings = {row["pair"]["conversation_id"] for row in held_out}
    rest = (row for row in rows if row["pair"]["conversation_id"] not in openings)
    parts = {"held_out": held_out} | {
        f"real-{seed}": list(islice(rest, options.pairs)) for seed in range(options.seeds)
    }
    parts["conversations"] = list(rows_of(model, conversations(options.pairs // TURNS)))
    for name, part in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")


if __name__ == "__main__":
    main()
