"""Writes models so that transformers and peft load them, and stop where they were taught to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import GenerationConfig

from accord.lm.adapters.stack import saved_form
from accord.lm.loading.scalar import REWARD_FILE, reward_file_values
from accord.lm.model import LanguageModel
from accord.lm.saved_weights import SaveDtype, write_weights
from accord.lm.transformers_logging import silence_transformers
from accord.runs import atomic_folder


def save_model(
    lm: LanguageModel,
    folder: Path,
    *,
    card: str,
    dtype: SaveDtype = "auto",
    whole: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the model, its tokenizer and a model card to a folder, atomically.

    Full models load in transformers, adapters in peft: see `write_weights`. The configurations
    name the tokens that end a response in training, so that generation by other tools ends there
    too. The statistics of a reward model's scores are saved beside it in `reward.json`. A model
    that processes divide is saved from its `whole` weights (`whole_weights`). Raises StorageError
    when the disk can't be written.
    """
    with atomic_folder(folder) as temporary, silence_transformers():
        with _special_tokens(lm):
            write_weights(lm, temporary, dtype, whole)
        if lm.is_peft and not lm.scalar:  # what a merged model, or a server, is to stop at
            generation_config(lm).save_pretrained(temporary)
        lm.tokenizer.save_pretrained(temporary)
        if lm.scalar:
            text = json.dumps(reward_file_values(lm)) + "\n"
            (temporary / REWARD_FILE).write_text(text, encoding="utf-8")
        (temporary / "README.md").write_text(card + _card_notes(lm), encoding="utf-8")


def generation_config(lm: LanguageModel) -> GenerationConfig:
    """The model's generation settings, with the tokenizer's special tokens and every end token."""
    present = getattr(lm.inner, "generation_config", None)
    config = GenerationConfig.from_dict(present.to_dict() if present is not None else {})
    config._from_model_config = False  # `generate` would derive it again, with one end token
    eos = int(lm.tokenizer.eos_token_id)
    others = sorted(lm.eos_ids - {eos})
    config.eos_token_id = [eos, *others] if others else eos
    for name in ("pad_token_id", "bos_token_id"):
        value = getattr(lm.tokenizer, name)
        if value is not None:
            setattr(config, name, int(value))
    return config


@contextmanager
def _special_tokens(lm: LanguageModel) -> Iterator[None]:
    """A context in which the model's configurations have the tokenizer's special tokens, as
    transformers' Trainer aligns them."""
    inner, values = lm.inner, {}
    if saved_form(lm) != "full":  # its base's configuration is not saved
        yield
        return
    names = ("bos_token_id", "eos_token_id") + (() if lm.scalar else ("pad_token_id",))
    for name in names:
        value = getattr(lm.tokenizer, name)
        if value is not None:
            values[name] = int(value)
    configs = list({id(c): c for c in (inner.config, inner.config.get_text_config())}.values())
    before = [{name: getattr(c, name, None) for name in values} for c in configs]
    generation = getattr(inner, "generation_config", None)
    try:
        for config in configs:
            _set_all(config, values)
        if generation is not None:
            inner.generation_config = generation_config(lm)
        yield
    finally:
        for config, saved in zip(configs, before, strict=True):
            _set_all(config, saved)
        if generation is not None:
            inner.generation_config = generation


def _set_all(target: Any, values: dict[str, Any]) -> None:
    for name, value in values.items():
        setattr(target, name, value)


def _card_notes(lm: LanguageModel) -> str:
    """What a user of an adapter must know of the tokens that end its responses."""
    if not lm.is_peft or lm.scalar:
        return ""
    present = getattr(getattr(lm.inner, "generation_config", None), "eos_token_id", None)
    known = set(present if isinstance(present, list | tuple) else [present])
    if lm.eos_ids <= known:
        return ""
    token = lm.tokenizer.convert_ids_to_tokens(int(lm.tokenizer.eos_token_id))
    return (
        f"\nResponses end with `{token}`, which the base model's generation settings do not name. "
        f"The generation_config.json here does: pass it to `generate`, or give the server this "
        f"token as a stop token.\n"
    )
