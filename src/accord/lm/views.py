"""Views: language models that share one base, each with an adapter and a head of its own.

A view is a LanguageModel whose `model` is the policy's. Its forward passes turn its own adapter
on; its trainable parameters are that adapter and its head. The weights of the base are there once.
"""

from __future__ import annotations

import json
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from accord.errors import SettingsError
from accord.lm.adapters import lora_config
from accord.lm.digest import same_weights
from accord.lm.heads import value_head
from accord.lm.load import REWARD_FILE, read_normalisation, tokenizer_of
from accord.lm.model import LanguageModel
from accord.lm.switch import adapter_of
from accord.settings.training import LoraSettings

CRITIC, REWARD = "critic", "reward"  # adapters' names, and so parts of parameters' names


def base_view(policy: LanguageModel) -> LanguageModel:
    """The base under a policy's adapters: what training started from."""
    assert policy.switch is not None
    return replace(policy, adapter=None)


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


@torch.no_grad()
def critic_from_reward(reward: LanguageModel) -> LanguageModel:
    """A critic that begins as a reward model which is a view: its adapter, its (first) head."""
    config = copy(reward.model.peft_config[REWARD])
    config.inference_mode = False
    _add(reward, CRITIC, config, seed=0)
    parameters = dict(reward.model.named_parameters())
    for name, parameter in parameters.items():
        if adapter_of(name) == CRITIC:
            parameter.copy_(parameters[name.replace(f".{CRITIC}.", f".{REWARD}.")])
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
    config = _config(place)
    tensors = load_file(Path(place) / "adapter_model.safetensors")
    score = tensors.pop(_score_name(tensors))
    _add(policy, REWARD, config, seed=0)
    _fill(policy, REWARD, tensors, place)
    half = policy.weights_dtype
    for name, parameter in policy.model.named_parameters():
        if adapter_of(name) == REWARD:
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(half)  # as the weights that it is added to
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
    kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if kind.get("peft_type") != "LORA":
        return f"it is a {kind.get('peft_type')} adapter, and not LoRA"
    beside = set(kind.get("modules_to_save") or ()) - {"score", "classifier"}
    if beside or kind.get("bias", "none") != "none" or kind.get("target_parameters"):
        return "it learned more than LoRA's matrices and its head"
    if not (folder / REWARD_FILE).is_file():
        return f"it has no {REWARD_FILE}, so it is no reward model that accord saved"
    tensors = load_file(folder / "adapter_model.safetensors")
    if _score_name(tensors) not in tensors:
        return "its head is not with the adapter"
    if any("lora_" not in n for n in tensors if n != _score_name(tensors)):
        return "it learned more than LoRA's matrices and its head"
    base = str(kind["base_model_name_or_path"])
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
            parameter.requires_grad_(adapter != REWARD)
        else:
            parameter.requires_grad_(learns.get(name, False))
    lm.switch.refresh()


def _learning(critic: LanguageModel) -> LanguageModel:
    for parameter in critic.trainable().values():
        parameter.data = parameter.data.float()
    return critic


def _fill(lm: LanguageModel, adapter: str, tensors: dict[str, Tensor], place: str) -> None:
    """Copy an adapter's saved tensors into its parameters, each exactly once."""
    own = {n: p for n, p in lm.model.named_parameters() if adapter_of(n) == adapter}
    names = {n.replace(f".{adapter}.", ".").replace(f".{adapter}", ""): p for n, p in own.items()}
    if set(names) != set(tensors):
        odd = sorted(set(names) ^ set(tensors))[0]
        raise SettingsError(
            f"The adapter in {place} does not fit its base: {odd} is in one of them only. "
            f"Train the reward model anew, or merge it and name the merged folder."
        )
    for name, parameter in names.items():
        parameter.copy_(tensors[name])


def _config(place: str) -> LoraConfig:
    config: Any = PeftConfig.from_pretrained(place)
    config.task_type = config.modules_to_save = None
    config.lora_dropout = 0.0
    return config


def _score_name(tensors: dict[str, Tensor]) -> str:
    return next((n for n in tensors if n.endswith("score.weight")), "score.weight")


def _frozen_head(weight: Tensor, device: torch.device) -> nn.Linear:
    head = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=False)
    head.weight.copy_(weight)
    return head.float().requires_grad_(False).to(device)


def _width(lm: LanguageModel) -> int:
    return int(lm.inner.config.get_text_config().hidden_size)
