"""Sampling side by side: `TorchSampler` against transformers' `generate`, on the same model, prompts and settings.

    python benchmarks/bench_sampling.py --data HH_RLHF_FOLDER [--rounds 3] [--threads 2]
    python benchmarks/bench_sampling.py --model FOLDER          on prompts of the tiny world

The model is the random one of `bench_ppo.py` (Llama, hidden 192, 6 layers, vocabulary 2048) with a bias on the end
token that gives replies of 32 tokens on average ("natural lengths"), 128 at most; the prompts are real ones under 256.
Both sides sample at temperature 1 with 8, 64 and 256 rows at once, and 64 rows as 4 answers to each prompt; in turns
(ours, theirs, ours, theirs ...), medians are compared. `generate` gets left-padded batches of the same number of rows
and decodes all rows of a batch until the last one has ended, with a growing cache: the difference that is measured.
Tokens are counted up to and with a row's end token on both sides. The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from prefloop.models.language import load_language_model
from prefloop.models.sampling import TorchSampler
from prefloop.sandbox import draw_prompts, world
from prefloop.sandbox.tiny import CHAT_MODEL, tiny_model
from prefloop.schema import SamplingSettings

MEAN_TOKENS, MOST_TOKENS = 32, 128
CASES = ((8, 1), (64, 1), (256, 1), (64, 4))  # rows at once, answers to a prompt


def ours(model: Any, renderer: Any, prompts: list[list[int]], rows: int, n: int, seed: int) -> tuple[int, float]:
    sampler = TorchSampler(model, renderer, "bench", max_rows=rows)
    begin = time.perf_counter()
    samples = sampler.sample(prompts, n, SamplingSettings(max_response_tokens=MOST_TOKENS), seed)
    return sum(len(sample.ids) for answers in samples for sample in answers), time.perf_counter() - begin


def theirs(model: Any, renderer: Any, prompts: list[list[int]], rows: int, n: int, seed: int) -> tuple[int, float]:
    end_id, pad_id = renderer.end_id, renderer.pad_id
    torch.manual_seed(seed)
    count = 0
    begin = time.perf_counter()
    for start in range(0, len(prompts), rows // n):
        batch = prompts[start : start + rows // n]
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
            num_return_sequences=n,
            max_new_tokens=MOST_TOKENS,
            eos_token_id=end_id,
            pad_token_id=pad_id,
        )[:, width:]
        for row in out.tolist():
            count += row.index(end_id) + 1 if end_id in row else len(row)
    return count, time.perf_counter() - begin


@torch.no_grad()
def end_at(model: Any, end_id: int, prompts: list[list[int]], mean_tokens: int) -> None:
    """Gives the output layer a bias that ends a reply at each token with chance 1 / mean_tokens, about."""
    old = model.get_output_embeddings()
    head = torch.nn.Linear(old.in_features, old.out_features)
    head.weight.copy_(old.weight)
    head.bias.zero_()
    head.weight[end_id] = 0.0
    others = torch.stack([model(torch.tensor([prompt])).logits[0, -1] for prompt in prompts[:8]])
    others[:, end_id] = -math.inf
    # e^b / (e^b + S) = 1 / mean with S the sum over the other tokens
    head.bias[end_id] = others.logsumexp(-1).mean() - math.log(mean_tokens - 1)
    model.set_output_embeddings(head)
    model.config.tie_word_embeddings = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = os.environ.get("PREFLOOP_DATA_ROOT")
    parser.add_argument("--data", type=Path, default=Path(root) / "hh-rlhf" if root else None)
    parser.add_argument("--model", type=Path, help="another model, as it is, on prompts of the tiny world")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.data is not None and options.model is None:
        with tempfile.TemporaryDirectory() as scratch:
            prepare = [sys.executable, str(Path(__file__).parent / "prepare_ppo.py"), scratch]
            subprocess.run([*prepare, "--data", str(options.data), "--prompts", "512"], check=True, capture_output=True)
            model, renderer = load_language_model(Path(scratch) / "policy")
            rows = json.loads((Path(scratch) / "prompts.json").read_text(encoding="utf-8"))
        prompts = [row["ids"] for row in rows]
        end_at(model, renderer.end_id, prompts, MEAN_TOKENS)
    else:
        model, renderer = load_language_model(options.model or tiny_model(CHAT_MODEL))
        prompts = [renderer.context_ids(context) for context in draw_prompts(world(), 1, 512)]
    model.to(options.device)
    results: dict[str, Any] = {}
    for rows, n in CASES:
        asked = prompts[: 2 * rows // n if rows > 8 else 4 * rows]
        rates: dict[str, list[float]] = {"prefloop": [], "transformers": []}
        lengths: list[float] = []
        for seed in range(options.rounds + 1):
            for name, side in (("prefloop", ours), ("transformers", theirs)):
                count, seconds = side(model, renderer, asked, rows, n, seed)
                if seed:  # the first round warms both up
                    rates[name].append(count / seconds)
                    lengths.append(count / len(asked) / n)
        medians = {name: statistics.median(values) for name, values in rates.items()}
        ratio = medians["prefloop"] / medians["transformers"]
        name = f"{rows} rows" + (f", {n} answers a prompt" if n > 1 else "")
        print(
            f"{name:26s} {len(asked) * n:4d} replies of {statistics.fmean(lengths):4.1f} tokens: prefloop "
            f"{medians['prefloop']:6.0f} tokens/s, transformers {medians['transformers']:6.0f}, ratio {ratio:.2f}",
            flush=True,
        )
        results[name] = {key: round(value) for key, value in medians.items()} | {"ratio": round(ratio, 2)}
    print(
        json.dumps(
            {
                "benchmark": "sampling",
                "rounds": options.rounds,
                "threads": options.threads,
                "device": options.device,
                "tokens_per_second": results,
                "ratio": results["64 rows"]["ratio"],
            }
        )
    )


if __name__ == "__main__":
    main()
