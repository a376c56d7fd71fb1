"""Two LoRA adapters as one: what is trained on top of a merged adapter, saved on the first base.

An adapter is merged into its base before a new one is trained. With scales s₁ and s₂ the sum
W + s₁·B₁A₁ + s₂·B₂A₂ is W with one adapter of rank r₁ + r₂: A = [A₁; A₂] and B = [s₁B₁, s₂B₂].
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from accord.lm.adapters.lora import WEIGHTS, why_not_lora
from accord.lm.adapters.switch import POLICY
from accord.lm.model import LanguageModel

CONFIG = "adapter_config.json"
_PREFIX = "base_model.model."
# Endings of the names of A and B, and the dimensions of their ranks.
_MATRICES = {
    ".lora_A.weight": 0,
    ".lora_B.weight": 1,
    ".lora_embedding_A": 0,
    ".lora_embedding_B": 1,
}

SavedForm = Literal["full", "adapter", "stacked"]


def saved_form(lm: LanguageModel) -> SavedForm:
    """How `save_model` saves a model: its weights; its adapter, on the base that it was loaded
    from; or its adapter and the one that was merged into the base, as one."""
    if not lm.is_peft:
        return "full"
    if not lm.unsaved:
        return "adapter"
    if lm.merged_adapter is None or why_not_stacked(lm, lm.merged_adapter) is not None:
        return "full"
    return "stacked"


def why_not_stacked(lm: LanguageModel, earlier: str) -> str | None:
    """Why the trained adapter and an `earlier` one, a folder, are no single adapter; None if they
    are."""
    if not (Path(earlier) / WEIGHTS).is_file():
        return f"{earlier} is no folder with {WEIGHTS}"
    reason = why_not_lora(earlier)
    if reason is not None:
        return reason
    trained = lm.model.peft_config[POLICY].to_dict()
    for config in (_read(Path(earlier) / CONFIG), trained):
        odd = next((key for key in _UNPLAIN if config.get(key)), None)
        if odd is not None:
            return f"{odd} is set"
    return None


_UNPLAIN = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "lora_bias",
    "layer_replication",
    "target_parameters",
    "trainable_token_indices",
)
"""Keys of an adapter's configuration under which it is more than one B·A with one scale."""


def stack_adapters(folder: Path, earlier: str) -> None:
    """Replace the adapter saved in `folder` by the sum of it and an `earlier` one, on the base of
    the earlier one."""
    configs = [_read(Path(earlier) / CONFIG), _read(folder / CONFIG)]
    parts = [load_file(Path(earlier) / WEIGHTS), load_file(folder / WEIGHTS)]
    matrices = [
        {n: t.float() for n, t in part.items() if _rank_dimension(n) is not None} for part in parts
    ]
    ranks = [int(config["r"]) for config in configs]
    tensors = {n: t for n, t in parts[1].items() if n not in matrices[1]}  # a trained scalar head
    for name in sorted(set(matrices[0]) | set(matrices[1])):
        dimension = _rank_dimension(name) or 0
        blocks = []
        for i, (part, config) in enumerate(zip(matrices, configs, strict=True)):
            if name in part:
                blocks.append(part[name] * (_scale(config) if dimension == 1 else 1.0))
            else:  # only the other adapter is on this layer
                blocks.append(_zeros(matrices[1 - i][name], ranks[i], dimension))
        tensors[name] = torch.cat(blocks, dimension).contiguous()
    rank = sum(ranks)
    config = configs[1] | {
        "r": rank,
        "lora_alpha": rank,  # a scale of 1: the scales are in B
        "use_rslora": False,
        "base_model_name_or_path": configs[0]["base_model_name_or_path"],
        "target_modules": _target_modules(configs, tensors),
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _scale(config: dict[str, Any]) -> float:
    rank = float(config["r"])
    return float(config["lora_alpha"]) / (rank**0.5 if config.get("use_rslora") else rank)


def _rank_dimension(name: str) -> int | None:
    """The dimension of a tensor that is the rank; None where it is no matrix of LoRA's."""
    return next((d for ending, d in _MATRICES.items() if name.endswith(ending)), None)


def _zeros(like: Tensor, rank: int, dimension: int) -> Tensor:
    shape = list(like.shape)
    shape[dimension] = rank
    return like.new_zeros(shape)


def _target_modules(configs: list[dict[str, Any]], tensors: dict[str, Tensor]) -> Any:
    """The adapted layers: as the configurations name them, or where they differ one by one."""
    first, second = (config["target_modules"] for config in configs)
    if isinstance(first, list) and isinstance(second, list) and set(first) == set(second):
        return sorted(first)
    names = {
        name.removeprefix(_PREFIX).removesuffix(ending)
        for name in tensors
        for ending in _MATRICES
        if name.endswith(ending)
    }
    return sorted(names)


def _read(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
