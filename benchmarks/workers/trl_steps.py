"""One trainer of TRL, a step at a time: sends the step's seconds and memory.

Runs in TRL's environment.
"""

from __future__ import annotations

import copy
import json
from importlib.util import find_spec
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from protocol import offline_arguments, redirect_prints, send
from torch.utils.data import SequentialSampler
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from trl_lockstep import Lockstep


def main() -> None:
    args = offline_arguments(TRAINERS)
    redirect_prints()
    model_path = str(args.folder / "model")
    rows = json.loads((args.folder / "rows.json").read_text())[: args.rows * args.steps]
    shared = {
        "output_dir": str(args.folder / "trl"),
        "per_device_train_batch_size": args.rows,
        "max_steps": args.steps,
        "bf16": args.precision == "bf16",
        "use_cpu": args.device == "cpu",
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
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear") if args.lora else None
    # A frozen base is loaded in the precision of the computation.
    is_half = args.lora and args.precision == "bf16"
    model_options: dict[str, Any] = {"dtype": torch.bfloat16 if is_half else torch.float32}
    if is_half and args.device == "cuda" and find_spec("flash_attn"):
        model_options["attn_implementation"] = "flash_attention_2"  # else SDPA
    trainer = TRAINERS[args.method](model_path, rows, tokenizer, shared, model_options, lora)
    # The rows in the order of the file: accord's worker takes each step on the same rows.
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    send({"threads": torch.get_num_threads()})
    trainer.train()


def load_model(model_path: str, options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(model_path, **options)


def make_pairs(rows: list[dict[str, Any]]) -> Dataset:
    return Dataset.from_list([{k: r[k] for k in ("prompt", "chosen", "rejected")} for r in rows])


def dpo(
    model_path: str,
    rows: Any,
    tokenizer: Any,
    shared: Any,
    options: Any,
    lora: Any,
    *,
    precomputed: bool = False,
) -> Any:
    from trl import DPOConfig, DPOTrainer

    model = load_model(model_path, options)
    return DPOTrainer(
        model=model,
        # With adapters the reference is the base without them.
        ref_model=None if precomputed or lora else copy.deepcopy(model),
        args=DPOConfig(precompute_ref_log_probs=precomputed, **shared),
        train_dataset=make_pairs(rows),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
        peft_config=lora,
    )


def reward(model_path: str, rows: Any, tokenizer: Any, shared: Any, options: Any, lora: Any) -> Any:
    from trl import RewardConfig, RewardTrainer

    model = AutoModelForSequenceClassification.from_pretrained(model_path, num_labels=1, **options)
    return RewardTrainer(
        model=model,
        args=RewardConfig(**shared),
        train_dataset=make_pairs(rows),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
        peft_config=lora,
    )


def sft(model_path: str, rows: Any, tokenizer: Any, shared: Any, options: Any, lora: Any) -> Any:
    from trl import SFTConfig, SFTTrainer

    data = [{"prompt": r["prompt"], "completion": r["chosen"]} for r in rows]
    return SFTTrainer(
        model=load_model(model_path, options),
        args=SFTConfig(packing=False, **shared),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
        peft_config=lora,
    )


def kto(model_path: str, rows: Any, tokenizer: Any, shared: Any, options: Any, lora: Any) -> Any:
    from trl import KTOConfig, KTOTrainer

    data = [
        {
            "prompt": r["prompt"],
            "completion": r["chosen" if i % 2 else "rejected"],
            "label": i % 2 == 1,
        }
        for i, r in enumerate(rows)
    ]
    model = load_model(model_path, options)
    return KTOTrainer(
        model=model,
        ref_model=None if lora else copy.deepcopy(model),
        args=KTOConfig(**shared),
        train_dataset=Dataset.from_list(data),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
        peft_config=lora,
    )


def orpo(model_path: str, rows: Any, tokenizer: Any, shared: Any, options: Any, lora: Any) -> Any:
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    return ORPOTrainer(
        model=load_model(model_path, options),
        args=ORPOConfig(**shared),
        train_dataset=make_pairs(rows),
        processing_class=tokenizer,
        callbacks=[Lockstep()],
        peft_config=lora,
    )


TRAINERS = {
    "dpo": dpo,
    "dpo-precomputed": lambda *args: dpo(*args, precomputed=True),
    "reward": reward,
    "sft": sft,
    "kto": kto,
    "orpo": orpo,
}

if __name__ == "__main__":
    main()
