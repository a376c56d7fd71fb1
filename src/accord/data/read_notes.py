"""Notes on how rows were read: conversions, paths, and columns that nothing read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from accord.data.columns import COLUMNS, OPTIONAL_COLUMNS, Format
from accord.data.files import DataRow
from accord.data.kinds import KINDS, PAIR_FORMATS, Kind
from accord.data.pair_columns import pair_label_columns
from accord.data.pair_names import names_a_response
from accord.data.prompts import context_note
from accord.data.turn_fields import CONTEXT_COLUMNS
from accord.records import Comparison


def note_with_count(note: str, count: int, used: int) -> str:
    # A note may be counted twice in one row, once for each response.
    return note if count >= used else f"in {count:,} rows, {note}"


def note_paths(path: str, rows: Sequence[DataRow]) -> list[str]:
    """The paths of the rows, where they differ from the path that was given."""
    paths = list(dict.fromkeys(row.source.path for row in rows))
    if paths == [path] or (len(paths) == 1 and Path(paths[0]) == Path(path).expanduser()):
        return []
    return [f"read from {', '.join(paths)}"]


def note_unread_columns(
    columns: Iterable[str],
    forms: Sequence[Format],
    names: Mapping[str, str],
    kind: Kind,
    notes: Collection[str],
) -> list[str]:
    """Columns that were not read, such as those of another format in the same rows.

    `notes` are those that reading the rows made. Prompts hold every column as `meta`; of theirs,
    only columns that look like responses are named.
    """
    read = {names.get(c, c) for form in forms for c in COLUMNS[form]}
    if kind == "prompts":
        read |= {name for c, name in names.items() if c not in COLUMNS["labelled pair"]}
        responses = [c for c in columns if c not in read and names_a_response(c)]
        shown = ", ".join(responses)
        return [f"the responses in {shown} are not read, only the prompts"] if responses else []
    if "prompt" in COLUMNS[forms[0]] or forms[0] == "labelled pair":
        read |= set(OPTIONAL_COLUMNS) - ({"input"} if names.get("prompt") == "prompt" else set())
    else:
        read |= {"margin", "meta", "finished"}
    if forms[0] in ("messages", "text"):
        read.add("system")
    if forms[0] == "labelled pair":
        read |= {names.get("prompt", "prompt"), *pair_label_columns(names["preferred"])}
    if forms[0] == "implicit preference" and "messages" in names:
        read.add(names["messages"])
    if Comparison not in KINDS[kind] or set(forms).isdisjoint(PAIR_FORMATS):
        read.discard("margin")  # only pairs have one
    elif forms[0] != "labelled pair":
        read.add("probability")
    if "ranking" in forms:
        read.add("votes")
    if "responses" in forms:
        read |= {"model", "settings"}  # these describe the responses
    read |= {c for c in CONTEXT_COLUMNS if context_note(c) in notes}
    unread = [c for c in columns if c not in read]
    return [f"columns not read: {', '.join(unread)}"] if unread else []
