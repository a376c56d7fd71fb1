"""From written values to checked settings; each error names key, value, source and remedy."""

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
    table_class,
    table_of,
    tables_of,
    type_in_words,
)
from accord.settings.reading.foreign import FOREIGN_VALUES
from accord.settings.reading.located import COMMAND_LINE, KeyPath, LocatedMapping, located
from accord.settings.reading.suggest import did_you_mean, listed, unknown_key
from accord.settings.reading.yaml_lines import load_yaml, parse_value

__all__ = ["apply_overrides", "build", "load_yaml", "parse_override"]

S = TypeVar("S", bound=Settings)


def build(settings_class: type[S], values: LocatedMapping | Mapping[str, Any], *, where: str) -> S:
    """The settings with these values; `where` names the stage in messages, such as "train dpo".

    Nothing is coerced: "3" is not 3, and true is not 1; but a whole number is accepted for a
    number. A text that begins with `~/` is a path in the home folder.
    Raises SettingsError, which lists all problems and not only the first.
    """
    written, problems = translate(settings_class, located(values, where))
    try:
        settings = settings_class.model_validate(_expand_home(written.values), strict=True)
    except ValidationError as error:
        problems += _describe_problems(settings_class, written, error, where)
    if problems:
        if len(problems) == 1:
            raise SettingsError(f"{where}: {problems[0]}")
        numbered = " ".join(f"({i}) {problem}" for i, problem in enumerate(problems, 1))
        raise SettingsError(f"{where}: {len(problems)} problems. {numbered}")
    return settings


def apply_overrides(
    values: LocatedMapping | Mapping[str, Any], overrides: Iterable[str]
) -> LocatedMapping:
    """`values` with the value of each `key=value` of the command line.

    A key may reach into a table (`lora.r=8`) or a list (`contestants.0.name=base`).
    Raises SettingsError for an override that is malformed, given twice or leads nowhere.
    """
    result = located(values, "settings")
    overridden: set[KeyPath] = set()
    for text in overrides:
        path, value = parse_override(text)
        result = override(result, path, value, text=text, overridden=overridden)
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
    return parts, parse_value(value, source=f"{text!r} on the command line")


def override(
    values: LocatedMapping,
    path: tuple[str, ...],
    value: Any,
    *,
    text: str,
    overridden: set[KeyPath],
) -> LocatedMapping:
    """`values` with `value` at `path`, where a number is the index of a list.

    `text` is the override as written, for messages. The path is added to `overridden`, the paths
    of earlier overrides. Raises SettingsError.
    """
    steps: list[str | int] = []
    container: Any = values.values
    for part in path:
        if isinstance(container, list):
            if not part.isdecimal() or int(part) >= len(container):
                raise SettingsError(
                    f"{text!r} on the command line leads nowhere: "
                    f"`{values.key_name(tuple(steps))}` is a list of {len(container)}. "
                    f"Write a number from 0 to {len(container) - 1} in place of {part!r}."
                )
            steps.append(int(part))
            container = container[int(part)]
            continue
        if container is not None and not isinstance(container, dict | bool):
            raise SettingsError(
                f"{text!r} on the command line leads nowhere: `{values.key_name(tuple(steps))}` is "
                f"{container!r} ({values.source_of(tuple(steps))}) and has no keys. "
                f"Set `{values.key_name(tuple(steps))}` itself."
            )
        steps.append(part)
        container = container.get(part) if isinstance(container, dict) else None
    target = tuple(steps)
    if any(target[: len(earlier)] == earlier for earlier in overridden):
        raise SettingsError(
            f"`{values.key_name(target)}` is set twice on the command line, the second time by "
            f"{text!r}. Keep one of the two."
        )
    overridden.add(target)
    return values.with_value(target, value, COMMAND_LINE)


def _expand_home(value: Any) -> Any:
    if isinstance(value, str):
        return expanduser(value) if value.startswith("~/") else value
    if isinstance(value, list):
        return [_expand_home(each) for each in value]
    if isinstance(value, dict):
        return {key: _expand_home(each) for key, each in value.items()}
    return value


