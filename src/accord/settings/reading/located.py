"""Settings as written, with the source of every key: a file and line, or the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from accord.records import Source

KeyPath = tuple[str | int, ...]
"""The path to a value: keys of tables and indices of lists."""

COMMAND_LINE = Source("on the command line")


@dataclass(frozen=True, slots=True)
class LocatedMapping:
    """Plain values (dict, list, text, numbers, true, false, null) with the source of each.

    `sources` maps the path of a key to its source; a path that is not in it has its parent's.
    `label` precedes a key in messages: in a recipe, the name of the stage.
    """

    values: dict[str, Any]
    sources: dict[KeyPath, Source] = field(default_factory=dict)
    source: Source = field(default_factory=Source)
    label: str = ""

    def source_of(self, path: KeyPath) -> Source:
        """The source of the value at `path`, or else of the innermost table around it."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.sources:
                return self.sources[path[:end]]
        return self.source

    def key_name(self, path: KeyPath) -> str:
        """The key as typed on the command line, such as `dpo.lora.r`."""
        return ".".join(([self.label] if self.label else []) + [str(part) for part in path])

    def sub(self, path: KeyPath, *, label: str) -> LocatedMapping:
        """The table at `path` as a mapping. Raises KeyError or TypeError if there is none."""
        value: Any = self.values
        for part in path:
            value = value[part]
        if not isinstance(value, dict):
            raise TypeError(f"{self.key_name(path)} is not a table")
        sources = {p[len(path) :]: s for p, s in self.sources.items() if p[: len(path)] == path}
        sources.pop((), None)
        return LocatedMapping(value, sources, self.source_of(path), label)

    def with_value(self, path: KeyPath, value: Any, source: Source) -> LocatedMapping:
        """A copy with `value` at `path`; missing tables on the way are created."""
        sources = {p: s for p, s in self.sources.items() if p[: len(path)] != path}
        sources[path] = source
        return replace(self, values=_with_value(self.values, path, value), sources=sources)

    def without(self, path: KeyPath) -> LocatedMapping:
        """A copy that lacks the key at `path` of its outermost table."""
        (key,) = path
        values = {k: v for k, v in self.values.items() if k != key}
        sources = {p: s for p, s in self.sources.items() if p[:1] != path}
        return replace(self, values=values, sources=sources)


def located(values: LocatedMapping | Mapping[str, Any], source: str) -> LocatedMapping:
    """`values`, if they are a LocatedMapping; else a LocatedMapping of them with this source."""
    if isinstance(values, LocatedMapping):
        return values
    return LocatedMapping(dict(values), source=Source(source))


def _with_value(container: Any, path: KeyPath, value: Any) -> Any:
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(container, list):
        if not isinstance(head, int):
            raise TypeError(f"a list has no key {head!r}")
        copy = list(container)
        copy[head] = _with_value(container[head], rest, value)
        return copy
    table = dict(container) if isinstance(container, dict) else {}
    table[str(head)] = _with_value(table.get(str(head)), rest, value)
    return table
