"""Any file of preferences as rows with opinions: the format is that of its columns."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from accord.data.battles import has_battles
from accord.data.checks import RowError
from accord.data.columns import match_columns
from accord.data.files import DataRow, read_rows
from accord.data.imports.annotation import (
    RESPONSES,
    argilla_questions,
    parse_argilla,
    parse_label_studio,
    parse_label_studio_min,
)
from accord.data.imports.datasets import (
    parse_arena,
    parse_helpsteer3,
    parse_nectar,
    parse_nemo_rl,
    parse_pandalm,
    parse_ultrafeedback,
)
from accord.data.imports.fields import fill_from_columns
from accord.data.imports.generic import form_of, parse_generic
from accord.data.imports.judged import JudgedRow
from accord.data.imports.questions import Questions
from accord.data.imports.verdicts import parse_verdict_row
from accord.data.pair_columns import describe_unlabelled, require_clear_labels
from accord.data.read_notes import note_with_count
from accord.errors import DataError
from accord.records import Source

ImportFormat = Literal[
    "verdicts",
    "label-studio",
    "label-studio-min",
    "argilla",
    "arena",
    "helpsteer3",
    "nemo-rl",
    "ultrafeedback",
    "nectar",
    "pandalm",
    "rows",
]
PROBED = 200  # rows whose columns decide the format

PARSERS: dict[ImportFormat, Callable[[DataRow, Counter[str]], JudgedRow]] = {
    "verdicts": parse_verdict_row,
    "label-studio": parse_label_studio,
    "label-studio-min": parse_label_studio_min,
    "argilla": parse_argilla,
    "arena": parse_arena,
    "helpsteer3": parse_helpsteer3,
    "nemo-rl": parse_nemo_rl,
    "ultrafeedback": parse_ultrafeedback,
    "nectar": parse_nectar,
    "pandalm": parse_pandalm,
    "rows": parse_generic,
}
PUBLISHED = ("arena", "helpsteer3", "nemo-rl", "ultrafeedback", "nectar", "pandalm")
ASKED = ("argilla", "label-studio", "label-studio-min")
# The columns of each, in the order in which they are looked for.
REQUIRED: dict[ImportFormat, frozenset[str]] = {
    "verdicts": frozenset({"kind", "prompt", "responses", "annotator"}),
    "label-studio": frozenset({"data", "annotations"}),
    "label-studio-min": frozenset({"id", "annotator", "annotation_id", "lead_time"}),
    "helpsteer3": frozenset({"context", "response1", "response2", "overall_preference"}),
    "nemo-rl": frozenset({"context", "completions"}),
    "ultrafeedback": frozenset({"instruction", "completions"}),
    "nectar": frozenset({"prompt", "answers"}),
    "pandalm": frozenset({"instruction", "response1", "response2", "annotator1"}),
}


@dataclass
class ImportedFile:
    """A file to import: its format, its rows, and notes on what was converted, as they are read."""

    path: str
    form: ImportFormat
    notes: Counter[str] = field(default_factory=Counter)

    def rows(self) -> Iterator[tuple[Source, JudgedRow | RowError]]:
        """Each row with its source, or why it can't be used; one in memory at a time."""
        questions = None
        if self.form in ASKED:
            parsed_rows = (self._parse(row, Counter()) for row in read_rows(self.path))
            questions = Questions.of(row for row in parsed_rows if isinstance(row, JudgedRow))
        for row in read_rows(self.path):
            parsed = self._parse(row, self.notes)
            if questions is not None and isinstance(parsed, JudgedRow):
                try:
                    parsed = questions.apply(parsed, self.notes)
                except RowError as error:
                    parsed = error
            yield row.source, parsed

    def _parse(self, row: DataRow, notes: Counter[str]) -> JudgedRow | RowError:
        try:
            if row.error is not None:
                raise row.error
            parsed = PARSERS[self.form](row, notes)
            if self.form in PUBLISHED:
                return fill_from_columns(parsed, row.values, notes)
            return parsed
        except RowError as error:
            return error
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            detail = f"{type(error).__name__}: {error}"[:80]
            return RowError(f"it is no row of the format {self.form}", detail)

    def list_notes(self, rows: int) -> list[str]:
        """What was converted or not read, of `rows` rows."""
        return [note_with_count(note, count, rows) for note, count in self.notes.items()]


def open_import(path: str | Path, form: str | None = None) -> ImportedFile:
    """The file at `path` in the format that its columns have, or in the one given.

    Raises DataError where the format is unknown, or where the rows hold no preferences.
    """
    if form is not None:
        if form not in get_args(ImportFormat):
            raise DataError(
                f"{form!r} is no format of rows. Give one of {', '.join(get_args(ImportFormat))}."
            )
        return ImportedFile(str(path), form)  # type: ignore[arg-type]
    probed = [row for row in itertools.islice(read_rows(path), PROBED) if row.error is None]
    detected = _find_format(probed)
    if detected is None:
        columns = list(dict.fromkeys(c for row in probed for c in row.values))
        hint = describe_unlabelled(columns)
        raise DataError(
            f"{path} has the columns {', '.join(columns) or '(none)'}, which hold no preferences "
            f"in any format that is imported: {', '.join(get_args(ImportFormat))}.{hint}"
        )
    if detected == "rows":
        _check_labels(path, probed)
    return ImportedFile(str(path), detected)


def _find_format(rows: list[DataRow]) -> ImportFormat | None:
    columns = {c for row in rows for c, value in row.values.items() if value is not None}
    for form, required in REQUIRED.items():
        if required <= columns:
            return form
    if has_battles(columns) and ({"conversation_a", "response_a"} & columns):
        return "arena"
    if any(_is_argilla(row.values) for row in rows):
        return "argilla"
    return "rows" if any(form_of(row) is not None for row in rows) else None


def _is_argilla(values: Mapping[str, Any]) -> bool:
    has_fields = isinstance(values.get("fields"), Mapping) and "responses" in values
    return (
        has_fields or any(c.endswith(RESPONSES) for c in values) or bool(argilla_questions(values))
    )


def _check_labels(path: str | Path, probed: list[DataRow]) -> None:
    """Raise DataError where it can't be known which response the labels of all rows name."""
    first = next((row for row in probed if form_of(row) == "labelled pair"), None)
    if first is None:
        return
    names = match_columns(first.values)
    labels = (row.values.get(names["preferred"]) for row in read_rows(path) if row.error is None)
    require_clear_labels(labels, names, str(path))
