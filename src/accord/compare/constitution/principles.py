"""The principles of a constitution: from YAML, from the instruction files of Bai et al. (2022), or
by the name of one that comes with accord."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accord.errors import SettingsError
from accord.records import Source
from accord.settings.reading.suggest import did_you_mean, listed
from accord.settings.reading.yaml_lines import load_yaml

log = logging.getLogger(__name__)

_KEYS = ("id", "text", "weight", "critique", "revision")
_INSTRUCTION_KEYS = ("prompt", "edit_request")
_FORMS = (
    "a YAML list under `principles`, or one of the JSON files of Constitutional AI: a table of "
    "names with `prompt` and `edit_request`, or a list of texts"
)


@dataclass(frozen=True, slots=True)
class Principle:
    """A principle of a rubric or constitution. Weights are shown to a judge where they differ.

    `critique` asks for a critique of a response by it, and `revision` for a response that mends
    what the critique found; empty where the file has none. Its `id` is then its number.
    """

    text: str
    weight: float = 1.0
    id: str = ""
    critique: str = ""
    revision: str = ""


def shipped_constitutions() -> dict[str, Path]:
    """The files of the constitutions that come with accord, by name."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def read_principles(name: str) -> list[Principle]:
    """The principles in a file, or of the shipped constitution of that name.

    Raises SettingsError with file, line or key, and the remedy.
    """
    path, shipped = Path(name), shipped_constitutions()
    if not path.is_file() and name in shipped:
        path = shipped[name]
    elif not path.exists() and path.name == name and not path.suffix:
        raise SettingsError(
            f"There is no constitution {name!r}: no such file, and none of those that come with "
            f"accord.{did_you_mean(name, shipped)} Name one of {listed(shipped)}, or a file."
        )
    principles = _read_json(path) if path.suffix == ".json" else _read_yaml(path)
    _check_ids(principles, path)
    return principles


def _read_yaml(path: Path) -> list[Principle]:
    table = load_yaml(path)
    rows = table.values.get("principles")
    if not isinstance(rows, list) or not rows or set(table.values) != {"principles"}:
        raise SettingsError(
            f"{path} must hold a list of principles under the key `principles`, and nothing else."
        )
    return [
        _parse_principle(row, table.source_of(("principles", i)), i + 1)
        for i, row in enumerate(rows)
    ]


def _parse_principle(row: Any, source: Source, number: int) -> Principle:
    table = {"text": row} if isinstance(row, str) else row
    if not isinstance(table, dict) or not set(table) <= set(_KEYS):
        raise SettingsError(
            f"{source} is no principle. Write a text, or a table with `text` and any of `id`, "
            f"`weight`, `critique` and `revision`."
        )
    text, weight = table.get("text"), table.get("weight", 1.0)
    if not isinstance(text, str) or not text.strip():
        raise SettingsError(f"{source} has no `text`. Write the principle as a sentence.")
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1e9:
        raise SettingsError(f"{source} has the weight {weight!r}. Give a number above 0.")
    requests = {key: table.get(key, "") for key in ("critique", "revision") if key in table}
    for key, request in requests.items():
        if not isinstance(request, str) or not request.strip():
            raise SettingsError(
                f"{source} has {request!r} as `{key}`. Write what is asked of the model, or leave "
                f"it out."
            )
    name = table.get("id", number)
    if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
        raise SettingsError(f"{source} has the id {name!r}. Give a short name.")
    asked = {key: request.strip() for key, request in requests.items()}
    return Principle(text.strip(), float(weight), str(name).strip(), **asked)


def _read_json(path: Path) -> list[Principle]:
    """The principles of an instruction file of Bai et al. (2022): of critiques and revisions, or of
    the comparisons of its preference model."""
    content = _load_json(path)
    if isinstance(content, list) and content and all(_is_text(text) for text in content):
        texts = [text.strip().removesuffix("Options:").strip() for text in content]
        return [Principle(text, id=str(i)) for i, text in enumerate(texts, start=1)]
    if not isinstance(content, dict) or not content:
        raise SettingsError(f"{path} holds no principles. Write {_FORMS}.")
    return [_parse_instruction(name, entry, path) for name, entry in content.items()]


def _load_json(path: Path) -> Any:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=lambda pairs: _table(pairs, path))
    except FileNotFoundError:
        raise SettingsError(f"There is no file {str(path)!r}. Check the name.") from None
    except OSError as error:
        raise SettingsError(
            f"{path} can't be read: {error.strerror}. Check the file's rights."
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path} is not UTF-8. Save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise SettingsError(
            f"{path}:{error.lineno} is not JSON: {error.msg}. Mend the file, or write the "
            f"principles as YAML."
        ) from None
    except RecursionError:
        raise SettingsError(f"{path} is nested too deep. Write {_FORMS}.") from None


def _table(pairs: Sequence[tuple[str, Any]], path: Path) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise SettingsError(f"{path} gives the key {twice!r} twice. Keep one of the two.")
    return table


def _parse_instruction(name: str, entry: Any, path: Path) -> Principle:
    fields: Mapping[str, Any] = entry if isinstance(entry, dict) else {}
    critique, revision = (fields.get(key) for key in _INSTRUCTION_KEYS)
    if not _is_text(critique) or not _is_text(revision):
        raise SettingsError(
            f"The entry {name!r} of {path} has no `prompt` and `edit_request` as text, which ask "
            f"for a critique and a revision. Write {_FORMS}."
        )
    unread = [key for key in fields if key not in _INSTRUCTION_KEYS]
    if unread:
        log.info("%s, entry %s: not read: %s.", path, name, ", ".join(unread))
    critique, revision = str(critique).strip(), str(revision).strip()
    text = f"A response is better the less this request finds in it: {critique}"
    return Principle(text, 1.0, name, critique, revision)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _check_ids(principles: Sequence[Principle], path: Path) -> None:
    seen: set[str] = set()
    for principle in principles:
        if principle.id in seen:
            raise SettingsError(
                f"{path} has two principles with the id {principle.id!r}, which the log could not "
                f"distinguish. Give each an id of its own."
            )
        seen.add(principle.id)
