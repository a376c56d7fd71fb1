"""One trainer of TRL, step by step: waits for a line, takes a step, tells its seconds.

Runs in TRL's own environment. The first line it prints is its settings.
"""

from __future__ import annotations

import copy
import json
import resource
import sys
import time
from typing import Any

import torch
from datasets import Dataset
from lockstep import worker_arguments
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

TOLD = sys.stdout
sys.stdout = sys.stderr  # what the trainer prints is not for the other side


class Lockstep(TrainerCallback):  # type: ignore[misc]
    """Waits for a line before each step; tells the seconds and the memory after it."""

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        if not sys.stdin.readline():
            sys.exit(0)
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        tell({"step": time.perf_counter() - self.began, "memory": peak_memory()})


def tell(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=TOLD, flush=True)


def peak_memory() -> float:
    """MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    given = worker_arguments(TRAINERS)
    place = str(given.folder / "model")
    rows = json.loads((given.folder / "rows.json").read_text())[: given.rows * given.steps]
    shared = {
        "output_dir": str(given.folder / "trl"),
        "per_device_train_batch_size": given.rows,
        "max_steps": given.steps,
        "bf16": given.precision == "bf16",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 1e-5,
        "disable_tqdm": True,
        "seed": 0,
        "lr_scheduler_type": "constant",
        "max_length": 2048,
    }
    tokenizer = AutoTokenizer.from_pretrained(place)
    trainer = TRAINERS[given.method](place, rows, tokenizer, shared)
    # The rows in their order: the other side takes a step on the same ones.
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    tell({"threads": torch.get_num_threads()})
    trainer.train()


def model_of(place: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)


def pairs(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list([{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in rows])


def dpo(place: str, rows: Any, tokenizer: Any, shared: Any, *, precomputed: bool = False) -> Any:
    from trl import DPOConfig, DPOTrainer

    model = model_of(place)
    return DPOTrainer(
        model=model,
        ref_model=None if precomputed else copy.deepcopy(model),
        args=DPOConfig(precompute_ref_log_probs=precomputed, **shared),
        train_dataset=pairs(rows),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
    )


def reward(place: str, rows: Any, tokenizer: Any, shared: Any) -> Any:
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(
        place, num_labels=1, dtype=torch.float32
    )
    return RewardTrainer(
        model=model,
        args=RewardConfig(**shared),
        train_dataset=pairs(rows),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
    )


def sft(place: str, rows: Any, tokenizer: Any, shared: Any) -> Any:
    from trl import SFTConfig, SFTTrainer

    data = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
    return SFTTrainer(
        model=model_of(place),
        args=SFTConfig(packing=False, **shared),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
    )


def kto(place: str, rows: Any, tokenizer: Any, shared: Any) -> Any:
    from trl import KTOConfig, KTOTrainer

    data = [
        {
            "prompt": r["prompt"],
            "completion": r["chosen" if i % 2 else "rejected"],
            "label": i % 2 == 1,
        }
        for i, r in enumerate(rows)
    ]
    model = model_of(place)
    return KTOTrainer(
        model=model,
        ref_model=copy.deepcopy(model),
        args=KTOConfig(**shared),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
    )


def orpo(place: str, rows: Any, tokenizer: Any, shared: Any) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer(
        model=model_of(place),
        args=ORPOConfig(**shared),
        train_dataset=pairs(rows),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
    )


TRAINERS = {
    "dpo": dpo,
    "dpo-precomputed": lambda *given: dpo(*given, precomputed=True),
    "reward": reward,
    "sft": sft,
    "kto": kto,
    "orpo": orpo,
}

if __name__ == "__main__":
    main()
