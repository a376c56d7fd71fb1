"""TRL's GRPO, or the PPO that its versions to 1.12 had, an iteration at a time.

Runs in TRL's environment.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from datasets import Dataset
from distinct_words import distinct
from protocol import online_arguments, redirect_prints, send
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl_lockstep import Lockstep, Stepper


def grpo(args: Any, prompts: list[str], tokenizer: Any, shared: dict[str, Any]) -> None:
    from trl import GRPOConfig, GRPOTrainer

    trainer = GRPOTrainer(
        model=str(args.folder / "model"),
        reward_funcs=distinct,
        args=GRPOConfig(
            per_device_train_batch_size=args.episodes,
            max_steps=args.steps,
            num_generations=args.group,
            max_completion_length=args.tokens,
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
    send({"threads": torch.get_num_threads()})
    trainer.train()


def ppo(args: Any, prompts: list[str], tokenizer: Any, shared: dict[str, Any]) -> None:
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    lora = None
    model = AutoModelForCausalLM.from_pretrained(str(args.folder / "model"), dtype=torch.float32)
    reward = AutoModelForSequenceClassification.from_pretrained(
        str(args.folder / "reward"), num_labels=1, dtype=torch.float32
    )
    if args.method == "ppo-lora":
        from peft import LoraConfig

        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer.padding_side = "left"
    rows = Dataset.from_list([{"input_ids": tokenizer(p)["input_ids"]} for p in prompts])
    trainer = PPOTrainer(
        args=PPOConfig(
            per_device_train_batch_size=8,
            gradient_accumulation_steps=args.episodes // 8,
            num_mini_batches=1,
            num_ppo_epochs=4,
            total_episodes=args.episodes * args.steps,
            response_length=args.tokens,
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
    stepper, log = Stepper(), trainer.log

    def log_and_wait(*args: Any, **kwargs: Any) -> None:  # once per iteration, at its end
        log(*args, **kwargs)
        stepper.finish()
        stepper.wait()

    trainer.log = log_and_wait
    send({"threads": torch.get_num_threads()})
    stepper.wait()
    trainer.train()


def main() -> None:
    args = online_arguments()
    redirect_prints()
    is_grpo = args.method == "grpo"
    count = args.episodes // args.group * args.steps if is_grpo else args.episodes
    rows = json.loads((args.folder / "rows.json").read_text())[:count]
    shared = {
        "output_dir": str(args.folder / f"trl-{args.method}"),
        "bf16": args.precision == "bf16",
        "use_cpu": args.device == "cpu",
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "learning_rate": 1e-6,
        "disable_tqdm": True,
        "seed": 0,
    }
    tokenizer = AutoTokenizer.from_pretrained(str(args.folder / "model"))
    train = grpo if is_grpo else ppo
    train(args, [row["prompt"] for row in rows], tokenizer, shared)


if __name__ == "__main__":
    main()
