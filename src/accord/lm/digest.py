"""What decides a model's log-probs, told apart: weights and configuration, and token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from transformers import AutoConfig

from accord.lm.adapters.switch import adapter_of
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup

_ABOUT_FILES = ("_name_or_path", "transformers_version", "architectures", "dtype")


def weights_digest(lm: LanguageModel) -> str:
    """sha256 (hex) of a model's parameters and configuration; of a peft model's, those of the base
    and of the adapter that is the view's own."""
    digest = hashlib.sha256()
    digest.update(json.dumps(_about(lm.inner.config), sort_keys=True, default=str).encode())
    if lm.adapter is not None:
        digest.update(json.dumps(_strength(lm.model.peft_config[lm.adapter])).encode())
    for name, parameter in sorted(lm.inner.named_parameters()):
        if adapter_of(name) not in (None, lm.adapter):
            continue
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        plain = parameter.detach().contiguous().cpu().view(-1)
        digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def same_weights(lm: LanguageModel, place: str) -> bool:
    """Whether a model computes with the very weights of the full model at a place.

    Of a peft model, its base. Equal to the bit in the precision that the model holds them in.
    """
    if same_path(place, lm.name) and not lm.merged:
        return True
    if not Path(place).is_dir() or _about(AutoConfig.from_pretrained(place)) != _about(
        lm.inner.config
    ):
        return False
    named = lm.inner.named_parameters(remove_duplicate=False)
    own = {n.replace(".base_layer.", "."): p for n, p in named if adapter_of(n) is None}
    left = {n for n, _ in lm.backbone.named_parameters() if adapter_of(n) is None}
    prefix = f"{lm.inner.base_model_prefix}."
    left = {prefix + n.replace(".base_layer.", ".") for n in left}
    for file in sorted(Path(place).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                if name in own:
                    theirs = tensors.get_tensor(name).to(own[name].device, own[name].dtype)
                    if not torch.equal(theirs, own[name]):
                        return False
                left.discard(name)
    return not left


def same_path(one: str, other: str) -> bool:
    """Whether two names are of the same folder, or the same model on the hub."""
    if Path(one).is_dir():
        return Path(one).resolve() == Path(other).resolve()
    return one == other


def _strength(config: Any) -> list[Any]:
    """What decides how much an adapter's matrices add, beside themselves."""
    return [
        config.r,
        config.lora_alpha,
        config.use_rslora,
        config.rank_pattern,
        config.alpha_pattern,
    ]


def _about(config: Any) -> dict[str, Any]:
    return {k: v for k, v in config.to_dict().items() if k not in _ABOUT_FILES}


def rows_digest(groups: Sequence[PromptGroup]) -> str:
    """sha256 (hex) of the groups' prompts and responses as token ids, in order."""
    digest = hashlib.sha256()
    for group in groups:
        for part in (group.prompt, *group.responses):
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(np.asarray(part, dtype=np.int64).data)
        for mask in group.loss_mask:  # log-probs are those of learned tokens alone
            digest.update(np.asarray(mask, dtype=np.bool_).data)
        digest.update(b"|")
    return digest.hexdigest()
