"""TRL's GRPO, or the PPO that its versions to 1.12 had, an iteration at a time.

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
from distinct_words import distinct
from lockstep import online_arguments
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)

TOLD = sys.stdout
sys.stdout = sys.stderr  # what the trainer prints is not for the other side


def tell(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=TOLD, flush=True)


class Turns:
    """Waits for a line, and tells the seconds and the memory since."""

    def wait(self) -> None:
        if not sys.stdin.readline():
            sys.exit(0)
        self.began = time.perf_counter()

    def end(self) -> None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        tell({"step": time.perf_counter() - self.began, "memory": memory})


class Lockstep(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.turns = Turns()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.turns.wait()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.turns.end()


def grpo(given: Any, prompts: list[str], tokenizer: Any, shared: dict[str, Any]) -> None:
    from trl import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer(
        model=str(given.folder / "model"),
        reward_funcs=distinct,
        args=GRPOConfig(
            per_device_train_batch_size=given.episodes,
            max_steps=given.steps,
            num_generations=given.group,
            max_completion_length=given.tokens,
            beta=0.05,
            temperature=1.0,
            shuffle_dataset=False,
            lr_scheduler_type="constant",
            **shared,
        ),
        train_dataset=Dataset.from_list([{"prompt": p} for p in prompts]),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
    )
    tell({"threads": torch.get_num_threads()})
    trainer.train()


def ppo(given: Any, prompts: list[str], tokenizer: Any, shared: dict[str, Any]) -> None:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    place, lora = str(given.folder / "model"), None
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    reward = AutoModelForSequenceClassification.from_pretrained(
        str(given.folder / "reward"), num_labels=1, dtype=torch.float32
    )
    if given.method == "ppo-lora":
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer.padding_side = "left"
    rows = Dataset.from_list([{"input_ids": tokenizer(p)["input_ids"]} for p in prompts])
    trainer = PPOTrainer(
        args=PPOConfig(
            per_device_train_batch_size=8,
            gradient_accumulation_steps=given.episodes // 8,
            num_mini_batches=1,
            num_ppo_epochs=4,
            total_episodes=given.episodes * given.steps,
            response_length=given.tokens,
            local_rollout_forward_batch_size=16,
            num_sample_generations=0,
            temperature=1.0,
            **shared,
        ),
        processing_class=tokenizer,
        model=model,
        ref_model=None if lora else copy.deepcopy(model),
        reward_model=reward,
        value_model=copy.deepcopy(reward),
        train_dataset=rows,
        eval_dataset=rows,
        peft_config=lora,
    )
    turns, log = Turns(), trainer.log

    def logged(*a: Any, **k: Any) -> None:  # once an iteration, at its end
        log(*a, **k)
        turns.end()
        turns.wait()

    trainer.log = logged
    tell({"threads": torch.get_num_threads()})
    turns.wait()
    trainer.train()


def main() -> None:
    given = online_arguments()
    online = given.method == "grpo"
    count = given.episodes // given.group * given.steps if online else given.episodes
    rows = json.loads((given.folder / "rows.json").read_text())[:count]
    shared = {
        "output_dir": str(given.folder / f"trl-{given.method}"),
        "bf16": given.precision == "bf16",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 1e-6,
        "disable_tqdm": True,
        "seed": 0,
    }
    tokenizer = AutoTokenizer.from_pretrained(str(given.folder / "model"))
    train = grpo if online else ppo
    train(given, [row["prompt"] for row in rows], tokenizer, shared)


if __name__ == "__main__":
    main()
