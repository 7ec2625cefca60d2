"""One run of TRL 1.12.0's PPOTrainer for `bench_ppo.py`, in its own virtual environment; the last line is JSON.

The trainer is used as its own example does. Timed is `train()` alone.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
import torch
from datasets import Dataset
from memory import peak_mib
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("--batches", type=int, required=True)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
parser.add_argument("--dtype", default="float32")
parser.add_argument("--learning-rate", type=float, default=3e-6)
parser.add_argument("--kl-coefficient", type=float, default=0.05)
parser.add_argument("--missing-eos-penalty", type=float)
parser.add_argument("--save", type=Path, help="where the trained policy goes")
options = parser.parse_args()
torch.set_num_threads(options.threads)
imports_mib = peak_mib(options.device)

tokenizer = AutoTokenizer.from_pretrained(options.folder / "policy")
tokenizer.padding_side = "left"
rows = json.loads((options.folder / "prompts.json").read_text(encoding="utf-8"))
prompts = Dataset.from_list([{"input_ids": row["ids"]} for row in rows])


def policy() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(options.folder / "policy", dtype=torch.float32)


def scorer() -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(options.folder / "pm", num_labels=1, dtype=torch.float32)


episodes = 64 * options.batches
with tempfile.TemporaryDirectory() as scratch:
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=scratch,
            per_device_train_batch_size=16,
            gradient_accumulation_steps=4,
            num_mini_batches=4,
            num_ppo_epochs=2,
            total_episodes=episodes,
            response_length=64,
            local_rollout_forward_batch_size=64,
            num_sample_generations=0,
            stop_token="eos",
            temperature=1.0,
            learning_rate=options.learning_rate,
            kl_coef=options.kl_coefficient,
            missing_eos_penalty=options.missing_eos_penalty,
            bf16=options.dtype == "bfloat16",
            save_strategy="no",
            report_to="none",
            use_cpu=options.device == "cpu",
        ),
        processing_class=tokenizer,
        model=policy(),
        ref_model=policy(),
        reward_model=scorer(),
        value_model=scorer(),
        train_dataset=prompts,
        eval_dataset=prompts.select(range(8)),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
if options.save:
    trainer.accelerator.unwrap_model(trainer.model).policy.save_pretrained(options.save)
    tokenizer.save_pretrained(options.save)
print(
    json.dumps(
        {
            "episodes": episodes,
            "seconds": seconds,
            "episodes_per_s": episodes / seconds,
            "seconds_per_batch": seconds / options.batches,
            "peak_mib": peak_mib(options.device),
            "imports_mib": imports_mib,
        }
    )
)
