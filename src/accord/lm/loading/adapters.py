"""Merges an adapter folder into its base, and checks that all of it was read."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel, PeftType, get_peft_model_state_dict
from torch import Tensor

from accord.errors import ModelError
from accord.lm.loading.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_json_object
from accord.lm.loading.weight_files import tensor_headers

# Tokens or states that are put before every text: no weights of the base change.
_PROMPT_LEARNING = {
    "PROMPT_TUNING",
    "MULTITASK_PROMPT_TUNING",
    "P_TUNING",
    "PREFIX_TUNING",
    "ADAPTION_PROMPT",
    "CPT",
    "CARTRIDGE",
}
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "embeddings")


def adapter_kind(adapter: str) -> str:
    """peft's name of an adapter's kind, such as LORA. Raises ModelError for an unknown one."""
    kind = read_json_object(Path(adapter) / ADAPTER_CONFIG).get("peft_type")
    if kind not in {member.value for member in PeftType}:
        raise ModelError(
            f"{adapter}: {ADAPTER_CONFIG} names peft_type {kind!r}, which the installed peft does "
            f"not know. Upgrade peft, or merge the adapter where it was trained and name the "
            f"merged folder."
        )
    return str(kind)


def merge_into_base(model: Any, adapter: str) -> Any:
    """The model with an adapter merged into it, all of its parameters trainable.

    The embeddings get as many rows as the adapter's. Raises ModelError for an adapter that can't
    be merged, or of which a tensor is not the model's.
    """
    kind = adapter_kind(adapter)
    if kind in _PROMPT_LEARNING:
        raise ModelError(
            f"{adapter} is a {kind} adapter: it puts learned states before each text and can't be "
            f"merged into the weights of its base. Name the base, or an adapter that changes "
            f"weights, such as LoRA."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what they are about is checked below
            return _merge(model, adapter)
    except ModelError:
        raise
    except Exception as error:  # peft raises what its files and layers run into
        text = " ".join(str(error).split())[:300]
        raise ModelError(
            f"The {kind} adapter {adapter} can't be merged into its base "
            f"({type(error).__name__}: {text}). Check that base_model_name_or_path in its "
            f"{ADAPTER_CONFIG} names the model that it was trained on; or merge it where it was "
            f"trained, and name the merged folder."
        ) from error


def has_head(adapter: str) -> bool:
    """Whether an adapter folder holds a scalar head."""
    return any(_is_head(name) for name in tensor_headers([Path(adapter) / ADAPTER_WEIGHTS]))


def _merge(model: Any, adapter: str) -> Any:
    headers = tensor_headers([Path(adapter) / ADAPTER_WEIGHTS])
    config: Any = PeftConfig.from_pretrained(adapter)
    config.task_type = None  # a language model's adapter fits under a scalar head too
    if any(map(_is_head, headers)) and hasattr(config, "modules_to_save"):
        config.modules_to_save = sorted({*(config.modules_to_save or ()), "score"})
    _resize_embeddings(model, adapter, {n: h.shape for n, h in headers.items()}, config)
    names, tied = set(model.state_dict()), _is_tied(model)
    unused = _vocabulary_head(model, headers, config)
    wrapped = PeftModel.from_pretrained(model, adapter, config=config)
    loaded = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    # peft writes the embeddings that an adapter changed, or that were resized, several times.
    whole = {n for n in headers if _name_in_base(n) in names}
    if tied:
        unused |= {n for n in headers if ".lm_head.token_adapter." in n}
    odd = sorted((set(headers) - loaded - whole - unused) | (loaded - set(headers)))
    if odd:
        where = "the adapter's file" if odd[0] in headers else "the model"
        raise ModelError(
            f"The adapter {adapter} does not fit its base: {odd[0]} is in {where} only. Check that "
            f"base_model_name_or_path in its {ADAPTER_CONFIG} names the model that it was trained "
            f"on."
        )
    if any("lora_embedding_A" in name for name in headers):
        _untie_head(model)  # the adapter is on the embeddings alone, as in its training
    before = _probe(wrapped)
    merged = wrapped.merge_and_unload()
    after = _probe(merged)
    if not torch.allclose(before, after, rtol=0, atol=1e-2 * float(before.abs().max())):
        raise ModelError(
            f"The adapter {adapter} computes other numbers once it is merged into its base (they "
            f"differ by {float((before - after).abs().max()):.2g}), as its kind does where a layer "
            f"is used twice. Name an adapter on other layers, or merge it where it was trained."
        )
    _untie_if_different(merged)
    return merged.requires_grad_(True)  # peft froze it; the caller decides what is trained


@torch.no_grad()
def _probe(model: Any) -> Tensor:
    """The logits (or scores) of a few tokens."""
    device = next(model.parameters()).device
    model.eval()
    output: Tensor = model(input_ids=torch.tensor([[3, 5, 7, 4, 6]], device=device)).logits
    return output.float()


def _untie_head(model: Any) -> None:
    """Give the vocabulary head weights of its own, where it has the embeddings'."""
    if _is_tied(model):
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(head.weight.detach().clone())
        _untie_configuration(model)


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _untie_if_different(model: Any) -> None:
    """Record that embeddings and head differ, which an adapter on one of them leads to: a tied
    head would not be saved."""
    if model.get_output_embeddings() is None or _is_tied(model):
        return
    if model.config.get_text_config().tie_word_embeddings:
        _untie_configuration(model)


