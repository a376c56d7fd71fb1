"""The kinds of stages and the training methods, and one stage with its settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from accord.errors import SettingsError
from accord.settings.base import Settings
from accord.settings.groups import GrpoSettings, RlooSettings
from accord.settings.iterate import IterateSettings
from accord.settings.ppo import PpoSettings
from accord.settings.preferences import (
    DpoSettings,
    IpoSettings,
    KtoSettings,
    OrpoSettings,
    SimpoSettings,
)
from accord.settings.reading.load import apply_overrides, build, load_yaml
from accord.settings.reading.located import COMMAND_LINE, LocatedMapping
from accord.settings.reading.suggest import listed, nearest
from accord.settings.stages import (
    ArenaSettings,
    CompareSettings,
    EvaluateSettings,
    ReportSettings,
    SampleSettings,
    ScratchSettings,
    SelectSettings,
    SplitSettings,
    WorldSettings,
)
from accord.settings.training import RewardSettings, SftSettings

METHOD_SETTINGS: dict[str, type[Settings]] = {
    "sft": SftSettings,
    "reward": RewardSettings,
    "dpo": DpoSettings,
    "ipo": IpoSettings,
    "kto": KtoSettings,
    "orpo": OrpoSettings,
    "simpo": SimpoSettings,
    "ppo": PpoSettings,
    "grpo": GrpoSettings,
    "rloo": RlooSettings,
}
"""Training methods, and what each may be told."""

STAGES: dict[str, type[Settings] | dict[str, type[Settings]]] = {
    "world": WorldSettings,
    "scratch": ScratchSettings,
    "split": SplitSettings,
    "train": METHOD_SETTINGS,
    "sample": SampleSettings,
    "compare": CompareSettings,
    "select": SelectSettings,
    "iterate": IterateSettings,
    "arena": ArenaSettings,
    "evaluate": EvaluateSettings,
    "report": ReportSettings,
}
"""Kinds of stages, and what each may be told; `train` depends on its method."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a run: its name, its kind, its method if it trains, and its settings."""

    name: str
    kind: str
    settings: Settings
    method: str | None = None


def settings_class(kind: str, method: str | None = None) -> type[Settings]:
    """The settings class of a kind of stage, or of a training method. Raises KeyError."""
    found = STAGES[kind]
    return found[method or ""] if isinstance(found, dict) else found


def find_method(method: str) -> str:
    """`method` if it is one. Raises SettingsError with the nearest one."""
    if method in METHOD_SETTINGS:
        return method
    near = nearest(method, METHOD_SETTINGS)
    raise SettingsError(
        f"There is no method {method!r}. {f'Did you mean `{near}`? ' if near else ''}"
        f"The methods are {listed(METHOD_SETTINGS)}."
    )


def single_stage(
    kind: str,
    method: str | None = None,
    *,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
) -> StagePlan:
    """A stage of its own, from a YAML file and `key=value` overrides. Raises SettingsError."""
    where = f"train {method}" if kind == "train" else kind
    given = load_yaml(config) if config else LocatedMapping({}, source=COMMAND_LINE)
    given = apply_overrides(given, overrides)
    settings = build(settings_class(kind, method), given, where=where)
    return StagePlan(method or kind, kind, settings, method)
