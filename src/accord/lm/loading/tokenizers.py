"""A model's tokenizer, from its folder or its base's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from accord.errors import ModelError
from accord.lm.loading.folders import base_and_adapter
from accord.lm.transformers_logging import in_own_words

FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


def load_tokenizer(path: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model or adapter, without its weights. Raises ModelError."""
    base, adapter = base_and_adapter(path)
    return load_tokenizer_or_base(path if adapter else base, base, trust_remote_code)


def load_tokenizer_or_base(path: str, base: str, trust_remote_code: bool) -> Any:
    """The tokenizer of a model or adapter; the base's where the adapter has none.

    Raises ModelError.
    """
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).is_file() for name in FILES):
        if path == base:
            raise ModelError(
                f"{path} holds a model but no tokenizer (none of {', '.join(FILES)}). "
                f"Save the model's tokenizer into the same folder with save_pretrained."
            )
        path = base
    try:
        with in_own_words(path):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # its files are input: the library raises what it runs into
        text = " ".join(str(error).split())[:500]
        raise ModelError(
            f"The tokenizer of {path} can't be loaded ({type(error).__name__}: {text}). Copy its "
            f"files again from where the model comes from."
        ) from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"The tokenizer of {path} has no EOS token, so no response could end. Set "
            f"`eos_token` in its tokenizer_config.json."
        )
    return tokenizer


def set_distinct_pad_token(model: Any, tokenizer: Any) -> None:
    """Set one padding token that is not EOS in model and tokenizer, where there is a candidate.

    Plain transformers reads the score at the last token that is not the model's padding.
    """
    model.config.pad_token_id = None
    for candidate in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if candidate is not None and candidate != tokenizer.eos_token_id:
            model.config.pad_token_id = int(candidate)
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(int(candidate))
            return
