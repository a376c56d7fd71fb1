"""Reads a model's weights by transformers, and checks what was read, missing and left over."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import find_adapter_config_file

from accord.errors import ModelError
from accord.lm.loading.configuration import check_weights, read_configuration
from accord.lm.loading.quantised import finish_quantised, quantisation_config
from accord.lm.transformers_logging import silence_transformers
from accord.settings.memory import QuantizationName

log = logging.getLogger(__name__)

# A language model's heads, which a model with a scalar head has no use for.
_VOCABULARY_HEADS = ("lm_head.", "embed_out.", "output.")


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A loaded model, and what of it the files did not hold.

    `missing` are the names of its tensors that the files lack or have in another shape, `unread`
    those in the files that it lacks; `saved_score` is the shape of the head in the files where it
    is not the requested one.
    """

    model: Any
    missing: tuple[str, ...]
    unread: tuple[str, ...]
    saved_score: tuple[int, ...] | None = None

    @property
    def has_score(self) -> bool:
        """Whether the model has a scalar head and the files held it."""
        return hasattr(self.model, "score") and not any(map(is_score, self.missing))


def is_score(name: str) -> bool:
    """Whether a tensor is a scalar head's."""
    return name.startswith("score.")


def from_pretrained(
    auto: Any,
    path: str,
    dtype: torch.dtype,
    trust_remote_code: bool,
    *,
    quantization: QuantizationName | None = None,
    device: torch.device | None = None,
    **config_values: Any,
) -> Pretrained:
    """The model of a folder or hub name, of an Auto class of transformers.

    With `quantization` each matrix is quantised on `device` as it is read, so that the whole model
    is never in memory in `dtype`. Raises ModelError where its configuration and files do not
    belong together.
    """
    options: dict[str, Any] = {}
    if quantization is not None:
        options["quantization_config"] = quantisation_config(quantization, dtype)
        options["device_map"] = {"": device or torch.device("cpu")}
    config = read_configuration(path, trust_remote_code=trust_remote_code)
    for key, value in config_values.items():
        setattr(config, key, value)
    if Path(path).is_dir():
        if not (trust_remote_code and getattr(config, "auto_map", None)):
            check_weights(auto, path, config)
    else:
        _refuse_hub_adapter(path)
    try:
        with silence_transformers():
            model, info = auto.from_pretrained(
                path,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=True,  # they are refused below, by name
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # transformers raises what its files and classes run into
        raise _load_error(path, error) from error
    if quantization is not None:
        finish_quantised(model, path)
    mismatched = {name: tuple(saved) for name, saved, _ in info["mismatched_keys"]}
    return Pretrained(
        model,
        tuple(sorted({*info["missing_keys"], *mismatched})),
        tuple(sorted(info["unexpected_keys"])),
        next((shape for name, shape in mismatched.items() if is_score(name)), None),
    )


def warn_about_unread(path: str, model: Any, names: Iterable[str], *, scalar: bool) -> None:
    """Log the tensors of a folder's files that the model does not have."""
    unread = [n for n in names if not (scalar and n.startswith(_VOCABULARY_HEADS))]
    if unread:
        log.warning(
            "%s: %d tensors of its weight files are not read, since a %s has none of that name: "
            "%s%s.",
            path,
            len(unread),
            type(model).__name__,
            ", ".join(unread[:4]),
            ", …" if len(unread) > 4 else "",
        )


def refuse_missing(path: str, loaded: Pretrained) -> None:
    """Raise ModelError where the files lack a weight other than a scalar head's."""
    missing = [name for name in loaded.missing if not is_score(name)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(
            f"{path}: the weight files have no {missing[0]}{more}, which a "
            f"{type(loaded.model).__name__} needs; transformers would draw them at random. Copy "
            f"the folder again from where the model comes from; if its class is another, name a "
            f"model of a class that transformers knows."
        )


def _refuse_hub_adapter(path: str) -> None:
    try:
        config_file = find_adapter_config_file(path)
    except (OSError, ValueError):
        return  # loading says what is wrong
    if config_file:
        raise ModelError(
            f"{path} is an adapter on the hub. Download it (`hf download {path} --local-dir "
            f"adapter`) and name the folder: accord then reads its base and merges or continues it."
        )


def _load_error(path: str, error: Exception) -> ModelError:
    text = " ".join(str(error).split())
    if isinstance(error, ImportError):
        return ModelError(
            f"The model {path!r} needs a package that is not installed: {text[:300]}. Install it, "
            f"or name a model that does not need it."
        )
    hint = ""
    if "trust_remote_code" in text:
        hint = " Set trust_remote_code=true if you trust the code that comes with it."
    return ModelError(
        f"The model {path!r} can't be loaded: {text[:500] or type(error).__name__}{hint}"
    )
