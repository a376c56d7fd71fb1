"""What a path names: a model folder, an adapter folder with its base, or a hub name."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

from accord.errors import ModelError
from accord.hub_names import is_hub_name, means_hub
from accord.lm.loading.weight_files import missing_weights, weight_files

CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_SIZES = re.compile(r"(hidden|intermediate|vocab)_size$|^num_.*(layers|heads|experts)$")
_POSITIVE = {"hidden_size", "vocab_size", "num_attention_heads", "num_key_value_heads"}


def model_of_run(path: str) -> str:
    """The folder of the model at a path: that of a run of one training is its `model/`, wherever in
    the run it is.

    A model's folder and a hub name are returned as they are. Raises ModelError for a run of several
    models, which it names.
    """
    folder = Path(path)
    if not folder.is_dir() or any((folder / file).is_file() for file in (CONFIG, ADAPTER_CONFIG)):
        return path
    if (folder / "model").is_dir():
        return str(folder / "model")
    models = sorted(p for p in folder.glob("*/model") if p.is_dir())
    if len(models) > 1:
        listed = ", ".join(str(model.parent) for model in models)
        raise ModelError(f"{path} is a run of several models. Name one of them: {listed}.")
    return str(models[0]) if models else path


def base_and_adapter(path: str) -> tuple[str, str | None]:
    """The path or hub name of the base model, and the adapter's path if `path` is an adapter
    folder, else None.

    Every file that would be read is looked at: none is a pickle, and none is outside the folder.
    Raises ModelError for a folder that contains neither.
    """
    folder = Path(path)
    if not folder.is_dir():
        if not means_hub(path):
            raise ModelError(
                f"No model folder {path!r}.{_suggestion(folder)} Check the path of `model`."
            )
        return path, None  # a hub name
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapter_base(folder), path
    if not (folder / CONFIG).is_file():
        raise ModelError(_why_no_model(folder))
    _check_values(folder / CONFIG)
    weight_files(folder)
    return path, None


def read_json_object(file: Path) -> dict[str, Any]:
    """A JSON file that must hold an object. Raises ModelError."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"{file} can't be read: {error}. Copy the file again from where the model comes from."
        ) from error
    if not isinstance(values, dict):
        raise ModelError(
            f"{file} holds a {type(values).__name__} where an object of settings belongs. Copy the "
            f"file again from where the model comes from."
        )
    return values


def _adapter_base(folder: Path) -> str:
    """The base that an adapter names, checked. Raises ModelError."""
    base = read_json_object(folder / ADAPTER_CONFIG).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ModelError(
            f"{folder / ADAPTER_CONFIG} names no base model (base_model_name_or_path is {base!r}). "
            f"Write the folder or hub name of the model that the adapter was trained on into it."
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(missing_weights(folder, ADAPTER_WEIGHTS))
    if not Path(base).is_dir():
        if "/" in base and not is_hub_name(base):
            raise ModelError(
                f"The adapter {folder} names the base model {base!r}, and there is no such folder."
                f"{_suggestion(Path(base))} Correct base_model_name_or_path in its "
                f"{ADAPTER_CONFIG}."
            )
        return base
    if (Path(base) / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"The adapter {folder} names {base} as its base, which is an adapter itself. Merge "
            f"that one into its base, save the result, and name it in base_model_name_or_path."
        )
    if not (Path(base) / CONFIG).is_file():
        raise ModelError(f"The base of the adapter {folder}: {_why_no_model(Path(base))}")
    _check_values(Path(base) / CONFIG)
    weight_files(Path(base))
    return base


def _check_values(file: Path) -> None:
    """Raise ModelError for a configuration with values that no model has, which transformers would
    run into later, some of them in its tokenizer."""
    values = read_json_object(file)
    if not values.get("model_type") and not values.get("auto_map"):
        raise ModelError(
            f"{file} names no model_type, so it is unknown which architecture the weights are of. "
            f"Copy the file again from where the model comes from, or save the model again with "
            f"save_pretrained."
        )
    for part in (values, *(v for v in values.values() if isinstance(v, dict))):
        for key, value in part.items():
            if value is None or isinstance(value, list) or not _SIZES.search(key):
                continue
            least = 1 if key in _POSITIVE else 0
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ModelError(
                    f"{file}: {key} is {value!r}, and a number of at least {least} belongs there. "
                    f"Copy the file again from where the model comes from."
                )


def _why_no_model(folder: Path) -> str:
    gguf = sorted(p.name for p in folder.glob("*.gguf"))
    if gguf:
        return (
            f"{folder} holds a GGUF file ({gguf[0]}), which is a quantised model for inference. "
            f"Name the folder or hub name of the model that it was converted from."
        )
    return (
        f"{folder} holds no model: there is no {CONFIG} in it.{_suggestion(folder / 'model')} "
        f"Name the folder that save_pretrained wrote."
    )


def _suggestion(path: Path) -> str:
    if path.is_dir():
        return f" Did you mean {str(path)!r}?"
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.iterdir() if p.is_dir()]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f" Did you mean {str(path.parent / close[0])!r}?" if close else ""
