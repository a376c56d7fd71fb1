"""The safetensors files of a model folder: which are read, and what their headers hold."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from safetensors import SafetensorError, safe_open

from accord.errors import ModelError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
WEIGHTS_SUFFIXES = (".safetensors", ".gguf", *PICKLE_SUFFIXES)
# What transformers reads through torch.distributed.checkpoint.
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """A tensor's shape and safetensors dtype (F32, BF16, U8, …)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def num_elements(self) -> int:
        return prod(self.shape)


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers reads a model's weights from, in order.

    Raises ModelError where one is a pickle, lies outside the folder or is missing.
    """
    if any(_DISTRIBUTED.fullmatch(p.name) for p in folder.iterdir()):
        raise ModelError(
            f"{folder} holds a distributed checkpoint (shard-*.safetensors), which only the run "
            f"that wrote it can read. Save the model with save_pretrained, and name that folder."
        )
    explicit = _explicit_file(folder)
    if explicit is None and (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if explicit is None and not (folder / INDEX).is_file():
        raise ModelError(missing_weights(folder, SINGLE, INDEX))
    name = explicit or INDEX
    if not name.endswith(".index.json"):
        return [_checked(folder, name, "its config.json (transformers_weights)")]
    _checked_name(folder, name, "its config.json (transformers_weights)")
    try:
        names = sorted(set(json.loads((folder / name).read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{folder / name} is no index of safetensors files ({type(error).__name__}: {error}). "
            f"Copy it again from where the model comes from."
        ) from error
    return [_checked(folder, file, name) for file in names]


def tensor_headers(files: Sequence[Path]) -> dict[str, TensorHeader]:
    """Each tensor's header, by name, of safetensors files. Raises ModelError for another format."""
    headers: dict[str, TensorHeader] = {}
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - no mapping
                    part = tensors.get_slice(name)
                    headers[name] = TensorHeader(tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{file} is no readable safetensors file ({error}). It may be cut short, a Git LFS "
                f"pointer, or a pickle under another name. Copy it again from where the model "
                f"comes from."
            ) from error
    return headers


def _explicit_file(folder: Path) -> str | None:
    """The file that config.json names for its weights, if it does."""
    try:
        name = json.loads((folder / "config.json").read_text("utf-8")).get("transformers_weights")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # the configuration is checked when it is read
    return None if name is None else str(name)


def _checked(folder: Path, name: object, named_by: str) -> Path:
    file = _checked_name(folder, name, named_by)
    if file.suffix != ".safetensors":
        raise ModelError(
            f"{folder}: {named_by} names {name} for the weights, which is not a safetensors file. "
            f"accord does not open pickle files, which can run code. Load it where you trust it "
            f"and save it again with save_pretrained(..., safe_serialization=True)."
        )
    if not file.is_file():
        raise ModelError(
            f"{folder}: {named_by} names {name} for the weights, and there is no such file. Copy "
            f"the folder again from where the model comes from."
        )
    return file


def _checked_name(folder: Path, name: object, named_by: str) -> Path:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise ModelError(
            f"{folder}: {named_by} names {name!r} for the weights, which is no file of that "
            f"folder. Copy the folder again from where you trust it."
        )
    return folder / name


def missing_weights(folder: Path, *names: str) -> str:
    """What to say of a folder that has none of the weight files `names`."""
    others = sorted(p.name for p in folder.iterdir() if p.suffix in WEIGHTS_SUFFIXES)
    pickles = [name for name in others if name.endswith(PICKLE_SUFFIXES)]
    present = f"only {', '.join(others)}" if others else "none"
    if pickles and pickles == others:
        present += ", which is pickle"
    named = f": no {', no '.join(names)}" if others and not pickles else ""
    return (
        f"{folder} has no safetensors weights ({present}{named}). accord does not open pickle "
        f"files, which can run code. Load it where you trust it and save it again with "
        f"save_pretrained(..., safe_serialization=True)."
    )
