"""What TRL computes: the loss and gradients of one real training step of each case in a job.

Runs in TRL's environment and knows nothing of accord: `python trl_oracle.py job.json`. The job
names the output folder and its cases, each with a trainer, its configuration, rows and saved
models; GRPO's rows have completions with advantages, and its cases an old policy. Each case
leaves `NAME.safetensors`: the loss, the gradient of every parameter, and the token ids of the
batch, right-padded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_VERBOSITY="error",
    TRL_EXPERIMENTAL_SILENCE="1",
    CUDA_VISIBLE_DEVICES="",
)

import datasets
import torch
import transformers
from safetensors.torch import save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    SFTConfig,
    SFTTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

datasets.disable_progress_bars()
transformers.utils.logging.disable_progress_bar()

TRAINERS: dict[str, tuple[Any, Any]] = {
    "dpo": (DPOTrainer, DPOConfig),
    "kto": (KTOTrainer, KTOConfig),
    "orpo": (ORPOTrainer, ORPOConfig),
    "cpo": (CPOTrainer, CPOConfig),
    "reward": (RewardTrainer, RewardConfig),
    "sft": (SFTTrainer, SFTConfig),
    "grpo": (GRPOTrainer, GRPOConfig),
}
# One step over all rows in fp32, without clipping.
STEP = {
    "max_steps": 1,
    "learning_rate": 1e-6,
    "bf16": False,
    "gradient_checkpointing": False,
    "max_grad_norm": 0.0,
    "use_cpu": True,
    "report_to": [],
    "save_strategy": "no",
    "disable_tqdm": True,
    "logging_strategy": "no",
}
TOKENS = ("input_ids", "KL_input_ids", "chosen_input_ids", "rejected_input_ids")


class Gradients(TrainerCallback):
    """Records every parameter's gradient before the optimiser's step."""

    def __init__(self) -> None:
        self.by_name: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *_: Any, model: Any, **__: Any) -> None:
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                self.by_name[name] = parameter.grad.clone()


def sampled_inputs(
    rows: list[dict[str, Any]], tokenizer: Any, old_policy: Any
) -> dict[str, torch.Tensor]:
    """What GRPO's trainer would have sampled: the rows' completions with their advantages, drawn
    from another policy than the one that is trained, so that ratios are not 1."""
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    completions = [
        [*tokenizer(row["completion"])["input_ids"], tokenizer.eos_token_id] for row in rows
    ]
    width, length = max(map(len, prompts)), max(map(len, completions))
    pad = tokenizer.pad_token_id
    ids = {
        "prompt_ids": [[pad] * (width - len(p)) + p for p in prompts],
        "prompt_mask": [[0] * (width - len(p)) + [1] * len(p) for p in prompts],
        "completion_ids": [c + [pad] * (length - len(c)) for c in completions],
        "completion_mask": [[1] * len(c) + [0] * (length - len(c)) for c in completions],
    }
    inputs = {name: torch.tensor(values) for name, values in ids.items()}
    input_ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        logits = old_policy(input_ids=input_ids, attention_mask=mask, position_ids=positions).logits
    logps = logits[:, width - 1 : -1].log_softmax(-1)
    old_logps = logps.gather(2, inputs["completion_ids"][:, :, None]).squeeze(2)
    return inputs | {
        "advantages": torch.tensor([row["advantage"] for row in rows]),
        "old_per_token_logps": old_logps,
        "num_items_in_batch": inputs["completion_mask"].sum(),
    }


def run_case(case: dict[str, Any], output: Path) -> None:
    trainer_class, config_class = TRAINERS[case["trainer"]]
    tokenizer = AutoTokenizer.from_pretrained(case["model"])
    model_class = AutoModelForCausalLM
    if case["trainer"] == "reward":
        model_class = AutoModelForSequenceClassification
    model = model_class.from_pretrained(case["model"], dtype=torch.float32)
    trainer_options: dict[str, Any] = {}
    if "reference" in case:
        reference = model_class.from_pretrained(case["reference"], dtype=torch.float32)
        trainer_options["ref_model"] = reference
    if "old_policy" in case:  # no reward is computed: the rows have advantages
        trainer_options["reward_funcs"] = lambda completions, **_: [0.0] * len(completions)
    gradients = Gradients()
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_class(
            model=model,
            args=config_class(
                **STEP,
                output_dir=folder,
                per_device_train_batch_size=len(case["rows"]),
                **case["config"],
            ),
            train_dataset=datasets.Dataset.from_list(case["rows"]),
            processing_class=tokenizer,
            callbacks=[gradients],
            **trainer_options,
        )
        if "old_policy" in case:
            old_policy = model_class.from_pretrained(case["old_policy"], dtype=torch.float32)
            inputs = sampled_inputs(case["rows"], tokenizer, old_policy)
            trainer._prepare_inputs = lambda batch: inputs
        tensors: dict[str, torch.Tensor] = {}
        step = trainer.training_step

        def observed(model: Any, inputs: dict[str, Any], *options: Any) -> torch.Tensor:
            for name in TOKENS:
                if name in inputs:
                    tensors[f"tokens.{name}"] = inputs[name].clone()
            tensors["loss"] = step(model, inputs, *options)
            return tensors["loss"]

        trainer.training_step = observed
        trainer.train()
    tensors |= {f"gradient.{name}": value for name, value in gradients.by_name.items()}
    save_file(
        {k: v.contiguous() for k, v in tensors.items()}, output / f"{case['name']}.safetensors"
    )


if __name__ == "__main__":
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for case in job["cases"]:
        run_case(case, Path(job["output"]))
