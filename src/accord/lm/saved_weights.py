"""The weights of a trained model in a folder: as an adapter or a full model, and in which dtype."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor

from accord.errors import ModelError
from accord.hub_names import is_hub_name
from accord.lm.adapters.stack import saved_form, stack_adapters
from accord.lm.adapters.switch import POLICY
from accord.lm.loading.weight_files import INDEX, SINGLE, tensor_headers, weight_files
from accord.lm.model import LanguageModel

log = logging.getLogger(__name__)

SaveDtype = Literal["auto", "fp32", "bf16", "fp16"]

_NAMED: dict[SaveDtype, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_IN_FILES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def stored_dtype(path: str) -> torch.dtype | None:
    """The dtype of most weights in the safetensors files of a folder or a cached hub model.

    It is read from the files, since a configuration may say otherwise. None where it can't be
    read, or is none that training could be saved in (such as 8-bit weights).
    """
    elements: Counter[str] = Counter()
    try:
        files = weight_files(Path(path)) if Path(path).is_dir() else _cached_files(path)
        for header in tensor_headers(files).values():
            elements[header.dtype] += header.num_elements
    except ModelError:  # loading it reports what is wrong
        return None
    return _IN_FILES.get(elements.most_common(1)[0][0]) if elements else None


def _cached_files(name: str) -> list[Path]:
    """A file of a hub model's weights, where it is cached."""
    if not is_hub_name(name):
        return []
    file = SINGLE
    index = try_to_load_from_cache(name, INDEX)
    if isinstance(index, str):
        file = min(json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values())
    cached = try_to_load_from_cache(name, file)
    return [Path(cached)] if isinstance(cached, str) else []


def write_weights(
    lm: LanguageModel, folder: Path, dtype: SaveDtype, whole: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model's weights and configuration, as `saved_form` says; `whole` are those of a
    model that processes divide, in `dtype` already (`whole_weights`).

    A full model is saved in `dtype`, by default that of the files that it was loaded from. Of
    adapters on a base with another adapter merged into it, both are saved as one adapter on the
    first base. On another base that no folder holds (it was trained in memory, or what was merged
    is more than LoRA) adapters are merged, and saved as a full model.
    """
    form = saved_form(lm)
    options: dict[str, Any] = {}
    if lm.is_quantised and form == "full":
        raise ModelError(
            f"The base of {lm.name} is held in 4 bits, and no folder holds it, so there is nothing "
            f"that its adapter could be saved on. Train from a folder or hub name."
        )
    if lm.is_peft and form == "full":
        log.info("No folder holds the base of %s, so the full model is saved.", lm.name)
        lm.model = lm.model.merge_and_unload(adapter_names=[POLICY])
        lm.switch = lm.adapter = None
    elif lm.is_peft:  # without the adapters of other roles on the same base
        options["selected_adapters"] = [POLICY]
    chosen = chosen_dtype(lm, dtype) if form == "full" else None
    if chosen == lm.weights_dtype:
        chosen = None
    if whole is not None:
        options["state_dict"] = whole
    elif chosen is not None:
        options["state_dict"] = _converted_weights(lm, chosen)
    lm.model.save_pretrained(folder, safe_serialization=True, **options)
    if chosen is not None:
        _write_dtype(folder, chosen)
    if form == "stacked" and lm.merged_adapter is not None:
        stack_adapters(folder, lm.merged_adapter)


def chosen_dtype(lm: LanguageModel, dtype: SaveDtype) -> torch.dtype | None:
    """The dtype in which a full model is saved; None for that of its weights in memory."""
    return _NAMED.get(dtype, lm.stored_dtype)


def _converted_weights(lm: LanguageModel, dtype: torch.dtype) -> dict[str, Tensor]:
    """A full model's state dict with its floating-point weights in a dtype.

    Scalar heads and what the architecture needs in float32 stay so; tied weights stay tied.
    """
    converted: dict[tuple[int, torch.Size], Tensor] = {}
    weights: dict[str, Tensor] = {}
    for name, tensor in lm.model.state_dict().items():
        if not tensor.is_floating_point() or lm.stays_float32(name):
            weights[name] = tensor
            continue
        key = (tensor.data_ptr(), tensor.shape)
        if key not in converted:
            converted[key] = tensor.to(dtype)
        weights[name] = converted[key]
    return weights


def _write_dtype(folder: Path, dtype: torch.dtype) -> None:
    """Set the dtype in a saved model's config.json, which describes the model in memory."""
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    for table in (config, *(v for v in config.values() if isinstance(v, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in table:
                table[key] = name
    config["dtype"] = name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
