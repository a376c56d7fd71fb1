"""The memory of an online method: four roles, their passes, and sampling."""

from __future__ import annotations

from typing import Any

import torch

from accord.learn.online.memory import RoleMemory
from accord.learn.plan.exchange import ShardExchange
from accord.learn.plan.models import frozen_model
from accord.learn.plan.passes import PassMemory, Shape, trace_pass
from accord.learn.plan.phases import (
    ACTIVATIONS,
    COPIES,
    GATHERED,
    GRADIENTS,
    KEYS_VALUES,
    LOGITS,
    Phase,
    StageMemory,
    lasting,
    optimiser_phase,
    saving_phase,
)
from accord.learn.plan.roles import (
    ModelSizes,
    adapter_role,
    frozen_adapter_role,
    frozen_role,
    head_role,
    model_sizes,
    trained_numels,
)
from accord.learn.plan.sampling import sampling_memory
from accord.lm.kernels.prepacked import has_onednn_bf16
from accord.lm.model import LanguageModel
from accord.lm.packing import FORWARD_TOKENS
from accord.pipeline.plan.divided import (
    exchange_between,
    grading_phases,
    loading,
    sampling_parts,
    saved_beside,
    trace_training_pass,
    training_phase,
)
from accord.pipeline.plan.estimate import (
    allocation,
    cast_weights,
    files_beside,
    keeps_gradients,
    other_reference,
    trained,
    trained_role,
    with_moments,
)
from accord.pipeline.plan.inputs import Inputs
from accord.pipeline.plan.models import PlannedModel
from accord.pipeline.plan.rows import RowFacts
from accord.settings.online import OnlineSettings
from accord.settings.ppo import PpoSettings
from accord.settings.rewards import RewardModelSource

SAMPLING = "sampling"


def online_memory(inputs: Inputs, facts: RowFacts) -> StageMemory:
    """The roles and phases of online learning. Raises ModelError where a pass can't be traced."""
    settings: OnlineSettings = inputs.settings
    roles, policy, scorers = online_roles(inputs)
    critic, whole = roles.get("critic"), model_sizes(policy)
    undivided = roles if inputs.parts == 1 else online_roles(inputs.undivided)[0]
    exchange = exchange_between(inputs, policy)
    moments = facts.steps is None or facts.steps > 1 or settings.epochs > 1 or facts.passes > 1
    published = saved_beside(inputs, whole, {"policy": undivided["policy"]}, exchange)
    several = settings.gradient_accumulation_steps > 1
    keeps = keeps_gradients(inputs, several=several, moments=moments)
    memory = trace_training_pass(policy, facts, exchange, keeps=keeps)
    passes = [memory]
    phases = [
        loading(inputs, undivided, files_beside(inputs, whole)),
        _sampling_phase(inputs, facts, roles, policy, exchange, published),
        _scoring_phase(inputs, facts, roles, scorers),
        training_phase(
            "policy, forward and backward",
            roles,
            roles["policy"],
            memory,
            exchange,
            moments=moments,
            keeps=keeps,
            others=critic.gradients if critic is not None and keeps else 0,
            cast=cast_weights(inputs, whole, merged=inputs.merged),
        ),
    ]
    if critic is not None and not _shares_pass(settings):
        valued, phase = _critic_phase(inputs, facts, roles, moments=moments, keeps=keeps)
        passes.append(valued)
        phases.append(phase)
    learning = {name: role for name, role in undivided.items() if name in ("policy", "critic")}
    beside = saved_beside(inputs, whole, learning, exchange)
    phases += [optimiser_phase(roles), *grading_phases(inputs, roles, exchange)]
    phases.append(saving_phase(roles, beside))
    snapshot = _snapshot(settings, roles, facts)
    phases = [_with_engine(phase, inputs) for phase in phases]
    if snapshot:
        phases = [Phase(p.name, {**p.parts, "snapshot": snapshot}) for p in phases]
    return StageMemory(roles, phases, memory.tokens, allocation(inputs, facts, passes))


def online_roles(
    inputs: Inputs,
) -> tuple[dict[str, RoleMemory], LanguageModel, list[LanguageModel]]:
    """The roles by name with what each alone holds, the policy, and the reward models."""
    policy = trained(inputs)
    sizes = model_sizes(policy, inputs.parts)
    roles = {"policy": trained_role(inputs, policy)}
    if inputs.settings.needs_reference:
        roles |= _online_reference(inputs, sizes)
    rewards, scorers = _rewards(inputs, sizes)
    roles |= rewards
    critic = _critic(inputs, sizes, policy)
    if critic is not None:
        roles["critic"] = critic
    return roles, policy, scorers


