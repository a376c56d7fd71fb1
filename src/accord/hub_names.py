"""Names of models and data sets on the Hugging Face hub, and how they differ from paths."""

from __future__ import annotations

import re
from pathlib import Path, PurePath

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+){0,2}")
# `Qwen2.5-0.5B` has a dot too, so a name is that of a file only where its ending is one of these.
FILE_ENDINGS = (
    *(".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".gz", ".db", ".yaml", ".yml"),
    *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf"),
)


def is_hub_name(name: str) -> bool:
    """Whether `name` is `owner/name`, of a data set also `owner/name:split` or
    `owner/name:config:split`."""
    return HUB_NAME.fullmatch(name) is not None


def means_hub(name: str) -> bool:
    """Whether a name at which nothing lies here is looked up on the hub: it is a hub name, is not
    called like a file, and no folder here has the owner's name."""
    is_file = name.lower().endswith(FILE_ENDINGS)
    return is_hub_name(name) and not is_file and not Path(name).parent.is_dir()


def short_name(model: str) -> str:
    """A model's name for people: its run's where it lies in `model/`, or else its folder's, or the
    last part of a hub name."""
    path = PurePath(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name
