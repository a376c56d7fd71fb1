"""The recipe of the study `real`: every method on a real chat model and real preferences.

LoRA on one base throughout. Sizes are chosen so that each stage takes minutes on two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """How much of each kind of work the recipe does."""

    rows: int  # of the data set, training and held-out rows together
    batch: int  # rows of an optimiser step
    iterations: int  # of an online method
    episodes: int  # of an iteration
    max_new_tokens: int
    prompts_per_round: int
    test_prompts: int
    candidates: int  # N of best-of-N


FULL = Size(
    rows=320,
    batch=16,
    iterations=8,
    episodes=32,
    max_new_tokens=48,
    prompts_per_round=32,
    test_prompts=48,
    candidates=4,
)
SHORT = Size(
    rows=24,
    batch=4,
    iterations=1,
    episodes=8,
    max_new_tokens=12,
    prompts_per_round=6,
    test_prompts=4,
    candidates=2,
)
LIMITS = {"max_length": 512, "max_prompt_length": 384}
OFFLINE = ("dpo", "kto", "orpo")
ONLINE = ("ppo", "grpo")
CONTESTANTS = ("base", "sft", *OFFLINE, *ONLINE, "iterate", "best-of-n")


def make_recipe(model: str, dataset: str, size: Size) -> dict[str, Any]:
    """The stages as `accord run` reads them."""
    stages: list[dict[str, Any]] = [
        {"stage": "split", "name": "data", "dataset": dataset, "test_fraction": 0.2}
    ]
    stages.append(_offline("sft", model, size))
    stages.append(_offline("reward", model, size))
    stages += [_offline(name, model if name == "orpo" else "$sft/model", size) for name in OFFLINE]
    stages += [_online(name, size) for name in ONLINE]
    stages.append(_iterate(size))
    stages += [
        _sample(name, model if name == "base" else f"${name}/model", size)
        for name in CONTESTANTS
        if name not in ("sft", "best-of-n")
    ]
    stages.append(_sample("sft", "$sft/model", size, responses=size.candidates))
    stages += [
        _select("sft", 1),
        _select("best-of-n", size.candidates),
    ]
    contestants = [_contestant(name, model, size) for name in CONTESTANTS]
    stages += [
        {
            "stage": "evaluate",
            "contestants": contestants,
            "reference": "$sft/model",
            "reward_model": "$reward/model",
            "comparisons": "$data/test.jsonl",
        },
        {
            "stage": "arena",
            "contestants": contestants,
            "judge": {"kind": "reward_model", "model": "$reward/model"},
            "anchor": "sft",
            "prior": 1,
        },
        {
            "stage": "report",
            "title": "A real model on real preferences",
            "run": "$run",
            "output_dir": "$run",
            "contestants": contestants,
            "evaluation": "$evaluate/evaluation.json",
            "ratings": "$arena/ratings.json",
        },
    ]
    return {"seed": 0, "stages": stages}


def _train(method: str, model: str) -> dict[str, Any]:
    return {
        "stage": "train",
        "name": method,
        "method": method,
        "model": model,
        "dataset": "$data/train.jsonl",
        "precision": "bf16",
        "lora": {},
        **LIMITS,
    }


def _offline(method: str, model: str, size: Size) -> dict[str, Any]:
    return {
        **_train(method, model),
        "eval_dataset": "$data/test.jsonl",
        "per_device_train_batch_size": size.batch,
    }


def _online(method: str, size: Size) -> dict[str, Any]:
    return {
        **_train(method, "$sft/model"),
        "reward_model": "$reward/model",
        "per_device_train_batch_size": size.episodes,
        "num_generations": 4,
        "max_new_tokens": size.max_new_tokens,
        "max_steps": size.iterations,
    }


def _iterate(size: Size) -> dict[str, Any]:
    return {
        "stage": "iterate",
        "model": "$sft/model",
        "dataset": "$data/train.jsonl",
        "rounds": 2,
        "prompts_per_round": size.prompts_per_round,
        "num_responses": 4,
        "max_new_tokens": size.max_new_tokens,
        "max_prompt_length": LIMITS["max_prompt_length"],
        "judge": {"kind": "reward_model", "model": "$reward/model"},
        "train": {
            "method": "dpo",
            "precision": "bf16",
            "lora": {},
            "per_device_train_batch_size": size.batch,
            **LIMITS,
        },
        "eval_dataset": "$data/test.jsonl",
        "eval_prompts": size.test_prompts,
    }


def _sample(name: str, model: str, size: Size, responses: int = 1) -> dict[str, Any]:
    return {
        "stage": "sample",
        "name": f"{name}-answers",
        "model": model,
        "model_name": name,
        "dataset": "$data/test.jsonl",
        "num_responses": responses,
        "max_new_tokens": size.max_new_tokens,
        "max_prompts": size.test_prompts,
        "max_prompt_length": LIMITS["max_prompt_length"],
        "precision": "bf16",
    }


def _select(name: str, n: int) -> dict[str, Any]:
    return {
        "stage": "select",
        "name": f"{name}-selected",
        "responses": "$sft-answers/responses.jsonl",
        "n": n,
        "reward_model": "$reward/model",
        "model_name": name,
    }


def _contestant(name: str, model: str, size: Size) -> Mapping[str, Any]:
    if name == "best-of-n":
        responses = "$best-of-n-selected/responses.jsonl"
        return {"name": name, "responses": responses, "best_of": size.candidates}
    if name == "sft":
        responses = "$sft-selected/responses.jsonl"
        return {"name": name, "responses": responses, "model": "$sft/model", "train": "$sft"}
    contestant = {"name": name, "responses": f"${name}-answers/responses.jsonl"}
    if name == "base":
        return {**contestant, "model": model}
    if name == "iterate":
        return {**contestant, "model": "$iterate/model"}
    return {**contestant, "model": f"${name}/model", "train": f"${name}"}
