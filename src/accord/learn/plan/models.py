"""Models as a training stage would hold them, without their weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from accord.learn.offline.rows import with_memory_settings
from accord.lm.adapters.lora import add_adapters
from accord.lm.model import LanguageModel
from accord.lm.weightless import as_loaded, weightless_model
from accord.settings.training import TrainSettings


def trained_model(
    config: Any,
    name: str,
    tokenizer: Any,
    settings: TrainSettings,
    *,
    heads: int = 0,
) -> LanguageModel:
    """The model that `settings` train from, as `offline.rows.load_starting_model` and
    `loop.learner.make_learner` leave it."""
    lora = settings.lora
    half = settings.precision == "bf16" and lora is not None
    lm = frozen_model(config, name, tokenizer, half=half, heads=heads)
    lm.precision = settings.precision
    if lora is not None:
        lm = add_adapters(lm, lora, seed=0)
        lm.model.to("meta")
    else:
        lm.model.requires_grad_(True)
    if settings.precision == "bf16":
        for parameter_name, parameter in lm.trainable_parameters().items():
            if not lm.stays_float32(parameter_name):
                parameter.data = parameter.data.to(torch.bfloat16)
    return with_memory_settings(lm, settings)


def frozen_model(
    config: Any, name: str, tokenizer: Any, *, half: bool, heads: int = 0
) -> LanguageModel:
    """A model that is not trained: a reward model or a reference."""
    lm = weightless_model(deepcopy(config), name, tokenizer, heads=heads)
    lm.precision = "bf16" if half else "fp32"
    lm = as_loaded(lm, torch.bfloat16 if half else torch.float32)
    if heads:
        score: nn.Module = lm.inner.score
        score.float()
    lm.model.requires_grad_(False)
    return lm
