"""Makes what both sides of `bench_ppo.py` read: random models, a tokenizer, real prompts. Times nothing.

    python benchmarks/prepare_ppo.py FOLDER --data HH_RLHF_FOLDER --prompts 256
    python benchmarks/prepare_ppo.py FOLDER --sandbox --prompts 256

FOLDER gets `policy/`, `pm/` and `prompts.json`: for each prompt its messages and the ids that both sides feed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from itertools import islice
from pathlib import Path

import torch
from random_models import llama, train_bpe
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from prefloop.render import Renderer
from prefloop.schema import Message
from prefloop.store.formats import hh_rlhf
from prefloop.store.imports import ImportedPair

LONGEST_PROMPT = 255  # tokens: "under 256"
VOCABULARY = 2048


def real_pairs(data: Path) -> list[ImportedPair]:
    """All usable pairs of every tranche below `data`, mixed by a fixed seed."""
    pairs = [
        pair
        for file in sorted(data.glob("*.jsonl.gz"))
        for pair in hh_rlhf.read(file)
        if isinstance(pair, ImportedPair)
    ]
    random.Random(0).shuffle(pairs)
    return pairs


def write_prompts(folder: Path, renderer: Renderer, contexts: list[tuple[Message, ...]], count: int) -> None:
    """The first `count` contexts that are short enough.

    Errors:
        SystemExit: there are fewer.
    """
    encoded = ((context, renderer.context_ids(context)) for context in contexts)
    kept = list(islice(((context, ids) for context, ids in encoded if len(ids) <= LONGEST_PROMPT), count))
    if len(kept) < count:
        raise SystemExit(f"There are {len(kept)} prompts of at most {LONGEST_PROMPT} tokens, {count} are wanted.")
    rows = [{"messages": [message.model_dump() for message in context], "ids": ids} for context, ids in kept]
    (folder / "prompts.json").write_text(json.dumps(rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="the four tranches of HH-RLHF")
    parser.add_argument("--sandbox", action="store_true", help="the built-in chat model and PM on the tiny world")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--hidden", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    options = parser.parse_args()
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    if options.sandbox:
        from prefloop.sandbox import draw_prompts, world
        from prefloop.sandbox.tiny import CHAT_MODEL, PMP_MODEL, tiny_model

        for source, name in ((CHAT_MODEL, "policy"), (PMP_MODEL, "pm")):
            shutil.copytree(tiny_model(source), folder / name, dirs_exist_ok=True)
        renderer = Renderer(PreTrainedTokenizerFast.from_pretrained(folder / "policy"))
        write_prompts(folder, renderer, draw_prompts(world(), 1, options.prompts), options.prompts)
        return
    pairs = real_pairs(options.data)
    replied = (hh_rlhf.build([*pair.context, Message(role="assistant", text=pair.chosen)]) for pair in pairs)
    tokenizer = train_bpe((text for text in replied if text), VOCABULARY)
    renderer = Renderer(tokenizer)
    for name, kind, more in (
        ("policy", LlamaForCausalLM, {}),
        ("pm", LlamaForSequenceClassification, {"num_labels": 1}),
    ):
        torch.manual_seed(0)
        kind(llama(VOCABULARY, options.hidden, options.layers, **more)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_prompts(folder, renderer, [pair.context for pair in pairs], options.prompts)


if __name__ == "__main__":
    main()
