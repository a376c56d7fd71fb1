"""Objects in memory that stand in for what a stage's settings name by path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from accord.compare.rewards.reward import CombinedReward
from accord.data.selection import ReadRows
from accord.lm.model import LanguageModel


@dataclass(frozen=True, slots=True)
class InMemory:
    """What a caller from Python passes instead of paths.

    `model` is the starting model with its trainable parameters marked; `on_disk` says whether the
    settings' `model` names these very weights. `ref_model` is the reference, if not the start;
    `reward` replaces the reward of the settings' sources. `datasets` holds rows by the key of the
    setting that names them (`dataset`, `eval_dataset`, …). `method` is an offline Method or an
    OnlineMethod that replaces the row of the table. `save_model` False leaves out the final
    `model/`: the caller keeps the trained model in memory. `read` are the data sets if they have
    been read already (see `read_datasets`).
    """

    model: LanguageModel | None = None
    on_disk: bool = True
    ref_model: LanguageModel | None = None
    reward: CombinedReward | None = None
    datasets: Mapping[str, Iterable[Any]] = field(default_factory=dict)
    method: Any = None
    save_model: bool = True
    read: Mapping[str, ReadRows] = field(default_factory=dict)

    def rows(self, key: str, path: str) -> str | Iterable[Any]:
        """The rows passed for a setting, or else the path that it names."""
        return self.datasets.get(key, path)


NOTHING = InMemory()
