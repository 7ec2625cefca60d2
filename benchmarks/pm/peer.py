"""One run of TRL's RewardTrainer for `bench_pm.py`, in TRL's own environment; the last line is one JSON object.

Timed is `train()` alone. It is fed ids in the order in which prefloop's trainer takes them, so that both sides make the
same steps. Knows nothing of prefloop.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1] / "ppo"))
from datasets import Dataset
from memory import peak_mib
from transformers import AutoTokenizer, LlamaForSequenceClassification
from trl import RewardConfig, RewardTrainer

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--data", required=True)
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--batch", type=int, default=16)
parser.add_argument("--learning-rate", type=float, required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
parser.add_argument("--save", type=Path, required=True)
parser.add_argument("--defaults", action="store_true", help="its own batch size, checkpointing and optimizer")
options = parser.parse_args()
torch.set_num_threads(options.threads)
imports_mib = peak_mib(options.device)
rows = json.loads((options.folder / f"{options.data}.json").read_text(encoding="utf-8"))
if not options.defaults:
    order = json.loads((options.folder / f"{options.data}.order.json").read_text(encoding="utf-8"))
    rows = [rows[place] for place in order]
same: dict[str, Any] = {
    "per_device_train_batch_size": options.batch,
    "gradient_checkpointing": False,
    "bf16": True,
    "max_length": 1024,
    "learning_rate": options.learning_rate,
    "lr_scheduler_type": "constant",
    "adam_beta2": 0.98,
    "max_grad_norm": 1.0,
    "train_sampling_strategy": "sequential",
    "logging_steps": 1000,
}
scratch = tempfile.mkdtemp()
trainer = RewardTrainer(
    model=LlamaForSequenceClassification.from_pretrained(options.folder / f"start-{options.seed}"),
    args=RewardConfig(
        output_dir=scratch,
        num_train_epochs=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=options.device == "cpu",
        seed=options.seed,
        **({} if options.defaults else same),
    ),
    train_dataset=Dataset.from_list([{key: row[key] for key in ("chosen_ids", "rejected_ids")} for row in rows]),
    processing_class=AutoTokenizer.from_pretrained(options.folder / f"start-{options.seed}"),
)
begin = time.perf_counter()
trainer.train()
seconds = time.perf_counter() - begin
trainer.save_model(str(options.save))
print(
    json.dumps(
        {
            "seconds": seconds,
            "pairs": len(rows),
            "pairs_per_s": len(rows) / seconds,
            "peak_mib": peak_mib(options.device),
            "imports_mib": imports_mib,
        }
    )
)
