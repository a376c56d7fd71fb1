"""Reads records of the kind that a method needs, from any row format that can be converted."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from accord.data.battles import has_battles, parse_battle
from accord.data.checks import RowError
from accord.data.columns import (
    COLUMNS,
    Cells,
    DialogueText,
    Format,
    match_columns,
    matching_formats,
)
from accord.data.files import DataRow, read_rows
from accord.data.formats import collect_meta, parse_demonstrations, parse_record
from accord.data.kinds import FORMAT_USES, FORMATS_BY_KIND, KINDS, Kind
from accord.data.memory import memory_name, read_memory_rows
from accord.data.pair_columns import describe_unlabelled, require_clear_labels
from accord.data.read_notes import note_paths, note_unread_columns, note_with_count
from accord.data.renamed import rename_columns
from accord.data.report import Dropped, ReadReport, count_dropped, format_reasons
from accord.errors import DataError
from accord.records import (
    Battle,
    Comparison,
    Demonstration,
    PromptOnly,
    Rating,
    Record,
    Text,
)
from accord.runs.activity import with_activity

T = TypeVar("T")
NO_COLUMNS: Mapping[str, str] = MappingProxyType({})


def read_records(
    path: str | Path,
    kind: Kind,
    dialogue_text: DialogueText = "turns",
    columns: Mapping[str, str] = NO_COLUMNS,
    *,
    columns_required: bool = True,
) -> tuple[list[Record], ReadReport]:
    """The records of `kind` at `path` (see `read_rows`), and what happened to each row.

    Text that looks like a dialogue (`\\n\\nHuman:`) is read as turns, or left as it is with
    `dialogue_text="keep"`. `columns` are names of the file's columns by the name that they are read
    as (see `rename_columns`).

    A row that can't be used is left out and named in the report, which also names conversions.
    Raises DataError where nothing can be read, the columns don't fit `kind`, or no row is left.
    """
    rows = list(with_activity(read_rows(path), "reading"))
    rows = rename_columns(rows, columns, str(path), required=columns_required)
    return _convert_rows(rows, kind, str(path), dialogue_text, subject=str(path))


def records_from_rows(
    rows: Iterable[Any],
    kind: Kind,
    dialogue_text: DialogueText = "turns",
    columns: Mapping[str, str] = NO_COLUMNS,
    *,
    columns_required: bool = True,
) -> tuple[list[Record], ReadReport]:
    """As `read_records`, for rows in memory: dicts, records, a data set or a DataFrame.

        pairs, report = records_from_rows(
            [{"prompt": "2+2=", "chosen": " 4", "rejected": " 5"}], "comparisons"
        )

    The rows are checked and converted as those of a JSONL file (see `read_memory_rows`); messages
    say `row 3 of the list` where they would say `pairs.jsonl:3`. Raises DataError as
    `read_records`, and where `rows` is no collection of mappings or records.
    """
    name = memory_name(rows)
    parsed = list(with_activity(read_memory_rows(rows), "reading"))
    parsed = rename_columns(parsed, columns, f"The {name}", required=columns_required)
    return _convert_rows(parsed, kind, name, dialogue_text, subject=f"The {name}")


def _convert_rows(
    rows: Sequence[DataRow], kind: Kind, path: str, dialogue_text: DialogueText, *, subject: str
) -> tuple[list[Record], ReadReport]:
    """Records of `kind` from rows read at `path`; messages about all rows begin with `subject`."""
    columns = dict.fromkeys(c for row in rows for c, v in row.values.items() if v is not None)
    if all(row.error is not None for row in rows):
        raise describe_unusable(subject, len(rows), kind, _parse_rows(rows, lambda row: ())[1])
    conversion = Conversion(subject, kind, tuple(columns), dialogue_text)
    conversion.require_clear_labels(rows)
    records: list[Record] = []
    for row in rows:
        with suppress(RowError):  # the conversion counts it
            records += conversion.convert(row)
    return records, conversion.report(path, rows)


@dataclass(slots=True)
class Conversion:
    """Rows with these `columns` on their way to records of `kind`, and what happened to each row.

    Messages about all rows begin with `subject`. `forms` are the format of the rows, then those of
    single rows; `names` are the columns by the names that they are read as. Raises DataError where
    the columns don't fit `kind`.
    """

    subject: str
    kind: Kind
    columns: tuple[str, ...]
    dialogue_text: DialogueText = "turns"
    forms: list[Format] = field(init=False)
    names: dict[str, str] = field(init=False)
    used: int = 0
    records: int = 0
    dropped: Dropped = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.forms = choose_formats(self.subject, self.kind, list(self.columns))
        self.names = match_columns(self.columns)

    def require_clear_labels(self, rows: Iterable[DataRow]) -> None:
        """Raise DataError where the labels of pairs leave open which response they name."""
        if self.forms[0] == "labelled pair":
            labels = (row.values.get(self.names["preferred"]) for row in rows)
            require_clear_labels(labels, self.names, self.subject)

    def form_of(self, row: DataRow) -> Format:
        """The format that one row has."""
        complete = (form for form in self.forms if _has_all_columns(row, form, self.names))
        return next(complete, self.forms[0])

    def convert(self, row: DataRow) -> tuple[Record, ...]:
        """The records of a row. Raises RowError, and counts the row, where it can't be used."""
        try:
            if row.error is not None:
                raise row.error
            form, names, notes = self.form_of(row), self.names, self.notes
            records = tuple(_convert_row(row, form, self.kind, names, notes, self.dialogue_text))
        except RowError as error:
            self.dropped.setdefault(error.reason, []).append((row.source, error.detail))
            raise
        self.used += 1
        self.records += len(records)
        return records

    def report(self, path: str, rows: Sequence[DataRow]) -> ReadReport:
        """What happened to the rows, of which `rows` has one of each file or more. Raises DataError
        where none can be used."""
        total = self.used + count_dropped(self.dropped)
        if not self.records:
            raise describe_unusable(self.subject, total, self.kind, self.dropped)
        notes = [note_with_count(note, n, self.used) for note, n in self.notes.items()]
        notes += note_paths(path, rows)
        notes += note_unread_columns(self.columns, self.forms, self.names, self.kind, self.notes)
        return ReadReport(path, total, self.used, self.records, self.dropped, notes)


