"""The memory of an online method: four roles, their passes, and sampling."""

from __future__ import annotations

from typing import Any

from accord.learn.online.memory import RoleMemory
from accord.learn.plan.models import frozen_model
from accord.learn.plan.passes import PassMemory, Shape, trace_pass
from accord.learn.plan.phases import (
    ACTIVATIONS,
    GRADIENTS,
    KEYS_VALUES,
    LOGITS,
    Phase,
    StageMemory,
    lasting,
    loading_phase,
    optimiser_phase,
    pass_phase,
    saving_phase,
)
from accord.learn.plan.roles import (
    ModelSizes,
    adapter_role,
    frozen_adapter_role,
    frozen_role,
    full_role,
    head_role,
    model_sizes,
)
from accord.learn.plan.sampling import sampling_memory
from accord.lm.kernels.prepacked import has_onednn_bf16
from accord.lm.model import LanguageModel
from accord.lm.packing import FORWARD_TOKENS
from accord.pipeline.plan.estimate import (
    Inputs,
    allocation,
    cast_weights,
    converted,
    files_beside,
    keeps_gradients,
    other_reference,
    trained,
    trained_role,
    with_moments,
)
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
    critic, sizes = roles.get("critic"), model_sizes(policy)
    moments = facts.steps is None or facts.steps > 1 or settings.epochs > 1 or facts.passes > 1
    several = settings.gradient_accumulation_steps > 1
    keeps = keeps_gradients(inputs, several=several, moments=moments)
    memory = trace_pass(policy, facts.largest, keeps_gradients=keeps)
    passes = [memory]
    phases = [
        loading_phase(roles, files_beside(inputs, sizes)),
        _sampling_phase(inputs, facts, roles, policy),
        _scoring_phase(inputs, facts, roles, scorers),
        pass_phase(
            "policy, forward and backward",
            roles,
            memory,
            moments=moments,
            gradients=_gradients(roles, keeps),
            cast=cast_weights(inputs, sizes, merged=inputs.merged),
        ),
    ]
    if critic is not None and not _shares_pass(settings):
        valued = _critic_pass(inputs, facts, policy, keeps=keeps)
        passes.append(valued)
        gradients = roles["policy"].gradients + (critic.gradients if keeps else 0)
        phases.append(
            pass_phase(
                "critic, forward and backward", roles, valued, moments=moments, gradients=gradients
            )
        )
    phases += [optimiser_phase(roles), saving_phase(roles, converted(inputs, sizes))]
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
    sizes = model_sizes(policy)
    roles = {"policy": trained_role(inputs, sizes, policy)}
    if inputs.settings.needs_reference:
        roles |= _online_reference(inputs, sizes)
    rewards, scorers = _rewards(inputs, sizes)
    roles |= rewards
    critic = _critic(inputs, sizes, policy)
    if critic is not None:
        roles["critic"] = critic
    return roles, policy, scorers


def _gradients(roles: dict[str, RoleMemory], keeps: bool) -> int:
    return sum(role.gradients for role in roles.values()) if keeps else 0


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
        role = adapter_role(ModelSizes(0, sizes.adapter, width + 1), half=inputs.half, base=False)
        adapters = [p.numel() for p in policy.trainable_parameters().values()]
        return with_moments(role, inputs, [*adapters, width, 1])
    start = _critic_start(inputs)
    lm = trained(inputs, heads=1, model=start)
    trained_sizes = [p.numel() for p in lm.trainable_parameters().values()]
    critic = model_sizes(lm)
    if settings.lora is None:
        return with_moments(full_role(critic, half=inputs.half), inputs, trained_sizes)
    role = adapter_role(
        critic, half=inputs.half, float32_base=start.is_adapter, four_bit=inputs.four_bit
    )
    return with_moments(role, inputs, trained_sizes)


def _critic_start(inputs: Inputs) -> PlannedModel:
    """The model that a separate critic starts from."""
    settings: PpoSettings = inputs.settings
    path = settings.critic_model or next(iter(_reward_paths(settings)), None)
    return inputs.model if path is None else inputs.find(path)


def _critic_pass(
    inputs: Inputs, facts: RowFacts, policy: LanguageModel, *, keeps: bool
) -> PassMemory:
    settings: PpoSettings = inputs.settings
    separate = settings.critic == "separate" or (settings.critic is None and settings.lora is None)
    if separate:
        return trace_pass(
            trained(inputs, heads=1, model=_critic_start(inputs)),
            facts.largest,
            reads="values",
            keeps_gradients=keeps,
        )
    lm = trained(inputs, heads=1)  # adapters of the same shapes on the same base
    return trace_pass(lm, facts.largest, reads="values", keeps_gradients=keeps)


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
        half = inputs.half and not other.is_adapter
        lm = frozen_model(other.config, other.name, other.tokenizer, half=half, heads=1)
        scorers.append(lm)
        name = "reward model" if number == 1 else f"reward model {number}"
        if other.is_adapter and not shared and _same_base(inputs, other):
            shared = True
            width = int(lm.inner.config.get_text_config().hidden_size)
            adapter = sizes.adapter  # as large as the policy's, unless its own is known
            roles[name] = frozen_adapter_role(ModelSizes(0, adapter, width), half=inputs.half)
        else:
            roles[name] = frozen_role(model_sizes(lm), half=half)
    return roles, scorers


def _same_base(inputs: Inputs, other: PlannedModel) -> bool:
    base: dict[str, Any] = inputs.model.config.to_dict()
    return not inputs.merged and base == other.config.to_dict()


def _sampling_phase(
    inputs: Inputs, facts: RowFacts, roles: dict[str, RoleMemory], policy: LanguageModel
) -> Phase:
    parts = lasting(roles, moments=facts.steps is None or facts.steps > 1)
    if inputs.settings.sampler.kind == "local":
        parts |= _local_sampling(inputs, facts, policy)
    if inputs.half:
        parts[GRADIENTS] = _gradients(roles, keeps=True)
    return Phase(SAMPLING, parts)


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
    parts = lasting(roles, moments=moments)
    if inputs.half:
        parts[GRADIENTS] = _gradients(roles, keeps=True)
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
    return Phase("scoring", parts)
