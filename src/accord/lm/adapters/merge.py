"""Merge a saved adapter into its base, as a full model in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from accord.errors import ModelError, RequestError
from accord.lm.adapters.stack import CONFIG
from accord.lm.load import REWARD_FILE, Device, load_causal, load_scalar, save_model
from accord.lm.model import LanguageModel
from accord.lm.saved_weights import SaveDtype


def merge_adapter(
    adapter: Path,
    output_dir: Path,
    *,
    card: Callable[[LanguageModel, str, dict[str, Any]], str],
    dtype: SaveDtype = "auto",
    device: Device = "auto",
    trust_remote_code: bool = False,
) -> LanguageModel:
    """Write the base of a LoRA adapter with the adapter merged into it; returns the model.

    `adapter` is its folder, or that of its run. The sum is computed in float32, and saved in the
    precision of the base's files or in `dtype`. `card(lm, base, config)` gives the model card from
    the model, the base's name and the adapter's configuration. Raises ModelError for what is no
    LoRA adapter, RequestError where `output_dir` has something in it.
    """
    if not (adapter / CONFIG).is_file() and (adapter / "model" / CONFIG).is_file():
        adapter = adapter / "model"
    config = _lora_config(adapter)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise RequestError(
            f"{output_dir} is not empty. Name another --output-dir, or remove what is in it."
        )
    is_scalar = config.get("task_type") == "SEQ_CLS" or (adapter / REWARD_FILE).is_file()
    load = load_scalar if is_scalar else load_causal
    with torch.no_grad():
        lm = load(str(adapter), device=device, trust_remote_code=trust_remote_code)
    text = card(lm, str(config["base_model_name_or_path"]), config)
    save_model(lm, output_dir, card=text, dtype=dtype)
    return lm


def _lora_config(adapter: Path) -> dict[str, Any]:
    """The configuration of a LoRA adapter in a folder. Raises ModelError for anything else."""
    path = adapter / CONFIG
    if not path.is_file():
        what = "a full model" if (adapter / "config.json").is_file() else "no adapter"
        raise ModelError(
            f"{adapter} holds {what}, and only an adapter is merged: there is no {CONFIG} in it. "
            f"Name the folder of the adapter."
        )
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} can't be read: {error}. Save the adapter again.") from error
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise ModelError(
            f"{adapter} is a {kind} adapter, and not LoRA: it may be no change of the base's "
            f"weights at all. Merge it with peft, if it can be merged."
        )
    if not config.get("base_model_name_or_path"):
        raise ModelError(
            f"{path} does not say which model the adapter is on. Set `base_model_name_or_path` in "
            f"it to the base's folder or hub name."
        )
    return config
