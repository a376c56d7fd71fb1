"""The settings of `accord advise` from a YAML file and the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from accord.settings.advise import AdviseSettings
from accord.settings.reading.load import apply_overrides, build, load_yaml
from accord.settings.reading.located import COMMAND_LINE, LocatedMapping


def read_advise_settings(config: str | Path | None, arguments: Sequence[str]) -> AdviseSettings:
    """The settings; arguments without `=` are files of data, and so is what other commands take as
    `dataset=…`. Raises SettingsError."""
    files = [text.removeprefix("dataset=") for text in arguments if _is_data(text)]
    overrides = [text for text in arguments if not _is_data(text)]
    values = load_yaml(config) if config else LocatedMapping({}, source=COMMAND_LINE)
    if files:
        overrides = [f"data={json.dumps(files)}", *overrides]
    return build(AdviseSettings, apply_overrides(values, overrides), where="advise")


def _is_data(argument: str) -> bool:
    return "=" not in argument or argument.startswith("dataset=")
