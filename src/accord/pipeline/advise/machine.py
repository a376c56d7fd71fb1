"""Whether the machine can sample during training: memory, and the time of a CPU."""

from __future__ import annotations

from accord.errors import AccordError
from accord.pipeline.plan.machine import Machine, available_memory, this_machine
from accord.pipeline.plan.run import PlannedStage, plan_stage
from accord.runs.storage import format_bytes
from accord.settings.advise import AdviseSettings
from accord.settings.groups import GrpoSettings
from accord.settings.recipe import StagePlan
from accord.settings.training import LoraSettings, RewardSettings

LARGEST_ON_CPU = 50_000_000
"""Parameters beyond which an online iteration takes minutes on a CPU."""


def online_fits(settings: AdviseSettings) -> tuple[bool, str]:
    """Whether GRPO with adapters, as the written recipe has it, fits, and why; as `accord plan`
    estimates it."""
    if settings.online is not None:
        return settings.online, f"`online={str(settings.online).lower()}` says so"
    if not settings.trainable:
        return False, "nothing is trained"
    parameters = count_parameters(settings.model, settings.trust_remote_code)
    machine = _machine(settings.device)
    size = f"{parameters / 1e6:,.1f} million parameters"
    if machine.device == "cpu" and parameters > LARGEST_ON_CPU:
        return False, f"{size} sample too slowly on a CPU to train online"
    planned = plan_grpo(settings, machine)
    if planned.memory is None:
        return False, f"what GRPO needs is not known: {planned.problem}; `online=true` overrides it"
    needed, free = (format_bytes(count) for count in (planned.memory.peak, machine.usable))
    if planned.memory.peak > machine.usable:
        return False, f"GRPO with adapters on {size} takes about {needed}; {free} are free"
    return True, f"{size}; about {needed} of {free} for GRPO with adapters"


def plan_grpo(settings: AdviseSettings, machine: Machine) -> PlannedStage:
    """The memory of GRPO under LoRA in bf16 on prompts of the data, or where that has none that can
    be read, on the longest that the settings allow.

    A reward that is still to be trained has adapters on the same model.
    """
    reward = RewardSettings(
        model=settings.model, dataset="pairs", output_dir="advised-reward", lora=LoraSettings()
    )
    before = (StagePlan("reward", "train", reward, "reward"),)
    scores: dict[str, object] = {"reward_model": settings.reward_model or "advised-reward/model"}
    if settings.rewards is not None:
        scores = {"rewards": settings.rewards}

    def planned(data: str) -> PlannedStage:
        grpo = GrpoSettings.model_validate(
            {
                "model": settings.model,
                "dataset": data,
                "output_dir": "advised-grpo",
                "lora": LoraSettings(),
                "precision": "bf16",
                "trust_remote_code": settings.trust_remote_code,
                **scores,
            }
        )
        return plan_stage(StagePlan("grpo", "train", grpo, "grpo"), before, machine)

    for data in settings.data[:1]:
        try:
            return planned(data)
        except AccordError:  # `data check` says what is wrong with it
            break
    return planned("advised-reward/prompts")


def count_parameters(model: str, trust_remote_code: bool) -> int:
    """The parameters of a model, from its configuration; a tied embedding counts once."""
    from accord.lm.weightless import load_weightless

    lm = load_weightless(model, trust_remote_code=trust_remote_code)
    return sum(parameter.numel() for parameter in lm.model.parameters())


def _machine(device: str) -> Machine:
    if device == "cpu":
        return Machine("cpu", available_memory(), described=False)
    return this_machine()
