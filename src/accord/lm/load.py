"""Load models from folders or the hub: language models, reward models and critics."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from accord.errors import ModelError, SettingsError
from accord.lm.checks import (
    check_finite_weights,
    check_is_causal,
    check_packing,
    check_quantised,
)
from accord.lm.heads import init_score_heads
from accord.lm.kernels.norms import speed_up_norms
from accord.lm.loading.adapters import has_head, merge_into_base
from accord.lm.loading.folders import base_and_adapter
from accord.lm.loading.pretrained import (
    Pretrained,
    from_pretrained,
    is_score,
    refuse_missing,
    warn_about_unread,
)
from accord.lm.loading.quantised import refuse_merging
from accord.lm.loading.saving import save_model
from accord.lm.loading.scalar import (
    REWARD_FILE,
    apply_reward_file,
    check_labels,
    check_score_head,
    no_head_error,
    read_reward_file,
)
from accord.lm.loading.tokenizers import (
    load_tokenizer,
    load_tokenizer_or_base,
    set_distinct_pad_token,
)
from accord.lm.model import LanguageModel, Precision, disable_dropout, unscaled_positions
from accord.lm.saved_weights import stored_dtype
from accord.settings.memory import QuantizationName

__all__ = [
    "REWARD_FILE",
    "Device",
    "apply_reward_file",
    "base_and_adapter",
    "finish_loading",
    "load_causal",
    "load_scalar",
    "load_tokenizer",
    "load_tokenizer_or_base",
    "save_model",
    "set_distinct_pad_token",
    "warn_about_plain_rows",
]

log = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]


def load_causal(
    path: str,
    *,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust_remote_code: bool = False,
    trainable: bool = False,
    merge: bool = True,
    quantization: QuantizationName | None = None,
) -> LanguageModel:
    """A causal language model from a folder or hub name; an adapter is merged into its base.

    With precision bf16 the weights are bfloat16, unless they are `trainable`: optimiser steps are
    too small for bfloat16. With `merge` False only the base of an adapter is loaded, to continue
    the adapter on it. With `quantization` its linear layers have 4-bit weights, which are frozen:
    an adapter can't be merged into them (SettingsError). Raises ModelError for a folder without
    configuration, tokenizer or safetensors weights, and for one that is another kind of model.
    """
    base, adapter = base_and_adapter(path)
    tokenizer = load_tokenizer_or_base(path if adapter else base, base, trust_remote_code)
    merged = _to_merge(adapter if merge else None, quantization)
    dtype = _load_dtype(precision, trainable, merged)
    loaded = from_pretrained(
        AutoModelForCausalLM,
        base,
        dtype,
        trust_remote_code,
        quantization=quantization,
        device=_device(device),
    )
    _refuse_reward_model(base, loaded)
    refuse_missing(base, loaded)
    warn_about_unread(base, loaded.model, loaded.unread, scalar=False)
    model = loaded.model
    if merged:
        model = merge_into_base(model, merged)
    lm = LanguageModel(
        _to_device(model, device),
        tokenizer,
        path if merge else base,
        precision=precision,
        unsaved=merged is not None,
        merged_adapter=merged,
        stored_dtype=stored_dtype(base),
    )
    return finish_loading(lm)


def load_scalar(
    path: str,
    *,
    new_head: bool = False,
    seed: int = 0,
    heads: int | None = None,
    precision: Precision = "fp32",
    device: Device = "auto",
    trust_remote_code: bool = False,
    trainable: bool = False,
    merge: bool = True,
    quantization: QuantizationName | None = None,
) -> LanguageModel:
    """A model with a scalar head: a trained reward model, or with `new_head` a new head where the
    files hold none.

    The weight files decide whether a head was trained, not the name of a class. A new head's
    weights are normal with standard deviation 1/√(width + 1), without bias, from the seed. The
    statistics of the scores are read from `reward.json` where there is one; a reward model
    without that file is read as transformers reads it (`reads_last_token`). `heads` is the number
    of heads: by default that of the trained model, or one. With `merge` False only the base of an
    adapter is loaded, to continue the adapter on it; with `quantization` see `load_causal`. Raises
    ModelError where there is no head and none is to be drawn, and SettingsError where a different
    number of heads was trained.
    """
    base, adapter = base_and_adapter(path)
    tokenizer = load_tokenizer_or_base(path if adapter else base, base, trust_remote_code)
    merged = _to_merge(adapter if merge else None, quantization)
    dtype = _load_dtype(precision, trainable, merged)
    reward = read_reward_file(path)
    trained = int(reward.get("heads", 1)) if reward else None
    loaded = from_pretrained(
        AutoModelForSequenceClassification,
        base,
        dtype,
        trust_remote_code,
        quantization=quantization,
        device=_device(device),
        num_labels=trained or heads or 1,
    )
    check_score_head(base, loaded)
    check_labels(base, loaded, heads, trained)
    refuse_missing(base, loaded)
    warn_about_unread(base, loaded.model, loaded.unread, scalar=True)
    model = loaded.model
    is_trained = loaded.has_score or (adapter is not None and has_head(adapter))
    if not is_trained and not new_head:
        raise no_head_error(path, model)
    if not loaded.has_score:
        init_score_heads(model, seed)
    model.score.float()
    padding = model.config.pad_token_id
    set_distinct_pad_token(model, tokenizer)
    if merged:
        model = merge_into_base(model, merged)
    lm = LanguageModel(
        _to_device(model, device),
        tokenizer,
        path if merge else base,
        scalar=True,
        precision=precision,
        unsaved=merged is not None,
        merged_adapter=merged,
        stored_dtype=stored_dtype(base),
        has_new_head=not is_trained,
    )
    if is_trained and not reward:
        lm.reads_last_token, lm.unread_padding = True, padding
    apply_reward_file(lm, path)
    return finish_loading(lm)


def finish_loading(lm: LanguageModel) -> LanguageModel:
    """Set a model's limits and faster parts, and check that accord computes what it does.

    Raises ModelError where its weights are not finite or its numbers can't be reproduced.
    """
    lm.max_length = lm.max_length or lm.max_positions
    _log_scaled_positions(lm)
    speed_up_norms(lm.inner)
    check_finite_weights(lm)
    check_quantised(lm)
    check_is_causal(lm)
    if not check_packing(lm):
        warn_about_plain_rows(type(lm.inner).__name__)
    return lm


@cache
def warn_about_plain_rows(architecture: str) -> None:
    """Warn once per process: a stage loads several models of one architecture, and every round
    loads them again."""
    log.warning(
        "A %s can't share a prompt between its responses; its batches are computed as plain rows, "
        "with the same numbers in more time.",
        architecture,
    )


def _log_scaled_positions(lm: LanguageModel) -> None:
    config = lm.inner.config.get_text_config()
    unscaled = unscaled_positions(config)
    if unscaled is not None and unscaled < config.max_position_embeddings:
        log.warning(
            "%s is read up to %d tokens of its %d: beyond that its positions are scaled by the "
            "longest row of a batch, so a row's log-probs would depend on the rows beside it.",
            lm.name,
            unscaled,
            config.max_position_embeddings,
        )


def _refuse_reward_model(path: str, loaded: Pretrained) -> None:
    if any(map(is_score, loaded.unread)):
        raise ModelError(
            f"{path} is a reward model: its files hold a scalar head (score.weight), and a "
            f"language model is needed here. Name it in `reward_model`, and here the model whose "
            f"responses it scores."
        )


def _to_merge(adapter: str | None, quantization: QuantizationName | None) -> str | None:
    if adapter and quantization is not None:
        raise refuse_merging(adapter)
    return adapter


def _load_dtype(precision: Precision, trainable: bool, adapter: str | None) -> torch.dtype:
    # bf16 weights would also round away most of a small update that is merged into them.
    half = precision == "bf16" and not trainable and adapter is None
    return torch.bfloat16 if half else torch.float32


def _device(device: Device) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise SettingsError("device=cuda, but torch finds no CUDA device. Use device=cpu or auto.")
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def _to_device(model: Any, device: Device) -> Any:
    return disable_dropout(model).to(_device(device)).eval()
