"""From what was written to checked settings; each error tells key, value, place and remedy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os.path import expanduser
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from accord.errors import SettingsError
from accord.records import Source
from accord.settings.base import Settings
from accord.settings.reading.aliases import translate
from accord.settings.reading.allowed import (
    allowed,
    default_text,
    kind_of,
    table_of,
    tables_of,
    words_of,
)
from accord.settings.reading.located import COMMAND_LINE, KeyPath, LocatedMapping, located
from accord.settings.reading.suggest import listed, nearest, unknown_key
from accord.settings.reading.yaml_lines import load_yaml, parse_value

__all__ = ["apply_overrides", "build", "load_yaml", "parse_override"]

S = TypeVar("S", bound=Settings)


def build(settings_class: type[S], values: LocatedMapping | Mapping[str, Any], *, where: str) -> S:
    """The settings that `values` say; `where` names the stage in messages, such as "train dpo".

    Nothing is coerced: "3" is not 3, and true is not 1; a whole number serves as a number.
    A text that begins with `~/` is taken as a path in the home folder.
    Raises SettingsError, which tells every problem found and not only the first.
    """
    given, problems = translate(settings_class, located(values, where))
    try:
        settings = settings_class.model_validate(_at_home(given.values), strict=True)
    except ValidationError as error:
        problems += _told(settings_class, given, error, where)
    if problems:
        if len(problems) == 1:
            raise SettingsError(f"{where}: {problems[0]}")
        numbered = " ".join(f"({i}) {problem}" for i, problem in enumerate(problems, 1))
        raise SettingsError(f"{where}: {len(problems)} problems. {numbered}")
    return settings


def apply_overrides(
    values: LocatedMapping | Mapping[str, Any], overrides: Iterable[str]
) -> LocatedMapping:
    """`values` with each `key=value` of the command line put in place of what they held.

    A key may reach into a table (`lora.r=8`) or a list (`contestants.0.name=base`).
    Raises SettingsError for an override that is malformed, given twice or leads nowhere.
    """
    result = located(values, "settings")
    seen: set[KeyPath] = set()
    for text in overrides:
        path, value = parse_override(text)
        result = override(result, path, value, text=text, seen=seen)
    return result


def parse_override(text: str) -> tuple[tuple[str, ...], Any]:
    """`lora.r=8` as (("lora", "r"), 8); the value is read as YAML. Raises SettingsError."""
    key, equals, value = text.partition("=")
    parts = tuple(part.strip() for part in key.split("."))
    if not equals or not all(parts):
        raise SettingsError(
            f"{text!r} on the command line is not a setting. Write key=value, such as "
            "max_steps=100 or lora.r=8, without blanks around the equals sign."
        )
    if not value.strip():
        raise SettingsError(
            f"{text!r} on the command line has no value. "
            f"Write {key}=null to leave the setting out, or {key}='\"\"' for an empty text."
        )
    return parts, parse_value(value, place=f"{text!r} on the command line")


def override(
    values: LocatedMapping, path: tuple[str, ...], value: Any, *, text: str, seen: set[KeyPath]
) -> LocatedMapping:
    """`values` with `value` at `path`, where a number picks an entry of a list."""
    steps: list[str | int] = []
    container: Any = values.values
    for part in path:
        if isinstance(container, list):
            if not part.isdecimal() or int(part) >= len(container):
                raise SettingsError(
                    f"{text!r} on the command line leads nowhere: "
                    f"`{values.named(tuple(steps))}` is a list of {len(container)}. "
                    f"Write a number from 0 to {len(container) - 1} in place of {part!r}."
                )
            steps.append(int(part))
            container = container[int(part)]
            continue
        if container is not None and not isinstance(container, dict | bool):
            raise SettingsError(
                f"{text!r} on the command line leads nowhere: `{values.named(tuple(steps))}` is "
                f"{container!r} ({values.source_of(tuple(steps))}) and has no keys. "
                f"Set `{values.named(tuple(steps))}` itself."
            )
        steps.append(part)
        container = container.get(part) if isinstance(container, dict) else None
    where = tuple(steps)
    if any(where[: len(other)] == other for other in seen):
        raise SettingsError(
            f"`{values.named(where)}` is set twice on the command line, the second time by "
            f"{text!r}. Keep one of the two."
        )
    seen.add(where)
    return values.with_value(where, value, COMMAND_LINE)


def _at_home(value: Any) -> Any:
    if isinstance(value, str):
        return expanduser(value) if value.startswith("~/") else value
    if isinstance(value, list):
        return [_at_home(each) for each in value]
    if isinstance(value, dict):
        return {key: _at_home(each) for key, each in value.items()}
    return value


def _told(
    settings_class: type[Settings], given: LocatedMapping, error: ValidationError, where: str
) -> list[str]:
    """A sentence a problem, alternatives of a union told once.

    Unknown keys come first: a wrong name is often why another key is missing.
    """
    told: dict[KeyPath, str] = {}
    problems = error.errors(include_url=False)
    for problem in sorted(problems, key=lambda each: each["type"] != "extra_forbidden"):
        path = _path_in(given.values, problem["loc"], problem["type"])
        if path in told:
            continue
        name, source = given.named(path), given.source_of(path)
        owner, field = _field_at(settings_class, path, given.values)
        if problem["type"] == "extra_forbidden":
            inside = f"`{given.named(path[:-1])}`" if len(path) > 1 else where
            told[path] = (
                f"`{name}` is not a key ({source}). "
                f"{unknown_key(owner, str(path[-1]), where=inside)}"
            )
        elif problem["type"] == "missing":
            sentence = f" {field.description}" if field and field.description else ""
            told[path] = (
                f"`{name}` is missing ({source}).{sentence} "
                f"Add `{path[-1]}: …`, or {name}=… on the command line."
            )
        elif field is not None and problem["type"].startswith("union_tag"):
            told[path] = _no_kind(name, source, field, problem["input"])
        elif field is None or problem["type"] in ("value_error", "assertion_error"):
            message = problem["msg"].removeprefix("Value error, ")
            told[path] = f"`{name}`: {message} ({source})." if path else f"{message} ({source})."
        else:
            value = problem["input"]
            told[path] = (
                f"`{name}` must be {_what(owner, field, path, given)}, "
                f"not {_quoted(value)} ({source})."
                f"{_remedy(field, value, problem['type'])}"
            )
    return list(told.values())


def _no_kind(name: str, source: Source, field: FieldInfo, table: dict[str, Any]) -> str:
    """A table of which nobody knows what it is."""
    kinds = [kind_of(each) for each in tables_of(field.annotation)]
    if "kind" not in table:
        return f"`{name}.kind` is missing ({source}). The kinds are {listed(kinds)}."
    said = table["kind"]
    near = nearest(said, kinds) if isinstance(said, str) else None
    meant = f"Did you mean `{near}`?" if near else f"The kinds are {listed(kinds)}."
    return f"`{name}.kind` is {_quoted(said)} ({source}), which is none. {meant}"


def _path_in(values: Any, location: tuple[str | int, ...], kind: str) -> KeyPath:
    """The location without pydantic's names of union members: what leads through the values."""
    path: list[str | int] = []
    for part in location:
        if isinstance(values, dict | list) and _has(values, part):
            values = values[part]  # type: ignore[index]
        elif isinstance(values, dict) and part == values.get("kind"):
            continue  # pydantic's name of the union's member
        elif kind != "missing" or part != location[-1]:
            break
        path.append(part)
    return tuple(path)


