"""Low-rank adapters through peft."""

from __future__ import annotations

import torch
from peft import LoraConfig, TaskType, get_peft_model

from accord.errors import SettingsError
from accord.lm.model import LanguageModel
from accord.lm.switch import POLICY, AdapterSwitch
from accord.settings.training import LoraSettings


def add_adapters(lm: LanguageModel, settings: LoraSettings, *, seed: int) -> LanguageModel:
    """Freeze the model and put trainable adapters on it; a scalar head goes on learning.

    Raises SettingsError when `target_modules` names no layer of this model.
    """
    config = lora_config(settings)
    config.task_type = TaskType.SEQ_CLS if lm.scalar else TaskType.CAUSAL_LM
    config.modules_to_save = ["score"] if lm.scalar else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            lm.model = get_peft_model(lm.model, config)
        except ValueError as error:
            raise SettingsError(
                f"lora.target_modules = {settings.target_modules!r} fits no layer of {lm.name}: "
                f"{error}. Use `all-linear`, or names as in the model's state dict."
            ) from error
    lm.switch, lm.adapter = AdapterSwitch(lm.model), POLICY
    for parameter in lm.trainable().values():
        parameter.data = parameter.data.float()  # peft leaves a copied scalar head in half
    return lm


def lora_config(settings: LoraSettings) -> LoraConfig:
    """The settings as peft's, without dropout."""
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        target_modules=settings.target_modules,
    )
