"""Who takes part in online learning, on one backbone where that is possible."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from accord.compare.rewards.build import (
    World,
    build_reward,
    first_reward_model,
    weighted_first,
)
from accord.compare.rewards.reward import Reward
from accord.errors import SettingsError
from accord.learn.offline.reference import reference_kind
from accord.learn.offline.train import check_same_tokenizer, load_starting_model
from accord.lm.adapters.lora import add_adapters
from accord.lm.adapters.views import (
    base_view,
    critic_from_policy,
    critic_from_reward,
    critic_view,
    frozen_view,
    head_view,
    reward_view,
    why_not_shared,
)
from accord.lm.heads import keep_first_head
from accord.lm.load import load_causal, load_scalar, save_model
from accord.lm.model import LanguageModel
from accord.respond.choose import make_sampler
from accord.respond.local.sampler import LocalSampler
from accord.respond.protocol import Sampler
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PpoSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """Who takes part. `critic` is None where a method estimates no values, `reference` where no
    KL is measured. Where another engine samples (`server`), the main process alone asks it:
    `publish` brings it the policy as it is now, and `leave` takes that away at the end."""

    policy: LanguageModel
    critic: LanguageModel | None
    reference: LanguageModel | None
    reward: Reward
    sampler: Sampler
    publish: Callable[[], None] = lambda: None
    leave: Callable[[], None] = lambda: None
    server: bool = False


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


def load_roles(settings: OnlineSettings, *, world: World | None = None) -> Roles:
    """Load what the settings ask for, and tell what memory it takes.

    Under LoRA all are views on one base, with the policy's start merged into it, as far as they
    can be; the log says which could not, and why. `world` gives the embedded world's reward where
    that is a source.
    """
    policy = load_starting_model(settings, scalar=False)
    reward = build_reward(
        weighted_first(settings.sources),  # the critic starts from the first reward model
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        world=world,
        load=_reward_models(settings, policy),
        clip=settings.reward_clip,
    )
    for lm in reward.models:
        check_reach(lm, policy, settings)
    critic = None
    if isinstance(settings, PpoSettings) and settings.vf_coef:
        critic = _critic(settings, policy, reward.models[0] if reward.models else None)
    reference = _reference(settings, policy) if settings.needs_reference else None
    models = {"policy": policy, "critic": critic, "reference": reference}
    rewards = {f"reward {i}, {lm.name}": lm for i, lm in enumerate(reward.models, 1)}
    for line in told(memory_plan(models | rewards)):
        log.info("%s", line)
    sampler = make_sampler(settings.sampler, policy)
    roles = Roles(policy, critic, reference, reward, sampler)
    if isinstance(sampler, LocalSampler):
        return roles
    if policy.merged:
        raise merged_base_error(settings.model, "lora.continue_adapter")
    sampler.expect(policy.name)
    published = Path(settings.output_dir) / "published"

    def publish() -> None:
        save_model(policy, published, card="")
        sampler.publish(published)

    def leave() -> None:
        sampler.close()
        shutil.rmtree(published, ignore_errors=True)

    return replace(roles, publish=publish, leave=leave, server=True)


def check_reach(scorer: LanguageModel, policy: LanguageModel, settings: OnlineSettings) -> None:
    """Tell where a reward model may not read all of an answer, as none that is longer than it was
    trained on; raise SettingsError where answers may be longer than all that it reads."""
    reads, longest = scorer.max_length, settings.max_length
    if policy.positions is not None:
        longest = min(longest, policy.positions)
    if reads is None or longest <= reads:
        return
    if settings.max_new_tokens >= reads and same_vocabulary(scorer, policy):
        raise SettingsError(
            f"The reward model {scorer.name} reads {reads} tokens at most, and an answer may have "
            f"max_new_tokens={settings.max_new_tokens}: what comes after would not be scored. "
            f"Lower max_new_tokens, or train the reward model with a larger max_length."
        )
    log.warning(
        "The reward model %s reads %d tokens at most, and prompt and answer may have %d together: "
        "of longer ones it does not see the prompt's beginning.",
        scorer.name,
        reads,
        longest,
    )


def same_vocabulary(one: LanguageModel, other: LanguageModel) -> bool:
    return bool(one.tokenizer.get_vocab() == other.tokenizer.get_vocab())


def merged_base_error(adapter: str, setting: str) -> SettingsError:
    """Why an adapter can't be the start where a vLLM server samples, and is not to go on learning;
    `setting` is the one that lets it."""
    return SettingsError(
        f"{adapter} is an adapter: it is merged into its base before new adapters are put on, and "
        f"the vLLM server's base is another. Set {setting}=true, and it goes on learning on its "
        f"base, which the server must serve; or merge it into a model folder of its own, serve "
        f"that, and name it in `model`; or use sampler.kind=local."
    )


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
        for name, parameter in lm.own_parameters().items():
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


def _reward_models(
    settings: OnlineSettings, policy: LanguageModel
) -> Callable[[str], LanguageModel]:
    """Loads a reward model: the first that can be as frozen adapters on the policy's base, others
    as models of their own."""

    def load(place: str) -> LanguageModel:
        if settings.lora is not None:
            reason = why_not_shared(policy, place)
            if reason is None:
                return reward_view(policy, place, trust_remote_code=settings.trust_remote_code)
            log.info("The reward model %s is loaded by itself: %s.", place, reason)
        scorer = load_scalar(
            place,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
        )
        scorer.model.requires_grad_(False)
        return scorer

    return load


def _reference(settings: OnlineSettings, policy: LanguageModel) -> LanguageModel:
    """What the KL penalty pulls towards: the base, adapters off; a frozen copy of the adapter that
    goes on learning; or a frozen model of its own."""
    kind = reference_kind(policy, settings.model, settings.ref_model)
    if kind == "base":
        return base_view(policy)
    if kind == "start" and policy.is_peft:
        return frozen_view(policy)
    lm = load_causal(
        settings.ref_model or settings.model,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
    )
    lm.model.requires_grad_(False)
    check_same_tokenizer(policy, lm)
    return lm


def _critic(
    settings: PpoSettings, policy: LanguageModel, scorer: LanguageModel | None
) -> LanguageModel:
    kind = settings.critic or ("separate" if settings.lora is None else "adapter")
    if kind == "shared":
        return head_view(policy, seed=settings.seed)
    if kind == "separate":
        return _separate_critic(settings, policy, scorer)
    assert settings.lora is not None
    if scorer is not None and scorer.model is policy.model:
        return critic_from_reward(scorer)
    log.info(
        "The critic is an adapter on the policy's base and no reward model is, so its values "
        "start from a new head. critic_warmup_steps lets it learn before the policy moves; "
        "critic=separate starts as the reward model, at the price of another model."
    )
    if reference_kind(policy, settings.model, None) == "start":
        return critic_from_policy(policy, seed=settings.seed + 1)
    return critic_view(policy, settings.lora, seed=settings.seed + 1)


def _separate_critic(
    settings: PpoSettings, policy: LanguageModel, scorer: LanguageModel | None
) -> LanguageModel:
    """A critic from the first reward model (an ensemble's first head); from the policy's start
    where there is none, or where it has another tokenizer."""
    place = first_reward_model(settings.sources)
    if scorer is not None and not same_vocabulary(policy, scorer):
        log.info("The reward model has another tokenizer; the critic starts from the policy.")
        place = None
    critic = load_scalar(
        place or settings.model,
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
        critic.enable_gradient_checkpointing()
    return critic
