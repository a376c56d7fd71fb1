"""The roles of online learning: policy, critic, reference, reward and sampler, on one backbone
where that is possible."""

from __future__ import annotations

import logging
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

from accord.compare.rewards.build import (
    build_reward,
    first_reward_model,
    weighted_first,
)
from accord.compare.rewards.reward import CombinedReward, Reward, World
from accord.errors import SettingsError
from accord.learn.loop.in_memory import NOTHING, InMemory
from accord.learn.offline.reference import check_same_tokenizer, reference_kind
from accord.learn.offline.rows import load_starting_model, with_memory_settings
from accord.learn.online.engines import open_engine
from accord.learn.online.memory import memory_plan, memory_report
from accord.lm.adapters.lora import add_adapters
from accord.lm.adapters.views import (
    CRITIC,
    base_view,
    continued_critic,
    critic_from_policy,
    critic_from_reward,
    critic_view,
    frozen_view,
    head_view,
    reward_view,
    why_not_shared,
)
from accord.lm.heads import reduce_to_first_head
from accord.lm.in_memory import add_scalar_head, frozen_copy
from accord.lm.load import load_causal, load_scalar
from accord.lm.model import LanguageModel
from accord.lm.router import router_loss
from accord.respond.protocol import Sampler
from accord.respond.vllm.building import require_vllm
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PpoSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Roles:
    """The models of a run. `critic` is None where a method estimates no values, `reference` where
    no KL is measured. Where another engine samples, `sync_weights` gives it the policy's present
    weights, and `close` ends it or removes them; a `server` gets requests of the main process
    only. Processes that divide the policy call `sync_weights` together."""

    policy: LanguageModel
    critic: LanguageModel | None
    reference: LanguageModel | None
    reward: Reward
    sampler: Sampler
    sync_weights: Callable[[], None] = lambda: None
    close: Callable[[], None] = lambda: None
    server: bool = False

    @property
    def models(self) -> list[LanguageModel]:
        """All models of the run, those that share a base too."""
        named = (self.policy, self.critic, self.reference)
        return [lm for lm in (*named, *self.reward_models) if lm is not None]

    @property
    def reward_models(self) -> tuple[LanguageModel, ...]:
        """The models that the reward has loaded."""
        return self.reward.models if isinstance(self.reward, CombinedReward) else ()

    @property
    def is_sharded(self) -> bool:
        """Whether the processes divide the models, and so take every pass together."""
        return self.policy.sharded is not None


def load_roles(
    settings: OnlineSettings, memory: InMemory = NOTHING, *, world: World | None = None
) -> Roles:
    """Load the models that the settings name, and log their memory.

    Under LoRA all are views of one base, with the policy's start merged into it, as far as
    possible; the log says which are not, and why. `world` gives the embedded world's reward where
    that is a source.
    """
    if settings.sampler.is_colocated:
        require_vllm(settings.device)  # before a model is loaded
    policy = memory.model or load_starting_model(settings, scalar=False)
    router_loss(policy, adds=False)  # says that it is left out
    reward = memory.reward or build_reward(
        weighted_first(settings.sources),  # the critic starts from the first reward model
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        world=world,
        load=_reward_models(settings, policy),
        clip=settings.reward_clip,
    )
    for lm in reward.models:
        check_reward_length(lm, policy, settings)
    critic = None
    if isinstance(settings, PpoSettings) and settings.vf_coef:
        critic = _critic(settings, memory, policy, reward.models[0] if reward.models else None)
    reference = None
    if settings.needs_reference:
        reference = memory.ref_model or _reference(settings, memory, policy)
    models = {"policy": policy, "critic": critic, "reference": reference}
    rewards = {f"reward {i}, {lm.name}": lm for i, lm in enumerate(reward.models, 1)}
    for line in memory_report(memory_plan(models | rewards, settings.optim)):
        log.info("%s", line)
    engine = open_engine(settings, policy, on_disk=memory.on_disk)
    return Roles(
        policy,
        critic,
        reference,
        reward,
        engine.sampler,
        engine.sync_weights,
        engine.close,
        engine.server,
    )


def check_reward_length(
    scorer: LanguageModel, policy: LanguageModel, settings: OnlineSettings
) -> None:
    """Warn where prompt and answer may be longer than a reward model reads (the length that it
    was trained on); raise SettingsError where an answer alone may be."""
    reads, longest = scorer.max_length, settings.max_length
    if policy.max_positions is not None:
        longest = min(longest, policy.max_positions)
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
        "it does not see the beginning of longer prompts.",
        scorer.name,
        reads,
        longest,
    )


def same_vocabulary(lm_a: LanguageModel, lm_b: LanguageModel) -> bool:
    return bool(lm_a.tokenizer.get_vocab() == lm_b.tokenizer.get_vocab())