def _untie_configuration(model: Any) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False


def _name_in_base(name: str) -> str:
    """The name of a base model's tensor, of which a tensor in an adapter's file is a copy."""
    name = name.removeprefix("base_model.model.")
    for wrapper in ("modules_to_save", "original_module", "token_adapter", "base_layer"):
        name = name.replace(f".{wrapper}.", ".")
    return name


def _vocabulary_head(model: Any, headers: Iterable[str], config: Any) -> set[str]:
    """The tensors of a vocabulary head in an adapter's file, where the model has a scalar head
    instead; it is removed from the adapter's configuration."""
    if model.get_output_embeddings() is not None:
        return set()
    saved = getattr(config, "modules_to_save", None)
    if saved:
        config.modules_to_save = [name for name in saved if name != "lm_head"]
    return {name for name in headers if name.startswith("base_model.model.lm_head.")}


def _is_head(name: str) -> bool:
    return name.startswith(("base_model.model.score.", "score."))


@torch.no_grad()
def _resize_embeddings(
    model: Any, adapter: str, shapes: dict[str, tuple[int, ...]], config: Any
) -> None:
    """Give the embeddings as many rows as those that an adapter was trained with."""
    present = model.get_input_embeddings().weight.shape[0]
    rows = _saved_rows(shapes)
    indices = getattr(config, "trainable_token_indices", None) or getattr(
        config, "token_indices", None
    )
    if isinstance(indices, dict):
        indices = [i for values in indices.values() for i in values]
    if rows is None and indices and max(indices) >= present:
        rows = max(indices) + 1
    if rows is None or rows == present:
        return
    untied = model.get_output_embeddings() is not None and not _is_tied(model)
    if rows > present and untied and not any("lm_head" in n or "embed_out" in n for n in shapes):
        raise ModelError(
            f"The adapter {adapter} has embeddings for {rows:,} tokens and its base for "
            f"{present:,}, and the rows of the output head for the new tokens are not with it. "
            f"Save it again with save_embedding_layers=True, or merge it where it was trained and "
            f"name the merged folder."
        )
    model.resize_token_embeddings(rows, mean_resizing=False)


def _saved_rows(shapes: dict[str, tuple[int, ...]]) -> int | None:
    """The number of tokens that an adapter's embeddings have; None where it has none."""
    for name, shape in shapes.items():
        parts = name.split(".")
        if not any(part in _EMBEDDINGS for part in parts) or len(shape) != 2:
            continue
        if parts[-1].startswith("lora_embedding_A"):
            return shape[1]
        if parts[-1] == "weight" and not any("lora_" in part for part in parts):
            return shape[0]
    return None
