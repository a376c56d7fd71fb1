"""Hub data sets of a training stage that are streamed: files in their stead."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from accord.data.hub_stream import first_hub_rows
from accord.errors import SettingsError
from accord.hub_names import means_hub
from accord.learn.loop.in_memory import InMemory
from accord.learn.loop.processes import processes
from accord.settings.training import TrainSettings

S = TypeVar("S", bound=TrainSettings)


def with_streamed_rows(settings: S, memory: InMemory) -> S:
    """The settings with files in the place of the hub data sets that `streaming` reads in part.

    Raises DataError where the hub does not give the rows, SettingsError where no data set is one of
    the hub.
    """
    if not settings.streaming:
        return settings
    if memory.datasets or memory.read:
        raise SettingsError(
            "`streaming` reads data sets of the hub, and the rows are in memory. Leave it out."
        )
    num_rows, num_eval = settings.max_samples, settings.max_eval_samples
    held_out = settings.eval_dataset
    sources = settings.mixture or []
    names = [settings.dataset, *(s.dataset for s in sources)]
    names += [held_out] if isinstance(held_out, str) else [*(held_out or {}).values()]
    if all(Path(name).exists() or not means_hub(name) for name in names):
        raise SettingsError(
            f"`streaming` reads data sets of the hub, and of {', '.join(names)} none is one. "
            "Leave it out: the rows of large files are not in memory together."
        )
    changed: dict[str, object] = {"dataset": _local(settings.dataset, num_rows)}
    if isinstance(held_out, dict):
        changed["eval_dataset"] = {n: _local(path, num_eval) for n, path in held_out.items()}
    elif held_out is not None:
        changed["eval_dataset"] = _local(held_out, num_eval)
    if sources:
        changed["mixture"] = [
            s.model_copy(update={"dataset": _local(s.dataset, s.max_samples)}) for s in sources
        ]
    return settings.model_copy(update=changed)


def _local(name: str, count: int | None) -> str:
    if Path(name).exists() or not means_hub(name) or count is None:
        return name
    return str(processes().main_first(lambda: first_hub_rows(name, count)))
