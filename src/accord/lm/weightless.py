"""A model without its weights, for what needs only its tokenizer, configuration and shapes."""

from __future__ import annotations

from contextlib import suppress

import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from accord.errors import ModelError
from accord.lm.load import base_and_adapter, load_tokenizer
from accord.lm.model import LanguageModel


def load_weightless(path: str, *, trust_remote_code: bool = False) -> LanguageModel:
    """The language model at `path`, a folder or hub name, with weights on the meta device.

    Raises ModelError where tokenizer or configuration can't be loaded.
    """
    base, _ = base_and_adapter(path)
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # its files are input: the library raises what it runs into
        text = " ".join(str(error).split())[:500]
        raise ModelError(
            f"The configuration of {path} can't be used ({type(error).__name__}: {text}). Check "
            "the path of the model."
        ) from error
    with suppress(OSError, ValueError):  # there may be none
        model.generation_config = GenerationConfig.from_pretrained(base)
    return LanguageModel(model, tokenizer, path)
