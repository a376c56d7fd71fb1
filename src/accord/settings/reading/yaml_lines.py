"""A YAML reader that records the line of each key, never drops a value, and reads `1e-5`.

Plain scalars follow these rules, a subset of YAML 1.1 and 1.2 that avoids their traps:
- `1e-5` and `1E5` are numbers (YAML 1.1 reads them as text);
- `true`, `false`, `yes`, `no`, `on`, `off` are true and false;
- `1:30`, `2024-01-01` and `007` are text (in YAML 1.1 they are 90, a date and 7);
- a key given twice in one table is an error (most readers silently use the last).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from accord.errors import SettingsError
from accord.records import Source
from accord.settings.reading.located import KeyPath, LocatedMapping

_MAX_NODES = 100_000
_DIGITS = r"[0-9](?:_?[0-9])*"
_FLOAT = rf"""[-+]?(?:(?:{_DIGITS}\.(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?
    |{_DIGITS}[eE][-+]?[0-9]+|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"""
_PREFIX = "tag:yaml.org,2002:"
_RESOLVERS: tuple[tuple[str, str, list[str | None]], ...] = (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", []),
    ("null", r"~|null|Null|NULL|", []),
    ("int", r"[-+]?(?:0|[1-9](?:_?[0-9])*|0x[0-9a-fA-F]+)", []),
    ("float", _FLOAT, []),
    ("merge", r"<<", []),
)
_SCALARS = frozenset(_PREFIX + kind for kind in ("str", "bool", "null", "int", "float"))


class _Loader(yaml.SafeLoader):
    """The safe loader with the resolvers above in place of YAML 1.1's."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own attribute


for _kind, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(
        _PREFIX + _kind, re.compile(f"^(?:{_pattern})$", re.VERBOSE), _first or [None]
    )


def load_yaml(path: str | Path) -> LocatedMapping:
    """The table in a YAML file, with the line of each key; an empty file is an empty table.

    Raises SettingsError with file and line: no such file, not UTF-8, not YAML, a key given twice,
    a key that is not text, a tag other than plain data, or anything but a table at the top.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise SettingsError(
            f"There is no settings file {str(path)!r}. Check the name and the current folder."
        ) from None
    except IsADirectoryError:
        raise SettingsError(
            f"{str(path)!r} is a folder, not a YAML file. Name the file in it."
        ) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise SettingsError(
            f"{path}:{line} holds a byte that is not UTF-8. Save the file as UTF-8."
        ) from None
    except OSError as error:
        raise SettingsError(
            f"{path} can't be read: {error.strerror}. Check the file's rights."
        ) from None
    return read_yaml(text, source=str(path))


def read_yaml(text: str, *, source: str) -> LocatedMapping:
    """As `load_yaml`, for text from `source`."""
    value, sources = _read(text, source)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        shown = "a list" if isinstance(value, list) else repr(value)
        raise SettingsError(
            f"{source}:1 must hold keys and values such as `seed: 1`, not {shown}. "
            "Write one `key: value` a line."
        )
    return LocatedMapping(value, sources, Source(source))


def parse_value(text: str, *, source: str) -> Any:
    """One YAML value, as after `key=` on the command line. Raises SettingsError."""
    value, _ = _read(text, source, numbered=False)
    comment = re.search(r"(?:^|\s)#", text)
    if comment and not re.search(r"[\"'{\[]", text[: comment.start()]):
        raise SettingsError(
            f"{source}: YAML takes {text[comment.start() :].strip()!r} for a comment and would "
            "drop it. Put the value in quotes inside the shell's quotes."
        )
    return value


def _read(text: str, source: str, *, numbered: bool = True) -> tuple[Any, dict[KeyPath, Source]]:
    """The value of a YAML text and the source of each path in it; messages name the line if
    `numbered`. Raises SettingsError."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                return None, {}
            builder = _Builder(loader, source)
            value = builder.value(root, ())
            json.dumps([value, list(map(str, builder.sources))], ensure_ascii=False).encode()
            return value, builder.sources
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source}:{mark.line + 1}" if mark and numbered else source
        problem = error.problem or error.context or "the text can't be read"
        raise SettingsError(f"{where} is not YAML: {problem}. {_remedy(problem)}") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise SettingsError(f"{source} is not YAML: {problem}. Save it as plain text.") from None
    except UnicodeEncodeError:
        raise SettingsError(
            f"{source} holds half a character (such as \\ud800). Write the whole character."
        ) from None
    except RecursionError:
        raise SettingsError(f"{source} is nested too deep. Flatten it.") from None


def _remedy(problem: str) -> str:
    if "\\t" in problem or "tab" in problem:
        return "Indent with spaces; YAML does not allow tabs."
    if "another document" in problem:
        return "Keep one document a file: remove what follows `---`."
    if "could not determine a constructor" in problem:
        return "Remove the tag (`!…`): only plain text, numbers, lists and tables are read."
    return "Check the indentation, the colons and the quotes of this line and the one above it."


class _Builder:
    """Builds plain values from YAML nodes and records the line of each key."""

    def __init__(self, loader: _Loader, source_name: str) -> None:
        self.loader = loader
        self.source_name = source_name
        self.sources: dict[KeyPath, Source] = {}
        self.open_nodes: set[int] = set()
        self.num_nodes = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.num_nodes += 1
        if self.num_nodes > _MAX_NODES or id(node) in self.open_nodes:
            raise self.error(
                node,
                "holds an anchor that contains itself, or expands to too many values",
                "Write the values out.",
            )
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        self.open_nodes.add(id(node))
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            result: Any = self.table(node, path)
        elif isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            result = []
            for i, child in enumerate(node.value):
                self.sources[(*path, i)] = self.source(child)
                result.append(self.value(child, (*path, i)))
        else:
            raise self.error(node, f"has the tag {node.tag!r}", "Write a plain list or table.")
        self.open_nodes.discard(id(node))
        return result

    def scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix(_PREFIX)
        try:
            if kind == "float" and not node.value.lstrip("+-").startswith((".i", ".I", ".n", ".N")):
                return float(node.value)
            if kind == "int":
                return int(node.value, 0)
        except ValueError:
            raise self.error(node, "holds a number that can't be read", "Write digits.") from None
        if node.tag not in _SCALARS and kind != "merge":
            raise self.error(
                node, f"has the tag {node.tag!r}", "Only plain text and numbers are read."
            )
        return "<<" if kind == "merge" else self.loader.construct_object(node, deep=True)

    def table(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        lines: dict[str, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == _PREFIX + "merge":
                continue
            key = self.key(key_node)
            if key in lines:
                raise self.error(
                    key_node,
                    f"gives the key {key!r} a second time (first on line {lines[key]})",
                    "Keep one of the two.",
                )
            lines[key] = key_node.start_mark.line + 1
        self.loader.flatten_mapping(node)  # `<<: *anchor`; the table's own keys come last and win
        table: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.key(key_node)
            self.sources = (
                {p: s for p, s in self.sources.items() if p[: len(path) + 1] != (*path, key)}
                if key in table
                else self.sources
            )
            self.sources[(*path, key)] = self.source(key_node)
            table[key] = self.value(value_node, (*path, key))
        return table

    def key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(node, "has a list or table as a key", "Write a name.")
        key = self.scalar(node)
        if not isinstance(key, str):
            raise self.error(
                node,
                f"has the key {node.value!r}, which YAML reads as {key!r}",
                "Put it in quotes.",
            )
        return key

    def source(self, node: yaml.Node) -> Source:
        return Source(self.source_name, node.start_mark.line + 1)

    def error(self, node: yaml.Node, problem: str, remedy: str) -> SettingsError:
        return SettingsError(f"{self.source(node)} {problem}. {remedy}")
