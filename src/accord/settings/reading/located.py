"""Settings as they were written, with the place of every key: a file and line, or an override."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from accord.records import Source

KeyPath = tuple[str | int, ...]
"""The way to a value: keys of tables and indices of lists."""

COMMAND_LINE = Source("on the command line")


@dataclass(frozen=True, slots=True)
class LocatedMapping:
    """Plain values (dict, list, text, numbers, true, false, null) and where each was written.

    `places` maps the path of a key to its place; a path that is not in it has its parent's.
    `label` goes before a key in messages: in a recipe, the name of the stage.
    """

    values: dict[str, Any]
    places: dict[KeyPath, Source] = field(default_factory=dict)
    source: Source = field(default_factory=Source)
    label: str = ""

    def source_of(self, path: KeyPath) -> Source:
        """Where the value at `path` was written, or the nearest table around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return self.source

    def named(self, path: KeyPath) -> str:
        """The key as its author would type it on the command line, such as `dpo.lora.r`."""
        return ".".join(([self.label] if self.label else []) + [str(part) for part in path])

    def sub(self, path: KeyPath, *, label: str) -> LocatedMapping:
        """The table at `path` as settings of its own. Raises KeyError or TypeError if none is."""
        value: Any = self.values
        for part in path:
            value = value[part]
        if not isinstance(value, dict):
            raise TypeError(f"{self.named(path)} is not a table")
        places = {p[len(path) :]: s for p, s in self.places.items() if p[: len(path)] == path}
        places.pop((), None)
        return LocatedMapping(value, places, self.source_of(path), label)

    def with_value(self, path: KeyPath, value: Any, source: Source) -> LocatedMapping:
        """A copy in which `path` holds `value`; tables on the way are made where absent."""
        places = {p: s for p, s in self.places.items() if p[: len(path)] != path}
        places[path] = source
        return replace(self, values=_with(self.values, path, value), places=places)

    def without(self, path: KeyPath) -> LocatedMapping:
        """A copy that lacks the key at `path` of its outermost table."""
        (key,) = path
        values = {k: v for k, v in self.values.items() if k != key}
        places = {p: s for p, s in self.places.items() if p[:1] != path}
        return replace(self, values=values, places=places)


def located(values: LocatedMapping | Mapping[str, Any], place: str) -> LocatedMapping:
    """`values` as they are when located, or a plain mapping said to come from `place`."""
    if isinstance(values, LocatedMapping):
        return values
    return LocatedMapping(dict(values), source=Source(place))


def _with(container: Any, path: KeyPath, value: Any) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(container, list):
        if not isinstance(head, int):
            raise TypeError(f"a list has no key {head!r}")
        copy = list(container)
        copy[head] = _with(container[head], rest, value)
        return copy
    table = dict(container) if isinstance(container, dict) else {}
    table[str(head)] = _with(table.get(str(head)), rest, value)
    return table
