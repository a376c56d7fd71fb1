"""Views: language models that share one base, each with a separate adapter and head.

A view is a LanguageModel whose `model` is the policy's. Its forward passes activate its adapter;
its trainable parameters are that adapter and its head. The weights of the base are in memory once.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from accord.errors import SettingsError
from accord.lm.adapters.lora import (
    WEIGHTS,
    load_adapter_tensors,
    lora_config,
    read_config,
    score_weight_name,
    why_not_lora,
)
from accord.lm.adapters.switch import POLICY, adapter_name
from accord.lm.digest import has_same_weights
from accord.lm.heads import new_value_head
from accord.lm.load import REWARD_FILE, apply_reward_file, base_and_adapter, load_tokenizer_or_base
from accord.lm.model import LanguageModel
from accord.settings.training import LoraSettings

# Names of adapters, which are parts of their parameters' names.
CRITIC, REWARD, REFERENCE = "critic", "reward", "reference"


def base_view(policy: LanguageModel) -> LanguageModel:
    """The base under a policy's adapters: the model before the adapters were trained."""
    assert policy.switch is not None
    return replace(policy, adapter=None)


def frozen_view(policy: LanguageModel) -> LanguageModel:
    """A frozen copy of the policy's adapter in its present state, as a reference."""
    _copy_adapter(policy, POLICY, REFERENCE)
    _freeze_adapter(policy, REFERENCE)
    return replace(policy, adapter=REFERENCE)


def head_view(policy: LanguageModel, *, seed: int) -> LanguageModel:
    """A critic that is a new head on the policy's hidden states."""
    head = new_value_head(_hidden_size(policy), policy.device, seed)
    return _scalar_view(policy, policy.adapter, head, head_only=True)


def critic_view(policy: LanguageModel, settings: LoraSettings, *, seed: int) -> LanguageModel:
    """A critic from the base: new adapters, which change nothing at first, and a new head.

    Raises SettingsError when `target_modules` names no layer of this model.
    """
    _add_adapter(policy, CRITIC, lora_config(settings), seed=seed)
    head = new_value_head(_hidden_size(policy), policy.device, seed)
    return _to_trainable_float32(_scalar_view(policy, CRITIC, head))


def critic_from_policy(policy: LanguageModel, *, seed: int) -> LanguageModel:
    """A critic initialised from the policy: a copy of its adapter, and a new head."""
    _copy_adapter(policy, POLICY, CRITIC)
    head = new_value_head(_hidden_size(policy), policy.device, seed)
    return _to_trainable_float32(_scalar_view(policy, CRITIC, head))


@torch.no_grad()
def critic_from_reward(reward: LanguageModel) -> LanguageModel:
    """A critic initialised from a reward model that is a view: copies of its adapter and (first)
    head."""
    _copy_adapter(reward, REWARD, CRITIC)
    assert reward.score is not None
    head = new_value_head(_hidden_size(reward), reward.device)
    head.weight.copy_(reward.score.weight[:1])
    critic = _scalar_view(reward, CRITIC, head)
    critic.score_mean, critic.score_std = reward.score_mean, reward.score_std
    if reward.head_means:
        critic.score_mean = reward.head_means[0]
    return _to_trainable_float32(critic)


@torch.no_grad()
def continued_critic(policy: LanguageModel, path: str) -> LanguageModel:
    """The critic of an adapter folder, trainable, on the policy's base. `why_not_shared` must be
    None."""
    tensors = load_file(Path(path) / WEIGHTS)
    score = tensors.pop(score_weight_name(tensors))
    _add_adapter(policy, CRITIC, read_config(path), seed=0)
    load_adapter_tensors(policy, CRITIC, tensors, path)
    head = new_value_head(_hidden_size(policy), policy.device)
    head.weight.copy_(score[:1])
    critic = _scalar_view(policy, CRITIC, head)
    limits = critic.max_length
    apply_reward_file(critic, path)
    critic.max_length = limits  # it reads what the policy does
    return _to_trainable_float32(critic)