def _retained(inputs: Inputs, roles: dict[str, RoleMemory]) -> dict[str, int]:
    """The gradients' memory outside of passes."""
    count = sum(role.gradients for role in roles.values())
    return {GRADIENTS: count} if inputs.retains_gradients else {}


def _shares_pass(settings: OnlineSettings) -> bool:
    return isinstance(settings, PpoSettings) and settings.critic == "shared"


def _snapshot(settings: OnlineSettings, roles: dict[str, RoleMemory], facts: RowFacts) -> int:
    """Weights and moments that a rollback would restore, in memory."""
    several = settings.epochs * settings.num_mini_batches > 1
    if settings.snapshot_storage != "memory" or not (several or settings.rolls_back):
        return 0
    return sum(role.gradients + role.moments for role in roles.values())


def _critic(inputs: Inputs, sizes: ModelSizes, policy: LanguageModel) -> RoleMemory | None:
    settings = inputs.settings
    if not isinstance(settings, PpoSettings) or not settings.vf_coef:
        return None
    kind = settings.critic or ("separate" if settings.lora is None else "adapter")
    width = int(policy.inner.config.get_text_config().hidden_size)
    if kind == "shared":
        return with_moments(head_role(width), inputs, [width, 1])
    if kind == "adapter":
        added = ModelSizes(0, sizes.adapter, width + 1)
        role = adapter_role(added, half=inputs.half, base=False, masters=inputs.parts == 1)
        return with_moments(role, inputs, [*trained_numels(policy, inputs.parts), width, 1])
    start = _critic_start(inputs)
    return trained_role(inputs, trained(inputs, heads=1, model=start), start)


def _critic_start(inputs: Inputs) -> PlannedModel:
    """The model that a separate critic starts from."""
    settings: PpoSettings = inputs.settings
    path = settings.critic_model or next(iter(_reward_paths(settings)), None)
    return inputs.model if path is None else inputs.find(path)


def _critic_phase(
    inputs: Inputs, facts: RowFacts, roles: dict[str, RoleMemory], *, moments: bool, keeps: bool
) -> tuple[PassMemory, Phase]:
    """The critic's largest pass: with adapters of the same shapes as the policy's on the same base,
    unless it is a separate model."""
    settings: PpoSettings = inputs.settings
    separate = settings.critic == "separate" or (settings.critic is None and settings.lora is None)
    start = _critic_start(inputs) if separate else inputs.model
    lm = trained(inputs, heads=1, model=start)
    exchange = exchange_between(inputs, lm, merged=start.is_adapter if separate else None)
    memory = trace_training_pass(lm, facts, exchange, reads="values", keeps=keeps)
    phase = training_phase(
        "critic, forward and backward",
        roles,
        roles["critic"],
        memory,
        exchange,
        moments=moments,
        keeps=keeps,
        others=roles["policy"].gradients,
    )
    return memory, phase


def _online_reference(inputs: Inputs, sizes: ModelSizes) -> dict[str, RoleMemory]:
    settings = inputs.settings
    other = other_reference(inputs)
    if other:
        return other
    if settings.lora is None:  # the start itself, which training changes
        return {
            "reference": frozen_role(ModelSizes(sizes.base, strict=sizes.strict), half=inputs.half)
        }
    if settings.lora.continue_adapter and inputs.model.is_adapter:
        return {"reference": frozen_adapter_role(ModelSizes(0, sizes.adapter), half=inputs.half)}
    return {"reference": RoleMemory()}


def _reward_paths(settings: OnlineSettings) -> list[str]:
    paths: list[str] = []
    for source in settings.sources:
        if isinstance(source, RewardModelSource):
            paths += [source.model] if isinstance(source.model, str) else source.model
    return paths


