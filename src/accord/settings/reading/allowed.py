"""The allowed values of a setting in words: for error messages and for docs/settings.md."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from accord.settings.base import Settings, Verbatim

_PLAIN: dict[Any, tuple[str, str]] = {
    str: ("text", "texts"),
    Verbatim: ("text that is not empty", "texts that are not empty"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
}
_BOUNDS: tuple[tuple[type, str, str], ...] = (
    (annotated_types.Ge, "ge", "at least {}"),
    (annotated_types.Gt, "gt", "greater than {}"),
    (annotated_types.Le, "le", "at most {}"),
    (annotated_types.Lt, "lt", "less than {}"),
)


def allowed(field: FieldInfo) -> str:
    """Such as "a number greater than 0", "`linear` or `cosine`", "a list of texts, or absent"."""
    words = type_in_words(field.annotation)
    bounds = [
        template.format(yaml_text(getattr(bound, name)))
        for bound in field.metadata
        for kind, name, template in _BOUNDS
        if isinstance(bound, kind)
    ]
    if bounds:
        number, absent, rest = words.partition(", or absent")
        words = f"{number} {' and '.join(bounds)}{absent}{rest}"
    return words


def table_of(annotation: Any) -> type[Settings] | None:
    """The settings class of a nested table or of a list of tables, if the annotation has one."""
    tables = tables_of(annotation)
    return tables[0] if len(tables) == 1 else None


def tables_of(annotation: Any) -> list[type[Settings]]:
    """The settings classes in an annotation: several if a table's `kind` selects the class."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [table for inner in get_args(annotation) for table in tables_of(inner)]


def table_class(field: FieldInfo, value: Any) -> type[Settings] | None:
    """The class of the table `value`, in a field that holds a table or a list of tables.

    Of several classes it is the one of the table's `kind`. None where there is no such class.
    """
    tables = tables_of(field.annotation)
    if len(tables) == 1:
        return tables[0]
    kind = value.get("kind") if isinstance(value, dict) else None
    return next((table for table in tables if kind_of(table) == kind), None)


def kind_of(table: type[Settings]) -> str:
    """The value of `kind` that selects this class among several."""
    return str(get_args(table.model_fields["kind"].annotation)[0])


def may_be_absent(annotation: Any) -> bool:
    """Whether null is an allowed value, which turns the setting off."""
    return _is_union(annotation) and type(None) in get_args(annotation)


def default_text(field: FieldInfo) -> str | None:
    """The default in YAML, or None for a required key."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return None
    if isinstance(value, Settings):
        return "its keys' defaults"
    return yaml_text(value)


def yaml_text(value: Any) -> str:
    """A value in YAML."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list) and not value:
        return "empty"
    return str(value)


def type_in_words(annotation: Any) -> str:
    """A type in words, such as "a list of texts"."""
    if annotation in _PLAIN:
        return _PLAIN[annotation][0]
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return f"a table with the keys {_joined(list(annotation.model_fields), 'and')}"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_in_words(inner[0])
    if origin is Literal:
        return _joined(list(inner), "or")
    if _is_union(annotation) and len(tables_of(annotation)) > 1 and type(None) not in inner:
        kinds = [kind_of(table) for table in tables_of(annotation)]
        return f"a table whose `kind` is {_joined(kinds, 'or')}"
    if _is_union(annotation):
        words = _or([type_in_words(part) for part in inner if part is not type(None)])
        return f"{words}, or absent" if type(None) in inner else words
    if origin is list:
        if inner[0] in _PLAIN:
            return f"a list of {_PLAIN[inner[0]][1]}"
        return f"a list whose entries are each {type_in_words(inner[0])}"
    if origin is dict and inner[1] is Any:
        return "a table"
    if origin is dict:
        return f"a table whose values are each {type_in_words(inner[1])}"
    return str(annotation)


def _or(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _joined(values: list[Any], word: str) -> str:
    quoted = [f"`{value}`" for value in values]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {word} {quoted[-1]}"


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)