def _has(container: dict[str, Any] | list[Any], part: str | int) -> bool:
    if isinstance(container, dict):
        return part in container
    return isinstance(part, int) and part < len(container)


def _field_at(
    settings_class: type[Settings], path: KeyPath, values: Any
) -> tuple[type[Settings], FieldInfo | None]:
    """The class that holds the last key of `path`, and the field that the value belongs to."""
    owner, field = settings_class, None
    for part in path:
        if field is not None and isinstance(part, str):
            table = _table_at(field, values)
            if table is None:
                return owner, field
            owner = table
        if isinstance(part, str):
            field = owner.model_fields.get(part)
        there = isinstance(values, dict | list) and _has(values, part)
        values = values[part] if there else None
    return owner, field


def _table_at(field: FieldInfo, value: Any) -> type[Settings] | None:
    """The class of a table; where there are several, the one of its `kind`."""
    tables = tables_of(field.annotation)
    if len(tables) == 1:
        return tables[0]
    kind = value.get("kind") if isinstance(value, dict) else None
    return next((table for table in tables if kind_of(table) == kind), None)


def _what(owner: type[Settings], field: FieldInfo, path: KeyPath, given: LocatedMapping) -> str:
    """What may stand at `path`: the field itself, or an entry of the list or table it holds."""
    if owner.model_fields.get(str(path[-1])) is field:
        return allowed(field)
    table = table_of(field.annotation)
    if table:
        return words_of(table)
    return f"such as `{given.named(path[:-1])}` allows ({allowed(field)})"


def _quoted(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _remedy(field: FieldInfo, value: Any, kind: str) -> str:
    if kind == "string_type" and isinstance(value, bool | int | float):
        return (
            f' Put the word in quotes in YAML ("{str(value).lower()}"); yes, no, on and off '
            "without quotes are true and false."
            if isinstance(value, bool)
            else f' Put it in quotes: "{value}" in a file, \'"{value}"\' on the command line.'
        )
    if kind in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        number = _number(value)
        if number is not None:
            return f" Write it without quotes: {number}."
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return f" Write {int(value)}."
    default = default_text(field)
    return f" Leave it out for the default, {default}." if default is not None else ""


def _number(text: str) -> str | None:
    try:
        float(text)
    except ValueError:
        return None
    return text.strip()