def _rewards(
    inputs: Inputs, sizes: ModelSizes
) -> tuple[dict[str, RoleMemory], list[LanguageModel]]:
    """The reward models: the first adapter on the policy's base is a view of it."""
    roles: dict[str, RoleMemory] = {}
    scorers: list[LanguageModel] = []
    shared = inputs.settings.lora is None
    for number, path in enumerate(_reward_paths(inputs.settings), 1):
        other = inputs.find(path)
        views = other.is_adapter and not shared and _same_base(inputs, other)
        half = inputs.half and (views or not other.is_adapter)
        lm = frozen_model(other.config, other.name, other.tokenizer, half=half, heads=1)
        scorers.append(lm)
        name = "reward model" if number == 1 else f"reward model {number}"
        if views:
            shared = True
            width = int(lm.inner.config.get_text_config().hidden_size)
            adapter = sizes.adapter  # as large as the policy's, unless its own is known
            roles[name] = frozen_adapter_role(ModelSizes(0, adapter, width), half=inputs.half)
        else:
            roles[name] = frozen_role(model_sizes(lm, inputs.parts), half=half)
    return roles, scorers


def _same_base(inputs: Inputs, other: PlannedModel) -> bool:
    base: dict[str, Any] = inputs.model.config.to_dict()
    return not inputs.merged and base == other.config.to_dict()


def _sampling_phase(
    inputs: Inputs,
    facts: RowFacts,
    roles: dict[str, RoleMemory],
    policy: LanguageModel,
    exchange: ShardExchange | None,
    published: int,
) -> Phase:
    """Sampling by the policy itself, or the copy that is written for a server."""
    sampler = inputs.settings.sampler
    parts = lasting(roles, moments=facts.steps is None or facts.steps > 1)
    if sampler.kind == "local":
        parts |= _local_sampling(inputs, facts, policy) | sampling_parts(exchange)
    elif not sampler.is_colocated:
        parts[COPIES] = published
    return Phase(SAMPLING, parts | _retained(inputs, roles))


def _local_sampling(inputs: Inputs, facts: RowFacts, policy: LanguageModel) -> dict[str, int]:
    """What sampling with the policy itself needs, by what it is for."""
    settings: OnlineSettings = inputs.settings
    linear = sum(
        p.numel() for n, p in policy.model.named_parameters() if p.ndim == 2 and ".lora_" not in n
    )
    memory = sampling_memory(
        policy.inner.config.get_text_config(),
        rows=settings.per_device_train_batch_size,
        responses=settings.num_generations,
        prompt=max(prompt for prompt, _ in facts.largest),
        new_tokens=settings.max_new_tokens,
        linear_weights=linear,
        prepacks=inputs.half and inputs.machine.device == "cpu" and has_onednn_bf16(),
        cuda_half=inputs.half and inputs.machine.device == "cuda",
    )
    parts = {KEYS_VALUES: memory.keys_values, LOGITS: memory.logits}
    return parts | ({"prepacked weights": memory.prepacked} if memory.prepacked else {})


def _with_engine(phase: Phase, inputs: Inputs) -> Phase:
    """A phase with the memory of a vLLM engine in this process: its share of the whole device,
    which it frees outside sampling where it can sleep."""
    sampler = inputs.settings.sampler
    sleeps = inputs.machine.device == "cuda" and sampler.sleep_level > 0
    if not sampler.is_colocated or (sleeps and phase.name != SAMPLING):
        return phase
    share = int(sampler.gpu_memory_utilization * (inputs.machine.total or inputs.machine.memory))
    return Phase(phase.name, {**phase.parts, "vLLM, at most": share})


def _scoring_phase(
    inputs: Inputs, facts: RowFacts, roles: dict[str, RoleMemory], scorers: list[LanguageModel]
) -> Phase:
    """Reward models score whole responses, as many tokens at a time as a measuring pass takes."""
    settings: OnlineSettings = inputs.settings
    moments = facts.steps is None or facts.steps > 1
    parts = lasting(roles, moments=moments) | _retained(inputs, roles)
    if scorers:
        rows: list[Shape] = [(p, (n,)) for p, responses in facts.largest for n in responses]
        rows = (rows * facts.passes)[: settings.per_device_train_batch_size]
        count, tokens = 0, 0
        for prompt, (response,) in rows:
            if count and tokens + prompt + response > FORWARD_TOKENS:
                break
            count, tokens = count + 1, tokens + prompt + response
        passes = [trace_pass(lm, rows[:count], reads="ends", grad=False) for lm in scorers]
        parts[ACTIVATIONS] = max(p.forward for p in passes)
        for lm in scorers:
            merged = lm.weights_dtype == torch.float32
            scored = sampling_parts(exchange_between(inputs, lm, merged=merged))
            parts[GATHERED] = parts.get(GATHERED, 0) + scored.get(GATHERED, 0)
    return Phase("scoring", parts)
