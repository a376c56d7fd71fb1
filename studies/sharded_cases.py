"""Small runs of several methods, in one process and in several that divide the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from accord.learn.loop.fit import StepResult
from accord.learn.offline.train import train_offline
from accord.learn.online.methods import ONLINE
from accord.learn.online.train import train_online
from accord.lm.load import load_scalar, save_model
from accord.lm.scratch import save_untrained, train_tokenizer, untrained_model
from accord.settings.stage_kinds import METHOD_SETTINGS

SENTENCES = (
    "the cat sat on the mat and looked at the door",
    "a dog ran far away from the old house",
    "please write one word about the sea",
    "the answer is yes, and the answer is no",
)
SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {**SHAPE, "tie_word_embeddings": False}),
    "Qwen3, tied": ("qwen3", {**SHAPE, "tie_word_embeddings": True}),
}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "SFT": ("sft", {}),
    "DPO": ("dpo", {}),
    "KTO": ("kto", {}),
    "reward": ("reward", {"heads": 2}),
    "PPO, shared critic": ("ppo", {"critic": "shared"}),
    "PPO, separate critic": ("ppo", {"critic": "separate"}),
    "GRPO": ("grpo", {"num_generations": 4}),
}
PLAIN = {"learning_rate": 1e-4, "max_length": 64, "device": "cpu", "save_steps": 10_000}
ROWS = 16  # of a step, or responses of an iteration


@dataclass(frozen=True)
class Case:
    """A method on a model, full or by LoRA, with settings of its own."""

    method: str
    model: str = "Llama"
    lora: bool = False
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.method}, {self.model}, {'LoRA' if self.lora else 'full'}"


def build_inputs(folder: Path) -> Path:
    """Models, reward models and rows of all methods."""
    tokenizer = train_tokenizer(SENTENCES, 300, 128)
    for name, (architecture, shape) in MODELS.items():
        model = untrained_model(architecture, shape, tokenizer, seed=1)
        with torch.no_grad():  # far from uniform
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(4.0)
        save_untrained(model, tokenizer, folder / name)
        reward = load_scalar(str(folder / name), new_head=True, seed=3, device="cpu")
        reward.score_std = 2.0
        save_model(reward, folder / f"{name} reward", card="")
    words = [word for sentence in SENTENCES for word in sentence.split()]
    pairs = [
        {
            "prompt": f"the {word} ",
            "chosen": " ".join(words[i : i + 1 + i % 7]),
            "rejected": " ".join(words[-i - 1 - i % 5 : -i - 1] or ["no"]),
        }
        for i, word in enumerate(words[:24])
    ]
    demonstrations = [{"prompt": p["prompt"], "completion": p["chosen"]} for p in pairs]
    labelled = [{**row, "label": i % 3 > 0} for i, row in enumerate(demonstrations)]
    prompts = [{"prompt": p["prompt"]} for p in pairs]
    for name, rows in {
        "pairs": pairs,
        "labels": labelled,
        "demonstrations": demonstrations,
        "prompts": prompts,
    }.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def case_settings(
    case: Case, inputs: Path, output: Path, *, processes: int, steps: int, **overrides: Any
) -> Any:
    """The settings of a case, so that a step has as many rows in any number of processes."""
    method, own = METHODS[case.method]
    files = {"sft": "demonstrations", "dpo": "pairs", "kto": "labels", "reward": "pairs"}
    values: dict[str, Any] = {
        **PLAIN,
        "model": str(inputs / case.model),
        "dataset": str(inputs / f"{files.get(method, 'prompts')}.jsonl"),
        "output_dir": str(output),
        "max_steps": steps,
        "per_device_train_batch_size": ROWS // processes,
    }
    if method in ONLINE:
        values |= {
            "reward_model": str(inputs / f"{case.model} reward"),
            "max_new_tokens": 6,
            "max_length": 48,
        }
    if method == "ppo":
        values |= {"num_ppo_epochs": 2, "num_mini_batches": 1}
    if case.lora:
        values |= {"lora": {"r": 2}}
    if processes > 1:
        values["sharding"] = "fsdp"
    return METHOD_SETTINGS[method](**{**values, **own, **dict(case.settings), **overrides})


def start_run(settings: Any, method: str) -> Iterator[StepResult]:
    """A run's steps."""
    name = METHODS[method][0]
    train: Any = train_online if name in ONLINE else train_offline
    steps: Iterator[StepResult] = train(name, settings)
    return steps


def run_case(case: Case, inputs: Path, output: Path, **options: Any) -> list[Mapping[str, float]]:
    """Train to the end; the metrics of all steps."""
    settings = case_settings(case, inputs, output, **options)
    return [dict(step.metrics) for step in start_run(settings, case.method)]