def _describe_problems(
    settings_class: type[Settings], written: LocatedMapping, error: ValidationError, where: str
) -> list[str]:
    """One sentence for each problem; the problems of all alternatives of a union are one.

    Unknown keys come first: a wrong name is often why another key is missing.
    """
    sentences: dict[KeyPath, str] = {}
    problems = error.errors(include_url=False)
    for problem in sorted(problems, key=lambda each: each["type"] != "extra_forbidden"):
        path = _path_in(written.values, problem["loc"], problem["type"])
        if path in sentences:
            continue
        name, source = written.key_name(path), written.source_of(path)
        owner, field = _field_at(settings_class, path, written.values)
        if problem["type"] == "extra_forbidden":
            inside = f"`{written.key_name(path[:-1])}`" if len(path) > 1 else where
            sentences[path] = (
                f"`{name}` is not a key ({source}). "
                f"{unknown_key(owner, str(path[-1]), where=inside)}"
            )
        elif problem["type"] == "missing":
            description = f" {field.description}" if field and field.description else ""
            sentences[path] = (
                f"`{name}` is missing ({source}).{description} "
                f"Add `{path[-1]}: …`, or {name}=… on the command line."
            )
        elif field is not None and problem["type"].startswith("union_tag"):
            sentences[path] = _describe_unknown_kind(name, source, field, problem["input"])
        elif field is None or problem["type"] in ("value_error", "assertion_error"):
            message = problem["msg"].removeprefix("Value error, ")
            sentences[path] = (
                f"`{name}`: {message} ({source})." if path else f"{message} ({source})."
            )
        else:
            value = problem["input"]
            sentences[path] = (
                f"`{name}` must be {_allowed_at(path, owner, field, written)}, "
                f"not {_quoted(value)} ({source})."
                f"{_remedy(str(path[-1]), field, value, problem['type'])}"
            )
    return list(sentences.values())


def _describe_unknown_kind(
    name: str, source: Source, field: FieldInfo, table: dict[str, Any]
) -> str:
    """The problem of a table whose `kind` is missing or unknown."""
    kinds = [kind_of(each) for each in tables_of(field.annotation)]
    if "kind" not in table:
        return f"`{name}.kind` is missing ({source}). The kinds are {listed(kinds)}."
    kind = table["kind"]
    suggestion = did_you_mean(kind, kinds) if isinstance(kind, str) else ""
    remedy = suggestion or f" The kinds are {listed(kinds)}."
    return f"`{name}.kind` is {_quoted(kind)} ({source}), which is none.{remedy}"


def _path_in(values: Any, location: tuple[str | int, ...], problem_type: str) -> KeyPath:
    """pydantic's location of a problem as a path in `values`, without the names of union members
    that pydantic adds."""
    path: list[str | int] = []
    for part in location:
        if isinstance(values, dict | list) and _has(values, part):
            values = values[part]  # type: ignore[index]
        elif isinstance(values, dict) and part == values.get("kind"):
            continue  # pydantic's name of the union's member
        elif problem_type != "missing" or part != location[-1]:
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
    """The class that has the last key of `path`, and the field that the value belongs to."""
    owner, field = settings_class, None
    for part in path:
        if field is not None and isinstance(part, str):
            table = table_class(field, values)
            if table is None:
                return owner, field
            owner = table
        if isinstance(part, str):
            field = owner.model_fields.get(part)
        exists = isinstance(values, dict | list) and _has(values, part)
        values = values[part] if exists else None
    return owner, field


def _allowed_at(
    path: KeyPath, owner: type[Settings], field: FieldInfo, written: LocatedMapping
) -> str:
    """The allowed values at `path`: of the field itself, or of an entry of its list or table."""
    if owner.model_fields.get(str(path[-1])) is field:
        return allowed(field)
    table = table_of(field.annotation)
    if table:
        return type_in_words(table)
    return f"such as `{written.key_name(path[:-1])}` allows ({allowed(field)})"


def _quoted(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _remedy(key: str, field: FieldInfo, value: Any, problem_type: str) -> str:
    if problem_type == "literal_error" and (key, str(value)) in FOREIGN_VALUES:
        return f" TRL's is {FOREIGN_VALUES[key, str(value)]} here."
    if problem_type == "string_type" and isinstance(value, bool | int | float):
        return (
            f' Put the word in quotes in YAML ("{str(value).lower()}"); yes, no, on and off '
            "without quotes are true and false."
            if isinstance(value, bool)
            else f' Put it in quotes: "{value}" in a file, \'"{value}"\' on the command line.'
        )
    if problem_type in ("int_type", "float_type", "bool_type") and isinstance(value, str):
        number = _number(value)
        if number is not None:
            return f" Write it without quotes: {number}."
    if problem_type == "int_type" and isinstance(value, float) and value.is_integer():
        return f" Write {int(value)}."
    default = default_text(field)
    return f" Leave it out for the default, {default}." if default is not None else ""


def _number(text: str) -> str | None:
    try:
        float(text)
    except ValueError:
        return None
    return text.strip()
