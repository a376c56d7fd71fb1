"""The tensors of checkpoints that several processes write and read together.

torch's distributed checkpoint (DCP), in safetensors files: each process writes its part of every
divided tensor, and reads what it needs of all files, so that another number of processes can
resume. A file that one process wrote alone is read in the same way.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from accord.errors import StorageError
from accord.learn.loop.processes import is_lost_connection, processes
from accord.learn.loop.state import TrainState
from accord.lm.sharding.shards import own_part


def save_parts(folder: Path, state: TrainState[Any], tensors: Mapping[str, Tensor]) -> None:
    """Write this process's part of named tensors into a folder; all processes call it together.

    Raises StorageError where any of them can't.
    """
    from torch.distributed.checkpoint import HuggingFaceStorageWriter, save

    shards = _shards(state)
    content = {
        name: tensor.view(1) if tensor.ndim == 0 else _global_tensor(tensor, shards.get(key))
        for name, tensor in tensors.items()
        for key in [_parameter_key(name)]
    }
    writer = HuggingFaceStorageWriter(path=str(folder), save_distributed=True)
    with _storage_errors(folder, "written"), _quiet():
        save(content, storage_writer=writer)


def load_parts(folder: Path, state: TrainState[Any]) -> dict[str, Tensor]:
    """This process's part of all tensors in a folder, by name. Raises StorageError."""
    from torch.distributed.checkpoint import HuggingFaceStorageReader, load

    shards = _shards(state)
    with _storage_errors(folder, "read"), _quiet():
        reader = HuggingFaceStorageReader(str(folder))
        known: dict[str, Any] = dict(reader.read_metadata().state_dict_metadata)
        content: dict[str, Tensor] = {}
        for name, about in known.items():
            size, dtype = tuple(about.size), about.properties.dtype
            shard = shards.get(_parameter_key(name))
            if shard is None:
                content[name] = torch.empty(size, dtype=dtype)
            elif size != tuple(shard.shape):
                raise ValueError(f"{name} has the shape {size} there, and {tuple(shard.shape)} now")
            else:
                part = torch.empty_like(own_part(shard.detach()), dtype=dtype)
                content[name] = _global_tensor(part, shard)
        numbers = {name for name, about in known.items() if not tuple(about.size)}
        tensors = {name: tensor for name, tensor in content.items() if name not in numbers}
        load(tensors, storage_reader=reader, no_dist=processes().world_size == 1)
        tensors |= _read_numbers(folder, numbers)
    return {
        name: tensor.view(()) if _parameter_key(name) is None else own_part(tensor)
        for name, tensor in tensors.items()
    }


def _read_numbers(folder: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Tensors of a single number, which DCP does not read."""
    read: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            read |= {n: tensors.get_tensor(n) for n in names if n in tensors.keys()}  # noqa: SIM118
    return read


def _shards(state: TrainState[Any]) -> dict[tuple[str, str] | None, nn.Parameter]:
    """The divided parameters, by their learner's name and their own."""
    return {
        (learner_name, name): shard
        for learner_name, learner in state.learners.items()
        for name, shard in learner.shards.items()
    }


def _parameter_key(name: str) -> tuple[str, str] | None:
    """The learner and the parameter of `[start/]learner/kind/parameter`; None of its count of
    steps."""
    learner, kind, parameter = name.removeprefix("start/").split("/", 2)
    return None if kind == "step" else (learner, parameter)


def _global_tensor(part: Tensor, shard: nn.Parameter | None) -> Tensor:
    """A part of a weight or moment as the tensor that it is a part of; others are whole."""
    if shard is None:
        return part
    from torch.distributed.tensor import DTensor

    divided: Any = shard
    whole: Tensor = DTensor.from_local(
        part,
        divided.device_mesh,
        divided.placements,
        run_check=False,
        shape=shard.shape,
        stride=shard.stride(),
    )
    return whole


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what DCP says of one process and of its own files."""
    logger = logging.getLogger("torch.distributed.checkpoint")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextmanager
def _storage_errors(folder: Path, what: str) -> Iterator[None]:
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except (OSError, CheckpointException, SafetensorError, ValueError, KeyError) as error:
        text = " ".join(str(error).split())
        if is_lost_connection(error):
            raise RuntimeError(text) from error
        raise StorageError(
            f"The checkpoint {folder} can't be {what}: {text[-400:]}. If it is damaged, remove it "
            f"to resume from the previous one, or from the start."
        ) from error
