"""Who takes part in online learning, on one backbone where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, fields

from accord.compare.rewards import Reward, reward_of_model
from accord.learn.offline import same_tokenizer, start_model
from accord.lm.adapters import add_adapters
from accord.lm.heads import keep_first_head
from accord.lm.load import load_causal, load_scalar
from accord.lm.model import LanguageModel
from accord.lm.views import (
    base_view,
    critic_from_reward,
    critic_view,
    head_view,
    reward_view,
    why_not_shared,
)
from accord.respond.local import local_sampler
from accord.respond.protocol import Sampler
from accord.settings.ppo import PpoSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who takes part. `critic` is None where a method estimates no values, `reference` where no
    KL is measured."""

    policy: LanguageModel
    critic: LanguageModel | None
    reference: LanguageModel | None
    reward: Reward
    sampler: Sampler


@dataclass(frozen=True, slots=True)
class RoleMemory:
    """Bytes that a role holds of its own while it learns; activations come on top.

    `masters` are the float32 weights beside bfloat16 ones, `moments` Adam's two.
    """

    weights: int = 0
    masters: int = 0
    gradients: int = 0
    moments: int = 0

    @property
    def total(self) -> int:
        return self.weights + self.masters + self.gradients + self.moments


def load_roles(
    settings: PpoSettings, *, with_critic: bool = True, with_reference: bool = True
) -> Roles:
    """Load what a method asks for, and tell what memory it takes.

    Under LoRA all are views on one base, with the policy's start merged into it, as far as they
    can be; the log says which could not, and why.
    """
    policy = start_model(settings, scalar=False)
    scorer = _reward(settings, policy)
    critic = _critic(settings, policy, scorer) if with_critic else None
    reference = _reference(settings, policy) if with_reference else None
    plan = memory_plan(
        {"policy": policy, "critic": critic, "reference": reference, "reward": scorer}
    )
    for line in told(plan):
        log.info("%s", line)
    return Roles(policy, critic, reference, reward_of_model(scorer), local_sampler(policy))


def memory_plan(roles: Mapping[str, LanguageModel | None]) -> dict[str, RoleMemory]:
    """What each role will hold of its own; what several share counts for the first of them.

    Policy and critic learn; in bf16 they have float32 masters for all but what stays float32.
    """
    plan: dict[str, RoleMemory] = {}
    seen: set[int] = set()
    for role, lm in roles.items():
        if lm is None:
            continue
        weights = masters = gradients = moments = 0
        for name, parameter in lm.held().items():
            place = parameter.data_ptr()
            if place in seen:
                continue
            seen.add(place)
            size = parameter.element_size()
            if parameter.requires_grad and role in ("policy", "critic"):
                if lm.precision == "bf16" and not lm.stays_float32(name):
                    size = 2
                    masters += 4 * parameter.numel()
                gradients += 4 * parameter.numel()
                moments += 8 * parameter.numel()
            weights += size * parameter.numel()
        plan[role] = RoleMemory(weights, masters, gradients, moments)
    return plan


def told(plan: Mapping[str, RoleMemory]) -> list[str]:
    """The plan in lines, in megabytes (2²⁰ bytes)."""
    lines = []
    for role, memory in plan.items():
        parts = [
            f"{f.name} {getattr(memory, f.name) / 2**20:.1f}"
            for f in fields(memory)
            if getattr(memory, f.name)
        ]
        lines.append(f"memory of the {role}, MB: {', '.join(parts) or 'none of its own'}")
    total = sum(memory.total for memory in plan.values()) / 2**20
    return [*lines, f"memory of all roles, MB: {total:.1f}, and activations on top"]


def _reward(settings: PpoSettings, policy: LanguageModel) -> LanguageModel:
    """The reward model: frozen adapters on the policy's base, or a model of its own."""
    if settings.lora is not None:
        reason = why_not_shared(policy, settings.reward_model)
        if reason is None:
            return reward_view(
                policy, settings.reward_model, trust_remote_code=settings.trust_remote_code
            )
        log.info("The reward model %s is loaded by itself: %s.", settings.reward_model, reason)
    scorer = load_scalar(
        settings.reward_model,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
    )
    scorer.model.requires_grad_(False)
    return scorer


def _reference(settings: PpoSettings, policy: LanguageModel) -> LanguageModel:
    """What the KL penalty pulls towards: the base, adapters off, or a frozen model of its own."""
    if policy.is_peft and settings.ref_model in (None, settings.model):
        return base_view(policy)
    lm = load_causal(
        settings.ref_model or settings.model,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
    )
    lm.model.requires_grad_(False)
    same_tokenizer(policy, lm)
    return lm


def _critic(settings: PpoSettings, policy: LanguageModel, scorer: LanguageModel) -> LanguageModel:
    kind = settings.critic or ("separate" if settings.lora is None else "adapter")
    if kind == "shared":
        return head_view(policy, seed=settings.seed)
    if kind == "separate":
        return _separate_critic(settings, policy, scorer)
    assert settings.lora is not None
    if scorer.model is policy.model:
        return critic_from_reward(scorer)
    log.info(
        "The critic is an adapter on the policy's base and the reward model is not, so its values "
        "start from a new head. critic_warmup_steps lets it learn before the policy moves; "
        "critic=separate starts as the reward model, at the price of another model."
    )
    return critic_view(policy, settings.lora, seed=settings.seed + 1)


def _separate_critic(
    settings: PpoSettings, policy: LanguageModel, scorer: LanguageModel
) -> LanguageModel:
    """A critic from the reward model (an ensemble's first head); from the policy's start where it
    has another tokenizer."""
    same = policy.tokenizer.get_vocab() == scorer.tokenizer.get_vocab()
    if not same:
        log.info("The reward model has another tokenizer; the critic starts from the policy.")
    critic = load_scalar(
        settings.reward_model if same else settings.model,
        seed=settings.seed,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        learns=settings.lora is None,
    )
    keep_first_head(critic)
    if settings.lora is not None:
        critic = add_adapters(critic, settings.lora, seed=settings.seed + 1)
    if settings.gradient_checkpointing:
        critic.recompute_activations()
    return critic
