"""The kinds of stages and the training methods, and one stage with its settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from accord.errors import SettingsError
from accord.settings.arena import ArenaSettings
from accord.settings.audit import AuditSettings
from accord.settings.base import Settings
from accord.settings.best_of import CurveSettings
from accord.settings.groups import GROUP_METHODS
from accord.settings.iterate import IterateSettings
from accord.settings.ppo import PPO_METHODS
from accord.settings.preferences import PREFERENCE_METHODS
from accord.settings.probe import ProbeSettings
from accord.settings.reading.load import apply_overrides, build, load_yaml
from accord.settings.reading.located import COMMAND_LINE, LocatedMapping
from accord.settings.reading.suggest import listed, suggest_method
from accord.settings.redteam import RedteamSettings
from accord.settings.revise import ReviseSettings
from accord.settings.stages import (
    CompareSettings,
    EvaluateSettings,
    ReportSettings,
    SampleSettings,
    ScratchSettings,
    SelectSettings,
    SplitSettings,
    WorldSettings,
)
from accord.settings.training import SUPERVISED_METHODS

METHOD_SETTINGS: dict[str, type[Settings]] = {
    **SUPERVISED_METHODS,
    **PREFERENCE_METHODS,
    **PPO_METHODS,
    **GROUP_METHODS,
}
"""The training methods with the class of their settings, in the order of help and documentation.

A method is named once, in the table beside its class; the first sentence of the class's docstring
describes it in `accord train --help` and in docs/commands.md."""

STAGE_SETTINGS: dict[str, type[Settings] | dict[str, type[Settings]]] = {
    "world": WorldSettings,
    "scratch": ScratchSettings,
    "split": SplitSettings,
    "train": METHOD_SETTINGS,
    "sample": SampleSettings,
    "revise": ReviseSettings,
    "compare": CompareSettings,
    "select": SelectSettings,
    "iterate": IterateSettings,
    "arena": ArenaSettings,
    "evaluate": EvaluateSettings,
    "audit": AuditSettings,
    "redteam": RedteamSettings,
    "probe": ProbeSettings,
    "curve": CurveSettings,
    "report": ReportSettings,
}
"""The kinds of stages with the class of their settings; for `train` it depends on the method."""


@dataclass(frozen=True, slots=True)
class StagePlan:
    """One stage of a run: its name, its kind, its method if the kind is `train`, its settings."""

    name: str
    kind: str
    settings: Settings
    method: str | None = None


def settings_class(kind: str, method: str | None = None) -> type[Settings]:
    """The settings class of a kind of stage, or of a training method. Raises KeyError."""
    entry = STAGE_SETTINGS[kind]
    return entry[method or ""] if isinstance(entry, dict) else entry


def method_summary(settings_class: type[Settings]) -> str:
    """The first sentence of a method's docstring, in lower case and without its full stop."""
    paragraph = (settings_class.__doc__ or "").partition("\n\n")[0]
    sentence = " ".join(paragraph.split()).removesuffix(".")
    return sentence[:1].lower() + sentence[1:]


def find_method(method: str) -> str:
    """`method`, if there is one of that name. Raises SettingsError, which names the nearest."""
    if method in METHOD_SETTINGS:
        return method
    raise SettingsError(
        f"There is no method {method!r}.{suggest_method(method, METHOD_SETTINGS)} "
        f"The methods are {listed(METHOD_SETTINGS)}."
    )


def single_stage(
    kind: str,
    method: str | None = None,
    *,
    config: str | Path | None = None,
    overrides: Iterable[str] = (),
) -> StagePlan:
    """A stage outside a recipe, from a YAML file and `key=value` overrides. Raises
    SettingsError."""
    where = f"train {method}" if kind == "train" else kind
    values = load_yaml(config) if config else LocatedMapping({}, source=COMMAND_LINE)
    values = apply_overrides(values, overrides)
    settings = build(settings_class(kind, method), values, where=where)
    return StagePlan(method or kind, kind, settings, method)
