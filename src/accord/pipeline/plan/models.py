"""The models that a stage names, also those that an earlier stage is still to make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.errors import ModelError
from accord.lm.load import base_and_adapter, load_tokenizer_or_base
from accord.lm.loading.weight_files import weight_files
from accord.lm.weightless import load_weightless, new_config
from accord.pipeline.identity import stage_folder
from accord.settings.recipe import StagePlan
from accord.settings.training import LoraSettings
from accord.world.build import model_config


@dataclass(frozen=True, slots=True)
class PlannedModel:
    """A model by its configuration; `tokenizer` is None where a stage is still to train it.

    `lora` are the adapters that it consists of, on a base, and `made_by` the stage that will make
    it. `file_bytes` are those of its weight files, where they exist.
    """

    name: str
    config: Any
    tokenizer: Any = None
    eos_ids: frozenset[int] = frozenset()
    lora: LoraSettings | None = None
    is_adapter: bool = False
    made_by: str | None = None
    file_bytes: int | None = None


def find_model(
    path: str, stages: Sequence[StagePlan], *, remote_code: bool = False
) -> PlannedModel:
    """The model at a path or hub name, or the one that one of `stages` will write there.

    Raises ModelError where it is neither, or its configuration can't be used.
    """
    if not Path(path).exists():
        maker = maker_of(path, stages)
        if maker is not None:
            return _future_model(path, maker, stages, remote_code)
    base, adapter = base_and_adapter(path)
    lm = load_weightless(base, trust_remote_code=remote_code)
    lm.tokenizer = load_tokenizer_or_base(path if adapter else base, base, remote_code)
    return PlannedModel(
        path,
        lm.inner.config,
        lm.tokenizer,
        eos_ids=lm.eos_ids,
        is_adapter=adapter is not None,
        file_bytes=_file_bytes(base),
    )


def maker_of(path: str, stages: Sequence[StagePlan]) -> StagePlan | None:
    """The stage in whose folder a path lies."""
    for plan in stages:
        if Path(path).is_relative_to(stage_folder(plan)):
            return plan
    return None


def _future_model(
    path: str, maker: StagePlan, stages: Sequence[StagePlan], remote_code: bool
) -> PlannedModel:
    settings: Any = maker.settings
    if maker.kind == "world":
        values = {**model_config(settings), "vocab_size": settings.vocab_size}
        return PlannedModel(path, new_config("llama", values), made_by=maker.name)
    if maker.kind == "scratch":
        values = {**settings.config, "vocab_size": settings.vocab_size}
        return PlannedModel(path, new_config(settings.architecture, values), made_by=maker.name)
    start = getattr(settings, "model", None)
    if not isinstance(start, str):
        raise ModelError(
            f"{path} is to be written by the stage `{maker.name}`, a `{maker.kind}`, which makes "
            f"no model that is known before it has run. Run that stage first."
        )
    index = stages.index(maker)
    before = find_model(start, stages[:index], remote_code=remote_code)
    lora = getattr(settings, "lora", None)
    train = getattr(settings, "train", None)  # of iterate
    lora = lora if lora is not None else getattr(train, "lora", None)
    return PlannedModel(
        path,
        before.config,
        before.tokenizer,
        eos_ids=before.eos_ids,
        lora=lora,
        is_adapter=lora is not None or before.is_adapter,
        made_by=maker.name,
        file_bytes=before.file_bytes,
    )


def _file_bytes(base: str) -> int | None:
    if not Path(base).is_dir():
        return None
    try:
        return sum(file.stat().st_size for file in weight_files(Path(base)))
    except (ModelError, OSError):
        return None
