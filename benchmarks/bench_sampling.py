"""Sampling side by side: `TorchSampler` against transformers' `generate`, on the same model, prompts and settings.

    python benchmarks/bench_sampling.py [--model FOLDER] [--rows 128] [--rounds 3] [--threads 1]

Both sides answer prompts of the tiny world (other models read them as plain English) at temperature 1, each row until
its own end token ("natural lengths"), in turns (ours, theirs, ours, theirs ...); medians are compared. `generate`
gets left-padded batches of the same number of rows and decodes all rows of a batch until the last one has ended, with
a growing cache: the difference that is measured. Tokens are counted up to and with a row's end token on both sides.
The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from prefloop.models.language import load_language_model
from prefloop.models.sampling import TorchSampler
from prefloop.sandbox import draw_prompts, world
from prefloop.sandbox.tiny import CHAT_MODEL, tiny_model
from prefloop.schema import SamplingSettings


def ours(model: Any, renderer: Any, prompts: list[list[int]], rows: int, tokens: int, seed: int) -> tuple[int, float]:
    sampler = TorchSampler(model, renderer, "bench", max_rows=rows)
    begin = time.perf_counter()
    samples = sampler.sample(prompts, 1, SamplingSettings(max_response_tokens=tokens), seed)
    return sum(len(sample.ids) for (sample,) in samples), time.perf_counter() - begin


def theirs(model: Any, renderer: Any, prompts: list[list[int]], rows: int, tokens: int, seed: int) -> tuple[int, float]:
    end_id, pad_id = renderer.end_id, renderer.pad_id
    torch.manual_seed(seed)
    count = 0
    begin = time.perf_counter()
    for start in range(0, len(prompts), rows):
        batch = prompts[start : start + rows]
        width = max(len(prompt) for prompt in batch)
        ids = torch.tensor([[pad_id] * (width - len(prompt)) + prompt for prompt in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=model.device)
        out = model.generate(
            ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=tokens,
            eos_token_id=end_id,
            pad_token_id=pad_id,
        )[:, width:]
        for row in out.tolist():
            count += row.index(end_id) + 1 if end_id in row else len(row)
    return count, time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: the built-in tiny model")
    parser.add_argument("--rows", type=int, default=128, help="rows decoded at once, on both sides")
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--max-response-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, renderer = load_language_model(options.model or tiny_model(CHAT_MODEL))
    model.to(options.device)
    prompts = [renderer.context_ids(context) for context in draw_prompts(world(), 1, options.prompts)]
    rates: dict[str, list[float]] = {"prefloop": [], "transformers": []}
    for seed in range(options.rounds + 1):
        for name, (count, seconds) in {
            "prefloop": ours(model, renderer, prompts, options.rows, options.max_response_tokens, seed),
            "transformers": theirs(model, renderer, prompts, options.rows, options.max_response_tokens, seed),
        }.items():
            if seed:  # the first round warms both up
                rates[name].append(count / seconds)
                print(f"{name:13s} {count:6d} tokens {seconds:7.3f} s {count / seconds:8.0f} tokens/s", flush=True)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    result = {
        "benchmark": "sampling",
        "rows": options.rows,
        "prompts": options.prompts,
        "prompt_tokens": sum(map(len, prompts)),
        "threads": options.threads,
        "device": options.device,
        "tokens_per_second": {name: round(value) for name, value in medians.items()},
        "ratio": round(medians["prefloop"] / medians["transformers"], 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