def read_battles(battles: str | Path | Iterable[Any]) -> tuple[list[Battle], ReadReport]:
    """An arena's battles (`model_a`, `model_b`, `winner`) from a path or rows in memory, and what
    happened to each row."""
    if isinstance(battles, str | Path):
        path = subject = str(battles)
        rows = list(read_rows(battles))
    else:
        path = memory_name(battles)
        subject, rows = f"The {path}", list(read_memory_rows(battles))
    columns = dict.fromkeys(c for row in rows for c in row.values)
    if all(row.error is not None for row in rows):
        raise describe_unusable(subject, len(rows), "battles", _parse_rows(rows, lambda row: ())[1])
    if not has_battles(columns):
        raise DataError(_describe_wrong_columns(subject, "battles", list(columns), ["battle"]))
    parsed, dropped = _parse_rows(rows, lambda row: [parse_battle(row)])
    if not parsed:
        raise describe_unusable(subject, len(rows), "battles", dropped)
    return parsed, ReadReport(
        path, len(rows), len(parsed), len(parsed), dropped, note_paths(path, rows)
    )


def describe_unusable(subject: str, rows: int, what: str, dropped: Dropped) -> DataError:
    (_, detail), *_ = max(dropped.values(), key=len)
    example = f" (the first: {detail})" if detail else ""
    return DataError(
        f"{subject} has {rows:,} rows, none of which can be used as {what}: "
        f"{'; '.join(format_reasons(dropped))}{example}. Correct the rows, or give another data "
        "set."
    )


def _parse_rows(
    rows: Iterable[DataRow], parse: Callable[[DataRow], Iterable[T]]
) -> tuple[list[T], Dropped]:
    """What `parse` gives for the rows, and the rows that it raised RowError for, by reason."""
    parsed: list[T] = []
    dropped: Dropped = {}
    for row in rows:
        try:
            if row.error is not None:
                raise row.error
            parsed += parse(row)
        except RowError as error:
            dropped.setdefault(error.reason, []).append((row.source, error.detail))
    return parsed, dropped


