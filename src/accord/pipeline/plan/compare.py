"""`--compare`: the roles of DPO and PPO, full and under LoRA, shared and separate, on one model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accord.errors import RequestError
from accord.learn.plan.passes import Shape
from accord.learn.plan.phases import StageMemory
from accord.pipeline.plan.estimate import offline_memory
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.machine import Machine
from accord.pipeline.plan.online import online_memory
from accord.pipeline.plan.rows import RowFacts
from accord.pipeline.plan.run import PlannedStage
from accord.settings.ppo import PpoSettings
from accord.settings.preferences import DpoSettings
from accord.settings.recipe import StagePlan
from accord.settings.training import RewardSettings


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to train a model, with its memory."""

    name: str
    memory: StageMemory


FORMS: dict[str, tuple[str, bool, str | None]] = {
    "DPO, full": ("dpo", False, None),
    "DPO, LoRA": ("dpo", True, None),
    "PPO, full": ("ppo", False, "separate"),
    "PPO, LoRA, separate critic": ("ppo", True, "separate"),
    "PPO, LoRA, one base": ("ppo", True, "adapter"),
    "PPO, LoRA, shared critic": ("ppo", True, "shared"),
}
"""By name: the method, whether under LoRA, and where the critic is."""


def compare(stage: PlannedStage, machine: Machine) -> list[Variant]:
    """The memory of each of FORMS on a stage's model, on rows of its largest pass.

    PPO reads a prompt with one response where DPO reads it with two, so its passes have as many
    responses as DPO's, and no fewer tokens.
    """
    if stage.model is None or stage.facts is None:
        raise RequestError(f"--compare needs the model of `{stage.plan.name}`: {stage.problem}")
    settings: Any = stage.plan.settings
    responses = [(p, n) for p, answers in stage.facts.largest for n in answers]
    pairs: list[Shape] = [
        (p, (n, responses[(i + 1) % len(responses)][1]))
        for i, (p, n) in enumerate(responses)
        if i % 2 == 0
    ]
    single: list[Shape] = [(p, (n,)) for p, n in responses]
    lora = settings.lora.model_dump(exclude_unset=True) if settings.lora is not None else {"r": 16}
    shared = {
        "model": settings.model,
        "dataset": settings.dataset,
        "precision": settings.precision,
        "sharding": settings.sharding,
        "gradient_checkpointing": settings.gradient_checkpointing,
        "max_length": settings.max_length,
        "save_dtype": settings.save_dtype,
    }
    variants = []
    for name, (method, adapted, critic) in FORMS.items():
        adapters = {"lora": lora} if adapted else {}
        reward = RewardSettings(**shared, **adapters, output_dir="plan-reward")
        before = (StagePlan("reward", "train", reward, "reward"),)
        if method == "dpo":
            facts = _facts(pairs)
            chosen: Any = DpoSettings(**shared, **adapters, output_dir="plan-dpo")
            inputs = Inputs(StagePlan(name, "train", chosen, "dpo"), before, stage.model, machine)
            variants.append(Variant(name, offline_memory(inputs, facts)))
            continue
        longest = max(n for _, n in responses)
        chosen = PpoSettings(
            **shared,
            **adapters,
            output_dir="plan-ppo",
            reward_model="plan-reward/model",
            critic=critic,
            per_device_train_batch_size=len(single),
            max_new_tokens=min(longest, settings.max_length - 1),
        )
        inputs = Inputs(StagePlan(name, "train", chosen, "ppo"), before, stage.model, machine)
        variants.append(Variant(name, online_memory(inputs, _facts(single))))
    return variants


def _facts(shapes: list[Shape]) -> RowFacts:
    return RowFacts(None, None, None, None, tuple(shapes), 1)
