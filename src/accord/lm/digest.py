"""Digests of everything that a model's log-probs depend on: weights, configuration, token ids."""

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

from accord.lm.adapters.switch import adapter_name
from accord.lm.loading.quantised import holds, is_4bit, quantised_state
from accord.lm.model import LanguageModel
from accord.lm.packing import PromptGroup
from accord.lm.sharding.shards import whole
from accord.lm.tokens.token_rows import CountedRows

# Keys of a configuration that describe its file and not the model.
_FILE_KEYS = (
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "quantization_config",
)
_TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


def weights_digest(lm: LanguageModel) -> str:
    """sha256 (hex) of a model's parameters and configuration; for a view of a peft model, of the
    base and the view's adapter."""
    digest = hashlib.sha256()
    digest.update(json.dumps(_config_values(lm.inner.config), sort_keys=True, default=str).encode())
    if lm.adapter is not None:
        digest.update(json.dumps(_adapter_scaling(lm.model.peft_config[lm.adapter])).encode())
    layers = _quantised_layers(lm)
    for name, parameter in sorted(lm.inner.named_parameters()):
        if adapter_name(name) not in (None, lm.adapter):
            continue
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        layer = layers.get(name)
        for tensor in (parameter,) if layer is None else quantised_state(layer):
            plain = whole(tensor).contiguous().cpu().view(-1)
            digest.update(plain.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def has_same_weights(lm: LanguageModel, path: str) -> bool:
    """Whether a model has the weights of the full model at a path; of a peft model, its base.

    Equal to the bit in the precision in which the loaded model stores them.
    """
    if is_same_path(path, lm.name) and not lm.unsaved:
        return True
    if not Path(path).is_dir():
        return False
    saved = _without_token_ids(AutoConfig.from_pretrained(path).to_dict())
    if saved != _without_token_ids(lm.inner.config.to_dict()):
        return False
    named = lm.inner.named_parameters(remove_duplicate=False)
    base = {n.replace(".base_layer.", "."): p for n, p in named if adapter_name(n) is None}
    layers = {n.replace(".base_layer.", "."): m for n, m in _quantised_layers(lm).items()}
    unread = {n for n, _ in lm.backbone.named_parameters() if adapter_name(n) is None}
    prefix = lm.backbone_prefix
    unread = {prefix + n.replace(".base_layer.", ".") for n in unread}
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                if name in layers and not holds(layers[name], tensors.get_tensor(name)):
                    return False
                if name in base and name not in layers:
                    saved = tensors.get_tensor(name).to(base[name].device, base[name].dtype)
                    if not torch.equal(saved, base[name]):
                        return False
                unread.discard(name)
    return not unread


def _quantised_layers(lm: LanguageModel) -> dict[str, Any]:
    """The layers with 4-bit weights, by the names of these weights."""
    return {f"{name}.weight": m for name, m in lm.inner.named_modules() if is_4bit(m)}


def is_same_path(a: str, b: str) -> bool:
    """Whether two names are of the same folder, or the same model on the hub."""
    if Path(a).is_dir():
        return Path(a).resolve() == Path(b).resolve()
    return a == b


def _adapter_scaling(config: Any) -> list[Any]:
    """The settings that scale an adapter's matrices."""
    return [
        config.r,
        config.lora_alpha,
        config.use_rslora,
        config.rank_pattern,
        config.alpha_pattern,
    ]


def _config_values(config: Any) -> dict[str, Any]:
    return {k: v for k, v in config.to_dict().items() if k not in _FILE_KEYS}


def _without_token_ids(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration's values that the weights are computed with: a saved model's special tokens
    are its tokenizer's, whatever its base's configuration said."""
    return {
        k: _without_token_ids(v) if isinstance(v, dict) else v
        for k, v in values.items()
        if k not in _FILE_KEYS and k not in _TOKEN_KEYS
    }


def rows_digest(groups: Sequence[PromptGroup]) -> str:
    """sha256 (hex) of the groups' prompts and responses as token ids, in order; of rows on the disk
    their own digest."""
    if isinstance(groups, CountedRows):
        return groups.digest
    digest = hashlib.sha256()
    for group in groups:
        for part in (group.prompt, *group.responses):
            digest.update(len(part).to_bytes(4, "little"))
            digest.update(np.asarray(part, dtype=np.int64).data)
        for mask in group.loss_mask:  # the digested log-probs are those of the masked tokens alone
            digest.update(np.asarray(mask, dtype=np.bool_).data)
        digest.update(b"|")
    return digest.hexdigest()