@torch.no_grad()
def reward_view(
    policy: LanguageModel, path: str, *, trust_remote_code: bool = False
) -> LanguageModel:
    """The reward model of an adapter folder, frozen, on the policy's base. `why_not_shared` must be
    None."""
    config = read_config(path)
    tensors = load_file(Path(path) / WEIGHTS)
    score = tensors.pop(score_weight_name(tensors))
    _add_adapter(policy, REWARD, config, seed=0)
    load_adapter_tensors(policy, REWARD, tensors, path)
    _freeze_adapter(policy, REWARD)
    head = _frozen_head(score, policy.device)
    view = _scalar_view(policy, REWARD, head)
    view.name = path
    view.tokenizer = load_tokenizer_or_base(path, policy.name, trust_remote_code)
    apply_reward_file(view, path)
    return view


def why_not_shared(policy: LanguageModel, path: str, *, adapter: str = REWARD) -> str | None:
    """Why a reward model (or critic, as `adapter` says) can't be an adapter on the policy's base;
    None where it can."""
    folder = Path(path)
    if not (folder / "adapter_config.json").is_file():
        return "it is a full model"
    if adapter in policy.model.peft_config:
        return "another reward model is on the policy's base already"
    reason = why_not_lora(path)
    if reason is not None:
        return reason
    if not (folder / REWARD_FILE).is_file():
        return f"it has no {REWARD_FILE}, so it is no reward model that accord saved"
    tensors = load_file(folder / WEIGHTS)
    if score_weight_name(tensors) not in tensors:
        return "its head is not with the adapter"
    base, _ = base_and_adapter(path)
    if not has_same_weights(policy, base):
        merged = f", which has {policy.name} merged into it" if policy.unsaved else ""
        return f"its base {base} is not the policy's{merged}"
    return None


def _scalar_view(
    policy: LanguageModel, adapter: str | None, head: nn.Linear, *, head_only: bool = False
) -> LanguageModel:
    return LanguageModel(
        policy.model,
        policy.tokenizer,
        policy.name,
        scalar=True,
        precision=policy.precision,
        shares_prefixes=policy.shares_prefixes,
        max_length=policy.max_length,
        switch=policy.switch,
        adapter=adapter,
        score=head,
        head_only=head_only,
        last_layer=policy.last_layer,
        offloads_activations=policy.offloads_activations,
    )


def _add_adapter(lm: LanguageModel, adapter: str, config: LoraConfig, *, seed: int) -> None:
    """Add an adapter to the base; what is trainable of the other adapters does not change."""
    assert lm.switch is not None
    trainable = {n: p.requires_grad for n, p in lm.model.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            lm.model.add_adapter(adapter, config)
        except ValueError as error:
            raise SettingsError(
                f"The adapters of the {adapter} fit no layer of {lm.name}: {error}."
            ) from error
    for name, parameter in lm.model.named_parameters():
        # peft has reset all of these; a base layer that it wrapped also has a new name.
        if adapter_name(name) == adapter:
            parameter.requires_grad_(adapter == CRITIC)
        else:
            parameter.requires_grad_(trainable.get(name, False))
    lm.switch.refresh()


def _copy_adapter(lm: LanguageModel, source: str, adapter: str) -> None:
    """Add an adapter to the base, with the weights of the source adapter."""
    config = copy(lm.model.peft_config[source])
    config.task_type = config.modules_to_save = None
    config.inference_mode = False
    _add_adapter(lm, adapter, config, seed=0)
    parameters = dict(lm.model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if adapter_name(name) == adapter:
                parameter.copy_(parameters[name.replace(f".{adapter}.", f".{source}.")])


def _freeze_adapter(lm: LanguageModel, adapter: str) -> None:
    dtype = lm.weights_dtype
    for name, parameter in lm.model.named_parameters():
        if adapter_name(name) == adapter:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(
                dtype
            )  # the dtype of the weights that it is added to


def _to_trainable_float32(critic: LanguageModel) -> LanguageModel:
    for parameter in critic.trainable_parameters().values():
        parameter.data = parameter.data.float()
    return critic


def _frozen_head(weight: Tensor, device: torch.device) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=False)
    head.weight.copy_(weight)
    return head.float().requires_grad_(False).to(device)


def _hidden_size(lm: LanguageModel) -> int:
    return int(lm.inner.config.get_text_config().hidden_size)
