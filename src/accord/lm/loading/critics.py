"""Writes the critic of an online run, also where it is a view of the policy's model."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSequenceClassification

from accord.lm.adapters.switch import POLICY
from accord.lm.loading.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from accord.lm.loading.saving import save_model
from accord.lm.loading.scalar import REWARD_FILE, reward_file_values
from accord.lm.model import LanguageModel
from accord.lm.saved_weights import SaveDtype
from accord.lm.transformers_logging import silence_transformers
from accord.runs import atomic_folder


@torch.no_grad()
def save_critic(
    critic: LanguageModel,
    policy: LanguageModel,
    folder: Path,
    *,
    card: str,
    dtype: SaveDtype = "auto",
) -> None:
    """Write a critic to a folder, atomically, so that `load_scalar` gives its values again.

    A separate critic is saved as reward models are. A view of the policy's model is an adapter
    folder with a head; where no folder holds the base, or the policy has no adapters, it is a full
    model. Call it before `save_model` of the policy, which may merge the policy's adapter. Raises
    StorageError when the disk can't be written.
    """
    critic.is_critic, critic.has_new_head = True, False
    if critic.score is None:
        save_model(critic, folder, card=card, dtype=dtype)
    elif critic.is_peft and not policy.unsaved:
        _save_adapter_view(_without_bias(critic), folder, card)
    else:
        full = replace(_full_model(_without_bias(critic)), stored_dtype=policy.stored_dtype)
        save_model(full, folder, card=card, dtype=dtype)


def _without_bias(critic: LanguageModel) -> LanguageModel:
    """The critic with its head's bias in the mean of its scores: transformers' heads have none."""
    assert critic.score is not None
    copied = replace(critic)
    if critic.score.bias is not None:
        copied.score_mean = critic.score_mean - float(critic.score.bias)
    return copied


def _save_adapter_view(critic: LanguageModel, folder: Path, card: str) -> None:
    adapter = critic.adapter or POLICY
    assert critic.score is not None
    with atomic_folder(folder) as temporary, silence_transformers():
        critic.model.save_pretrained(
            temporary, safe_serialization=True, selected_adapters=[adapter]
        )
        if adapter != POLICY:  # peft writes any other than the first into a folder of its name
            for file in (temporary / adapter).iterdir():
                file.replace(temporary / file.name)
            (temporary / adapter).rmdir()
        tensors = load_file(temporary / ADAPTER_WEIGHTS)
        tensors["base_model.model.score.weight"] = critic.score.weight.detach().cpu().contiguous()
        save_file(tensors, temporary / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        config = json.loads((temporary / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
        text = json.dumps(config, indent=2, sort_keys=True)
        (temporary / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
        critic.tokenizer.save_pretrained(temporary)
        numbers = json.dumps(reward_file_values(critic)) + "\n"
        (temporary / REWARD_FILE).write_text(numbers, encoding="utf-8")
        (temporary / "README.md").write_text(card, encoding="utf-8")


def _full_model(critic: LanguageModel) -> LanguageModel:
    """A copy of a view as a model of its own, its adapter merged."""
    assert critic.score is not None
    model = critic.model
    if critic.is_peft:
        model = deepcopy(model).merge_and_unload(adapter_names=[critic.adapter or POLICY])
    backbone = replace(critic, model=model, switch=None, adapter=None).backbone
    config = deepcopy(model.config)
    config.num_labels = 1
    with torch.device("meta"):
        scorer = AutoModelForSequenceClassification.from_config(config)
    setattr(scorer, scorer.base_model_prefix, backbone)
    scorer.score = nn.Linear(critic.score.in_features, 1, bias=False)
    scorer.score.weight.data = critic.score.weight.detach().clone()
    return replace(critic, model=scorer, switch=None, adapter=None, score=None, last_layer=None)
