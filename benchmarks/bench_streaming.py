"""Memory of import, training and evaluation as the number of comparisons grows: it should not.

    python benchmarks/bench_streaming.py [--pairs 10000 100000] [--keep FOLDER]

For each size a new workspace, a file of drawn comparisons (a few hundred characters each, one to three turns), and the
commands `import`, `train preference` and `eval preference` of a tiny Llama, each in a process of its own whose peak of
resident memory is read when it has ended. A tenth of the conversations is held out. The last line is one JSON object:
peaks in MiB and seconds by size and command, and the growth in bytes a pair between the smallest and the largest size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [
    f"{start}{end}" for start in ("ba", "ce", "di", "fo", "gu", "ha", "ki", "lo") for end in ("n", "rt", "sk", "l")
]


def write_pairs(file: Path, count: int) -> None:
    """The better reply says `please`; every opening is another."""
    draw = random.Random(1)

    def words(size: int) -> str:
        return " ".join(draw.choices(WORDS, k=size))

    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            context = f"\n\nHuman: {number} {words(8)}"
            for _ in range(draw.randrange(3)):
                context += f"\n\nAssistant: {words(12)}\n\nHuman: {words(8)}"
            sides = {"chosen": f"please {words(12)}", "rejected": words(13)}
            lines.write(json.dumps({side: f"{context}\n\nAssistant: {reply}" for side, reply in sides.items()}) + "\n")


def write_model(folder: Path) -> None:
    from prefloop.models.language import new_llama, save_model, train_tokenizer

    tokenizer = train_tokenizer([" ".join(WORDS) + " please 0123456789"] * 20, 800)
    save_model(new_llama(tokenizer, hidden=32, layers=1, heads=1, window_tokens=256, seed=0), tokenizer, folder)


def run(name: str, *arguments: str) -> tuple[float, float]:
    """Peak MiB and seconds of one command."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefloop", *arguments], stdout=subprocess.DEVNULL, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{name} failed:\n{errors.read().decode()[-2000:]}")
    seconds = time.perf_counter() - begin
    peak = usage.ru_maxrss / 1024
    print(f"  {name:12s} {peak:7.0f} MiB {seconds:7.1f} s", flush=True)
    return peak, seconds


def measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """All commands on `count` comparisons."""
    print(f"{count} comparisons", flush=True)
    workspace, file = folder / f"workspace-{count}", folder / f"pairs-{count}.jsonl"
    write_pairs(file, count)
    (folder / "run.toml").write_text(
        f'name = "streamed"\nstart = "{folder / "start"}"\nheld_out_share = 0.1\npairs_per_step = 256\n'
        'dtype = "float32"\ncheckpoint_every_steps = 100\n'
    )
    at = ("--workspace", str(workspace))
    commands = {
        "init": ("init", str(workspace)),
        "import": ("import", "hh-rlhf", str(file), *at),
        "train": ("train", "preference", str(folder / "run.toml"), *at),
        "evaluate": ("eval", "preference", "streamed", "--held-out-share", "0.1", *at),
    }
    found = {name: run(name, *arguments) for name, arguments in commands.items()}
    file.unlink()
    return {
        name: {"peak_mib": round(peak), "seconds": round(seconds, 1)}
        for name, (peak, seconds) in found.items()
        if name != "init"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--keep", type=Path, help="a folder for the workspaces; default: one that is deleted")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        write_model(folder / "start")
        sizes = {count: measure(folder, count) for count in sorted(options.pairs)}
    least, most = min(sizes), max(sizes)
    growth = {
        name: round((sizes[most][name]["peak_mib"] - of["peak_mib"]) * 2**20 / max(most - least, 1))
        for name, of in sizes[least].items()
    }
    print(json.dumps({"benchmark": "streaming", "sizes": sizes, "growth_bytes_per_pair": growth}))


if __name__ == "__main__":
    main()