def choose_formats(subject: str, kind: Kind, columns: list[str]) -> list[Format]:
    """The format that the columns have for `kind`, then the formats that single rows may have.

    Raises DataError where there is none.
    """
    present = matching_formats(columns)
    forms = [form for form in FORMATS_BY_KIND[kind] if form in present]
    if "ranking" in present and "ranking" not in FORMATS_BY_KIND[kind] and kind != "prompts":
        forms = [form for form in forms if form != "responses"]  # a ranking's are no objects
    if not forms:
        raise DataError(_describe_wrong_columns(subject, kind, columns, FORMATS_BY_KIND[kind]))
    mixed: dict[str, tuple[Format, ...]] = {
        "preferences": ("ranking",),
        "prompts": ("prompt",),
        "kto": FORMATS_BY_KIND["kto"],
    }
    return [forms[0], *(form for form in forms[1:] if form in mixed.get(kind, ()))]


def _describe_wrong_columns(
    subject: str, what: str, columns: Sequence[str], forms: Sequence[Format]
) -> str:
    expected = "; or ".join(", ".join(COLUMNS[form]) for form in forms if form != "labelled pair")
    message = (
        f"{subject} has the columns {', '.join(columns) or '(all empty)'}; {what} need {expected}."
    )
    uses = [FORMAT_USES[form] for form in matching_formats(columns)[:1]]
    if uses:
        return f"{message} These rows would fit {uses[0]}.{describe_unlabelled(columns)}"
    absent = {c for form in forms for c in COLUMNS[form]} - set(match_columns(columns))
    for column in columns:
        near = difflib.get_close_matches(column, sorted(absent), n=1, cutoff=0.75)
        if near:
            return f"{message} Did you mean `{near[0]}` by `{column}`? Rename it."
    return message + (
        describe_unlabelled(columns) or " Rename the columns, or give another data set."
    )


def _has_all_columns(row: DataRow, form: Format, names: dict[str, str]) -> bool:
    return all(row.values.get(names[c]) is not None for c in COLUMNS[form])


def _convert_row(
    row: DataRow,
    form: Format,
    kind: Kind,
    names: dict[str, str],
    notes: Counter[str],
    dialogue_text: DialogueText,
) -> Iterable[Record]:
    """The records of `kind` in a row. Raises RowError where it can't be used."""
    targets, cells = KINDS[kind], Cells(row.values, names, row.source, notes)
    if kind == "prompts" and type(cells.get("completion")) in (int, float):
        form = "prompt"  # a numeric answer says nothing about the prompt
    if form == "responses" and Demonstration in targets and PromptOnly not in targets:
        notes["each response is read as a demonstration"] += 1
        return parse_demonstrations(row, names)
    record = parse_record(row, form, names, notes, dialogue_text)
    if isinstance(record, targets):
        return [record]
    if PromptOnly in targets and not isinstance(record, PromptOnly | Text):
        notes["only the prompts are read"] += 1
        meta = collect_meta(cells, form)
        if cells.name("completion") == "answer":  # a reward may compare responses with it
            meta = {"answer": cells.get("completion"), **meta}
        return [PromptOnly(record.prompt, row.source, meta)]
    if isinstance(record, Comparison):
        target = next(t for t in targets if t in FROM_COMPARISON)
        note, convert = FROM_COMPARISON[target]
        notes[note] += 1
        return convert(record)
    if isinstance(record, PromptOnly):
        raise RowError("the conversation does not end with the assistant's answer")
    raise RowError("the text holds messages")  # requested: plain text


FROM_COMPARISON: dict[type[Record], tuple[str, Callable[[Comparison], list[Record]]]] = {
    Demonstration: (
        "the chosen responses are read as demonstrations",
        lambda pair: [
            Demonstration(
                pair.prompt, pair.chosen, pair.source, pair.chosen_finished, pair.chosen_fields
            )
        ],
    ),
    Rating: (
        "each comparison is read as two ratings, chosen 1 and rejected 0",
        lambda pair: [
            Rating(pair.prompt, response, score, pair.source, finished, fields)
            for response, score, finished, fields in (
                (pair.chosen, 1.0, pair.chosen_finished, pair.chosen_fields),
                (pair.rejected, 0.0, pair.rejected_finished, pair.rejected_fields),
            )
        ],
    ),
}