def _reward_models(
    settings: OnlineSettings, policy: LanguageModel
) -> Callable[[str], LanguageModel]:
    """Loads a reward model: the first that can be as frozen adapters on the policy's base, others
    as separate models."""

    def load(path: str) -> LanguageModel:
        if settings.lora is not None:
            reason = why_not_shared(policy, path)
            if reason is None:
                return reward_view(policy, path, trust_remote_code=settings.trust_remote_code)
            log.info("The reward model %s is loaded separately: %s.", path, reason)
        scorer = load_scalar(
            path,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
        )
        scorer.model.requires_grad_(False)
        return scorer

    return load


def _reference(settings: OnlineSettings, memory: InMemory, policy: LanguageModel) -> LanguageModel:
    """The model that the KL penalty pulls towards: the base, adapters off; a frozen copy of the
    adapter that is continued; or a separate frozen model."""
    kind = reference_kind(policy, settings.model, settings.ref_model)
    if kind == "base":
        return base_view(policy)
    if kind == "start" and policy.is_peft:
        return frozen_view(policy)
    if kind == "start" and not memory.on_disk:
        return frozen_copy(policy)
    lm = load_causal(
        settings.ref_model or settings.model,
        precision=settings.precision,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
        quantization=settings.quantization,
    )
    lm.model.requires_grad_(False)
    check_same_tokenizer(policy, lm)
    return lm


def _critic(
    settings: PpoSettings,
    memory: InMemory,
    policy: LanguageModel,
    scorer: LanguageModel | None,
) -> LanguageModel:
    kind = settings.critic or ("separate" if settings.lora is None else "adapter")
    if settings.critic_model is not None and kind == "adapter":
        reason = why_not_shared(policy, settings.critic_model, adapter=CRITIC)
        if reason is None:
            return continued_critic(policy, settings.critic_model)
        log.info("The critic %s is loaded separately: %s.", settings.critic_model, reason)
        kind = "separate"
    if kind == "shared":
        return head_view(policy, seed=settings.seed)
    if kind == "separate":
        return _separate_critic(settings, memory, policy, scorer)
    assert settings.lora is not None
    if scorer is not None and scorer.model is policy.model:
        return critic_from_reward(scorer)
    log.info(
        "The critic is an adapter on the policy's base and no reward model is, so its values "
        "start from a new head. critic_warmup_steps trains it before the policy changes; "
        "critic=separate starts as the reward model, at the cost of another model in memory."
    )
    if reference_kind(policy, settings.model, None) == "start":
        return critic_from_policy(policy, seed=settings.seed + 1)
    return critic_view(policy, settings.lora, seed=settings.seed + 1)


def _separate_critic(
    settings: PpoSettings,
    memory: InMemory,
    policy: LanguageModel,
    scorer: LanguageModel | None,
) -> LanguageModel:
    """A critic from the first reward model (an ensemble's first head); from the policy's start
    where there is none, or where it has another tokenizer."""
    path = first_reward_model(settings.sources)
    if settings.critic_model is not None:
        path, scorer = settings.critic_model, None
    if scorer is not None and not same_vocabulary(policy, scorer):
        log.info("The reward model has another tokenizer; the critic starts from the policy.")
        path = scorer = None
    if path is None and scorer is not None:  # in memory, where it is frozen and shared
        critic = deepcopy(scorer)
        critic.model.float().requires_grad_(settings.lora is None)
    elif path is None and not memory.on_disk:
        critic = add_scalar_head(policy, seed=settings.seed)
    else:
        critic = load_scalar(
            path or settings.model,
            new_head=path is None,
            seed=settings.seed,
            precision=settings.precision,
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            trainable=settings.lora is None,
            quantization=settings.quantization,
        )
    if not same_vocabulary(policy, critic):  # it reads the policy's token ids
        raise SettingsError(
            f"critic_model={path} has another tokenizer than the policy {policy.name}. Name a "
            f"critic of the same tokenizer, or leave critic_model out."
        )
    reduce_to_first_head(critic)
    if settings.lora is not None:
        critic = add_adapters(critic, settings.lora, seed=settings.seed + 1)
    return with_memory_settings(critic, settings)


def critic_learning_rate(settings: OnlineSettings) -> float:
    """The critic's peak learning rate; by default the policy's."""
    rate = settings.critic_learning_rate if isinstance(settings, PpoSettings) else None
    return rate or settings.learning_rate


def critic_warmup_steps(settings: OnlineSettings) -> int:
    """Iterations in which only the critic is trained; none without a critic."""
    return settings.critic_warmup_steps if isinstance(settings, PpoSettings) else 0
