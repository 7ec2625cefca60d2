"""Makes what both sides of `bench_pm.py` read: random models, a tokenizer, pairs as ids. Times nothing.

    python benchmarks/prepare_pm.py FOLDER --data HH_RLHF_FOLDER --pairs 128 --held-out 256 --seeds 3

FOLDER gets `start-0/` ...: Llamas with a one-label head, 17 M parameters, a byte-level BPE of 4,096 tokens beside them;
`real-0.json` ...: pairs of all tranches whose sides stay under 1,024 tokens; `held_out.json`: pairs with other opening
turns; `conversations.json`: comparisons of the tiny world, four of each conversation. Beside each file that is trained
on, `real-0.order.json` has the places of its pairs in the order in which prefloop's trainer takes them.
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
from random_models import llama, train_bpe
from transformers import LlamaForSequenceClassification, PreTrainedTokenizerFast

from prefloop.models.preference import PreferenceModel
from prefloop.sandbox import dialogues, world
from prefloop.schema import Message, PreferencePair
from prefloop.store.formats import hh_rlhf
from prefloop.store.imports import ImportedPair
from prefloop.train.preference import StepPlan
from prefloop.train.preference_settings import PreferenceRun

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


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, hidden: int, layers: int, seed: int) -> None:
    torch.manual_seed(seed)
    config = llama(VOCABULARY, hidden, layers, num_labels=1)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def rows_of(model: PreferenceModel, pairs: list[PreferencePair]) -> Iterator[dict[str, Any]]:
    """Pairs that fit, whole, with the ids that the other side is fed."""
    for pair in pairs:
        context = model.renderer.context_ids(pair.context)
        ids = {side: context + model.renderer.reply_ids(getattr(pair, side)) for side in ("chosen", "rejected")}
        if max(map(len, ids.values())) <= LONGEST:
            yield {"pair": pair.model_dump(mode="json"), **{f"{side}_ids": value for side, value in ids.items()}}


def order_of(rows: list[dict[str, Any]], start: Path, seed: int, batch: int) -> list[int]:
    """Places of the pairs in the order of the trainer's steps."""
    run = PreferenceRun(start=start, pairs_per_step=batch, seed=seed)
    plan = StepPlan([PreferencePair.model_validate(row["pair"]) for row in rows], run)
    return [place for step in range(len(plan)) for place in plan.places(step)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--held-out", type=int, required=True)
    parser.add_argument("--seeds", type=int, required=True)
    parser.add_argument("--batch", type=int, default=16, help="pairs of an optimizer step")
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=8)
    options = parser.parse_args()
    folder: Path = options.folder
    pairs = real_pairs(options.data)
    replied = (hh_rlhf.build([*pair.context, Message(role="assistant", text=pair.chosen)]) for pair in pairs)
    tokenizer = train_bpe((text for text in replied if text), VOCABULARY)
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
    # Twice the pairs, for they are short: the first steps of a run, which are its slowest, weigh less.
    parts["conversations"] = list(rows_of(model, conversations(2 * options.pairs // TURNS)))
    for name, part in parts.items():
        (folder / f"{name}.json").write_text(json.dumps(part), encoding="utf-8")
        if part is not held_out:
            seed = int(name.removeprefix("real-")) if name.startswith("real-") else 0
            order = order_of(part, folder / f"start-{seed}", seed, options.batch)
            (folder / f"{name}.order.json").write_text(json.dumps(order), encoding="utf-8")


if __name__ == "__main__":
    main()
