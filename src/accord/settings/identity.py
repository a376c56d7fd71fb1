"""What identifies a stage's work: the settings that change its result, and the paths it reads.

Both follow from the marks in the settings' annotations (see `accord.settings.base`). They work on
plain values as well as on settings, since stage.json and checkpoints hold plain values.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from accord.settings.base import (
    InputCode,
    InputPath,
    MayGrow,
    NotIdentity,
    Settings,
    SettingsTable,
    UnlessDefault,
    has_mark,
)
from accord.settings.reading.allowed import table_class


def identity_settings(settings: Settings) -> dict[str, Any]:
    """The settings that change the result, as JSON values.

    Equal dicts mean equal work on equal inputs. The dict of given settings never changes between
    versions of accord, or every finished stage would run again.
    """
    return identity_values(settings.model_dump(mode="json"), type(settings))


def identity_values(values: Mapping[str, Any], settings_class: type[Settings]) -> dict[str, Any]:
    """`identity_settings` for the plain values of settings of a class, such as a checkpoint's.

    Keys that the class does not know are retained: a setting that only another version has must
    not be ignored in a comparison.
    """
    fields = settings_class.model_fields
    conditional = settings_class.conditional_identity(values)
    identity = {
        key: _nested_identity(value, fields.get(key))
        for key, value in values.items()
        if (key in conditional or not has_mark(fields.get(key), NotIdentity))
        and not _is_new_and_default(value, fields.get(key))
    }
    return {**identity, **settings_class.REMOVED}


def _is_new_and_default(value: Any, field: FieldInfo | None) -> bool:
    return field is not None and has_mark(field, UnlessDefault) and value == field.default


def _nested_identity(value: Any, field: FieldInfo | None) -> Any:
    if isinstance(value, list):
        return [_nested_identity(item, field) for item in value]
    table = _table_at(value, field)
    return value if table is None else identity_values(value, table)


def input_paths(settings: Settings) -> list[str]:
    """The files, folders and hub names that the settings name as inputs, in nested tables too.

    Whether something lies at a path is not checked. The code of a `python` reward is given as the
    path of its file.
    """
    return list(find_input_paths(settings.model_dump(mode="json"), type(settings)))


def find_input_paths(values: Mapping[str, Any], settings_class: type[Settings]) -> Iterator[str]:
    """`input_paths` for the plain values of settings of a class, such as a record's."""
    for key, value in values.items():
        field = settings_class.model_fields.get(key)
        for item in _items(value, field):
            table = _table_at(item, field)
            if table is not None:
                yield from find_input_paths(item, table)
            elif isinstance(item, str) and has_mark(field, InputCode):
                yield _code_file(item.partition(":")[0])
            elif isinstance(item, str) and has_mark(field, InputPath):
                yield item


def _items(value: Any, field: FieldInfo | None) -> list[Any]:
    """What a setting may name paths by: the items of a list, the values of a plain table."""
    if isinstance(value, dict) and has_mark(field, InputPath) and _table_at(value, field) is None:
        return list(value.values())
    return value if isinstance(value, list) else [value]


def _table_at(value: Any, field: FieldInfo | None) -> type[Settings] | None:
    """The settings class of a nested table; None where `value` is no table of settings."""
    if field is None or not isinstance(value, Mapping):
        return None
    for mark in field.metadata:
        if isinstance(mark, SettingsTable):
            return mark.classes.get(value.get(mark.key, ""))
    return table_class(field, value)


def _code_file(module: str) -> str:
    """The file of a module, given as its name or as the file itself."""
    if Path(module).suffix == ".py":
        return module
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return module  # the error is reported when the module is imported
    return (spec and spec.origin) or module


def growing_keys(settings: Settings) -> list[str]:
    """The settings that may grow after the stage is finished."""
    fields = type(settings).model_fields
    return [key for key, field in fields.items() if has_mark(field, MayGrow)]
