"""What a setting may be, in words: for error messages and for docs/settings.md."""

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
    words = words_of(field.annotation)
    bounds = [
        form.format(plain(getattr(bound, name)))
        for bound in field.metadata
        for kind, name, form in _BOUNDS
        if isinstance(bound, kind)
    ]
    if bounds:
        number, absent, rest = words.partition(", or absent")
        words = f"{number} {' and '.join(bounds)}{absent}{rest}"
    return words


def table_of(annotation: Any) -> type[Settings] | None:
    """The settings class of a nested table or of a list of tables, if the annotation has one."""
    found = tables_of(annotation)
    return found[0] if len(found) == 1 else None


def tables_of(annotation: Any) -> list[type[Settings]]:
    """The settings classes in an annotation: several where a table's `kind` says which it is."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for inner in get_args(annotation) for found in tables_of(inner)]


def kind_of(table: type[Settings]) -> str:
    """The `kind` by which a table is told from the others that may stand in its place."""
    return str(get_args(table.model_fields["kind"].annotation)[0])


def may_be_absent(annotation: Any) -> bool:
    """Whether null is a value of its own, which says that the thing is off."""
    return _is_union(annotation) and type(None) in get_args(annotation)


def default_text(field: FieldInfo) -> str | None:
    """The default as YAML would hold it, or None for a key that must be given."""
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return None
    if isinstance(value, Settings):
        return "its keys' defaults"
    return plain(value)


def plain(value: Any) -> str:
    """A value as YAML spells it."""
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list) and not value:
        return "empty"
    return str(value)


def words_of(annotation: Any) -> str:
    """A type in words, such as "a list of texts"."""
    if annotation in _PLAIN:
        return _PLAIN[annotation][0]
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return f"a table with the keys {_joined(list(annotation.model_fields), 'and')}"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return words_of(inner[0])
    if origin is Literal:
        return _joined(list(inner), "or")
    if _is_union(annotation) and len(tables_of(annotation)) > 1 and type(None) not in inner:
        kinds = [kind_of(table) for table in tables_of(annotation)]
        return f"a table whose `kind` is {_joined(kinds, 'or')}"
    if _is_union(annotation):
        words = _or([words_of(part) for part in inner if part is not type(None)])
        return f"{words}, or absent" if type(None) in inner else words
    if origin is list:
        if inner[0] in _PLAIN:
            return f"a list of {_PLAIN[inner[0]][1]}"
        return f"a list whose entries are each {words_of(inner[0])}"
    if origin is dict and inner[1] is Any:
        return "a table"
    if origin is dict:
        return f"a table whose values are each {words_of(inner[1])}"
    return str(annotation)


def _or(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} or {parts[-1]}"


def _joined(values: list[Any], word: str) -> str:
    quoted = [f"`{value}`" for value in values]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {word} {quoted[-1]}"


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, types.UnionType)
