"""Train a reward model with TRL: what the study `real` reads as a second-hand one.

Runs in TRL's environment and knows nothing of accord:
`python real_trl_reward.py MODEL ROWS.jsonl OUTPUT`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", CUDA_VISIBLE_DEVICES="")

import datasets
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

NUM_ROWS, STEPS, BATCH = 64, 8, 4


def main(model: str, path: str, output: str) -> None:
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    texts = (row for row in rows if isinstance(row["chosen"], str))
    pairs = [as_messages(row) for row in texts if isinstance(row["prompt"], list)][:NUM_ROWS]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = RewardTrainer(
            model=AutoModelForSequenceClassification.from_pretrained(
                model, num_labels=1, dtype=torch.float32
            ),
            args=RewardConfig(
                output_dir=folder,
                max_steps=STEPS,
                per_device_train_batch_size=BATCH,
                learning_rate=2e-5,
                max_length=512,
                bf16=False,
                use_cpu=True,
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=datasets.Dataset.from_list(pairs),
            processing_class=AutoTokenizer.from_pretrained(model),
        )
        trainer.train()
        trainer.save_model(output)


def as_messages(row: dict[str, Any]) -> dict[str, Any]:
    """A pair of texts that answer messages, as TRL documents it."""
    answers = {
        name: [{"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")
    }
    return {"prompt": row["prompt"], **answers}


if __name__ == "__main__":
    main(*sys.argv[1:])
