"""Models that are loaded already: transformers or peft objects, and copies in memory."""

from __future__ import annotations

import tempfile
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from accord.errors import ModelError
from accord.lm.adapters.lora import continue_adapter
from accord.lm.digest import has_same_weights
from accord.lm.heads import init_score_heads
from accord.lm.load import finish_loading, set_distinct_pad_token
from accord.lm.loading.scalar import read_reward_file
from accord.lm.model import LanguageModel, Precision, disable_dropout
from accord.settings.training import LoraSettings


def wrap_model(
    model: Any, tokenizer: Any = None, *, precision: Precision | None = None
) -> LanguageModel:
    """A LanguageModel around a loaded transformers or peft model, whose weights it takes over.

    A peft model must have one LoRA adapter, which training continues. Without `tokenizer` the
    one of the model's own name or path is loaded. Raises ModelError for anything else.
    """
    if isinstance(model, LanguageModel):
        return model
    if hasattr(model, "peft_config"):
        return _wrap_peft(model, tokenizer, precision)
    if not isinstance(model, PreTrainedModel):
        raise ModelError(
            f"{type(model).__name__} is not a model that accord can train. Pass a path, a hub "
            f"name, a transformers model, a peft model, or what accord.load_model returns."
        )
    name = str(model.config._name_or_path or "a model in memory")
    is_scalar = "SequenceClassification" in type(model).__name__
    _check_in_memory(model, name, is_scalar)
    if tokenizer is None:
        tokenizer = _own_tokenizer(name)
    half = next(model.parameters()).dtype == torch.bfloat16
    lm = LanguageModel(
        disable_dropout(model).eval(),
        tokenizer,
        name,
        scalar=is_scalar,
        precision=precision or ("bf16" if half else "fp32"),
        unsaved=True,
        stored_dtype=next(model.parameters()).dtype,
    )
    if is_scalar and not read_reward_file(name):  # another maker's
        lm.reads_last_token, lm.unread_padding = True, model.config.pad_token_id
    lm.unsaved = not _is_on_disk(lm)
    return finish_loading(lm)


def _check_in_memory(model: Any, name: str, is_scalar: bool) -> None:
    """Raise ModelError for a model whose weights or head accord can't use."""
    if getattr(model, "is_quantized", False):
        raise ModelError(
            f"{name} was loaded quantised by other code, so how is not known here. Pass its path "
            f'or hub name with quantization="nf4", or load it without quantization_config.'
        )
    if not is_scalar:
        return
    if not isinstance(getattr(model, "score", None), torch.nn.Linear):
        raise ModelError(
            f"{name} is a {type(model).__name__}, which is no decoder with a `score` head. To "
            f"score with it, pass a Python function that calls it."
        )
    if model.config.num_labels != 1:
        raise ModelError(
            f"The classifier has {model.config.num_labels} labels, and a reward model has one. "
            f"Load it with num_labels=1 if it was trained so, or train one with accord.train; to "
            f"score with one of its labels, pass a Python function that calls it."
        )


def _is_on_disk(lm: LanguageModel) -> bool:
    """Whether the folder, or the cached hub model, of the model's name has its weights."""
    folder = lm.name
    if not Path(folder).is_dir():
        config = try_to_load_from_cache(folder, "config.json") if folder.count("/") == 1 else None
        folder = str(Path(config).parent) if isinstance(config, str) else ""
    return bool(folder) and has_same_weights(lm, folder)


def _own_tokenizer(name: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The model {name!r} comes without a tokenizer: {error}. Pass tokenizer=…"
        ) from error


def _wrap_peft(model: Any, tokenizer: Any, precision: Precision | None) -> LanguageModel:
    """The base of a peft model, under a trainable copy of its adapter."""
    if len(model.peft_config) != 1:
        raise ModelError(
            f"The peft model has {len(model.peft_config)} adapters "
            f"({', '.join(model.peft_config)}), and accord continues one. Delete the others."
        )
    (adapter,) = model.peft_config
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, safe_serialization=True)
        path = folder if adapter == "default" else str(Path(folder) / adapter)
        lm = wrap_model(model.unload(), tokenizer, precision=precision)
        return continue_adapter(lm, path, LoraSettings())


def frozen_copy(lm: LanguageModel) -> LanguageModel:
    """A copy of a full model with its present weights, which no training changes."""
    model = deepcopy(lm.model)
    model.requires_grad_(False)
    copied = copy(lm)
    copied.model, copied.last_layer = model, None
    return finish_loading(copied)


def add_scalar_head(lm: LanguageModel, *, seed: int, heads: int = 1) -> LanguageModel:
    """A float32 copy of a causal model's backbone with new scalar heads, as `load_scalar` draws
    them. Raises ModelError where adapters are on the model."""
    if lm.is_peft:
        raise ModelError(
            f"{lm.name} has adapters on it, and a scalar head goes on a full model. Save it with "
            f"run.save(folder) and pass the folder."
        )
    config = deepcopy(lm.inner.config)
    config.num_labels = heads
    try:
        model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    except ValueError as error:
        raise ModelError(
            f"{lm.name} is a {type(lm.inner).__name__}, for which transformers has no class with a "
            f"scalar head. Start from a model of another architecture."
        ) from error
    getattr(model, model.base_model_prefix).load_state_dict(lm.backbone.state_dict())
    init_score_heads(model, seed)
    set_distinct_pad_token(model, lm.tokenizer)
    model = disable_dropout(model).to(lm.device).eval()
    return finish_loading(
        LanguageModel(
            model,
            lm.tokenizer,
            lm.name,
            scalar=True,
            precision=lm.precision,
            unsaved=lm.unsaved,
            has_new_head=True,
        )
    )


def full_precision_and_trainable(lm: LanguageModel) -> LanguageModel:
    """The model with all weights float32 and trainable, for full tuning in place. Raises ModelError
    where they are held in 4 bits."""
    if lm.is_quantised:
        raise ModelError(
            f"The weights of {lm.name} are held in 4 bits, which can't be trained. Train adapters "
            f"(lora), or pass the path of the model without quantization."
        )
    lm.model.float().requires_grad_(True)
    lm.unsaved = True
    return lm


def mark_saved(lm: LanguageModel, folder: Path) -> None:
    """Record that a folder holds a full model's weights; adapters trained on it name that base."""
    if lm.is_peft:
        return
    lm.name, lm.unsaved = str(folder), False
    lm.model.name_or_path = lm.model.config._name_or_path = str(folder)
