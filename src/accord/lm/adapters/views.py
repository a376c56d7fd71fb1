"""Views: language models that share one base, each with an adapter and a head of its own.

A view is a LanguageModel whose `model` is the policy's. Its forward passes turn its own adapter
on; its trainable parameters are that adapter and its head. The weights of the base are in memory
once.
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
    fill,
    lora_config,
    read_config,
    score_name,
    why_not_lora,
)
from accord.lm.adapters.switch import POLICY, adapter_of
from accord.lm.digest import same_weights
from accord.lm.heads import value_head
from accord.lm.load import REWARD_FILE, base_and_adapter, read_normalisation, tokenizer_of
from accord.lm.model import LanguageModel
from accord.settings.training import LoraSettings

# Adapters' names, and so parts of parameters' names.
CRITIC, REWARD, REFERENCE = "critic", "reward", "reference"


def base_view(policy: LanguageModel) -> LanguageModel:
    """The base under a policy's adapters: what new adapters started from."""
    assert policy.switch is not None
    return replace(policy, adapter=None)


def frozen_view(policy: LanguageModel) -> LanguageModel:
    """The policy as it is now: a copy of its adapter that learns no more."""
    _copied(policy, POLICY, REFERENCE)
    _frozen(policy, REFERENCE)
    return replace(policy, adapter=REFERENCE)


def head_view(policy: LanguageModel, *, seed: int) -> LanguageModel:
    """A critic that is a new head on the policy's own hidden states."""
    head = value_head(_width(policy), policy.device, seed)
    return _scalar_view(policy, policy.adapter, head, head_only=True)


def critic_view(policy: LanguageModel, settings: LoraSettings, *, seed: int) -> LanguageModel:
    """A critic from the base: adapters that change nothing yet, and a new head.

    Raises SettingsError when `target_modules` names no layer of this model.
    """
    _add(policy, CRITIC, lora_config(settings), seed=seed)
    return _learning(_scalar_view(policy, CRITIC, value_head(_width(policy), policy.device, seed)))


def critic_from_policy(policy: LanguageModel, *, seed: int) -> LanguageModel:
    """A critic that begins as the policy: a copy of its adapter, and a new head."""
    _copied(policy, POLICY, CRITIC)
    return _learning(_scalar_view(policy, CRITIC, value_head(_width(policy), policy.device, seed)))


@torch.no_grad()
def critic_from_reward(reward: LanguageModel) -> LanguageModel:
    """A critic that begins as a reward model which is a view: its adapter, its (first) head."""
    _copied(reward, REWARD, CRITIC)
    assert reward.score is not None
    head = value_head(_width(reward), reward.device)
    head.weight.copy_(reward.score.weight[:1])
    critic = _scalar_view(reward, CRITIC, head)
    critic.score_mean, critic.score_std = reward.score_mean, reward.score_std
    if reward.head_means:
        critic.score_mean = reward.head_means[0]
    return _learning(critic)


@torch.no_grad()
def reward_view(
    policy: LanguageModel, place: str, *, trust_remote_code: bool = False
) -> LanguageModel:
    """The reward model in an adapter folder, on the policy's base. See `why_not_shared`."""
    config = read_config(place)
    tensors = load_file(Path(place) / WEIGHTS)
    score = tensors.pop(score_name(tensors))
    _add(policy, REWARD, config, seed=0)
    fill(policy, REWARD, tensors, place)
    _frozen(policy, REWARD)
    head = _frozen_head(score, policy.device)
    view = _scalar_view(policy, REWARD, head)
    view.name = place
    view.tokenizer = tokenizer_of(place, policy.name, trust_remote_code)
    read_normalisation(view, place)
    return view


def why_not_shared(policy: LanguageModel, place: str) -> str | None:
    """Why a reward model can't be an adapter on the policy's base; None when it can."""
    folder = Path(place)
    if not (folder / "adapter_config.json").is_file():
        return "it is a full model"
    if REWARD in policy.model.peft_config:
        return "another reward model is on the policy's base already"
    reason = why_not_lora(place)
    if reason is not None:
        return reason
    if not (folder / REWARD_FILE).is_file():
        return f"it has no {REWARD_FILE}, so it is no reward model that accord saved"
    tensors = load_file(folder / WEIGHTS)
    if score_name(tensors) not in tensors:
        return "its head is not with the adapter"
    base, _ = base_and_adapter(place)
    if not same_weights(policy, base):
        merged = f", which has {policy.name} merged into it" if policy.merged else ""
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
    )


def _add(lm: LanguageModel, adapter: str, config: LoraConfig, *, seed: int) -> None:
    """One adapter more on the base. What learns of the others goes on learning, and only that."""
    assert lm.switch is not None
    learns = {n: p.requires_grad for n, p in lm.model.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            lm.model.add_adapter(adapter, config)
        except ValueError as error:
            raise SettingsError(
                f"The adapters of the {adapter} fit no layer of {lm.name}: {error}."
            ) from error
    for name, parameter in lm.model.named_parameters():
        # peft has set all of these anew; where it wrapped another layer, the name is new too.
        own = adapter_of(name)
        if own == adapter:
            parameter.requires_grad_(adapter == CRITIC)
        else:
            parameter.requires_grad_(learns.get(name, False))
    lm.switch.refresh()


def _copied(lm: LanguageModel, source: str, adapter: str) -> None:
    """One adapter more on the base, with the numbers of another."""
    config = copy(lm.model.peft_config[source])
    config.task_type = config.modules_to_save = None
    config.inference_mode = False
    _add(lm, adapter, config, seed=0)
    parameters = dict(lm.model.named_parameters())
    with torch.no_grad():
        for name, parameter in parameters.items():
            if adapter_of(name) == adapter:
                parameter.copy_(parameters[name.replace(f".{adapter}.", f".{source}.")])


def _frozen(lm: LanguageModel, adapter: str) -> None:
    half = lm.weights_dtype
    for name, parameter in lm.model.named_parameters():
        if adapter_of(name) == adapter:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(half)  # as the weights that it is added to


def _learning(critic: LanguageModel) -> LanguageModel:
    for parameter in critic.trainable_parameters().values():
        parameter.data = parameter.data.float()
    return critic


def _frozen_head(weight: Tensor, device: torch.device) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=False)
    head.weight.copy_(weight)
    return head.float().requires_grad_(False).to(device)


def _width(lm: LanguageModel) -> int:
    return int(lm.inner.config.get_text_config().hidden_size)
