"""Rows of CSV and of tab-separated files."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from accord.data.checks import RowError
from accord.data.json_rows import ReadRow, decode_json
from accord.data.lines import MAX_ROW_BYTES, TOO_LONG, read_lines
from accord.data.values import plain_row, printable
from accord.errors import DataError


def read_csv(path: Path, delimiter: str = ",") -> Iterator[ReadRow]:
    """The rows below the header; a blank line is a row that can't be used.

    Raises DataError for a header that can't be used, and for a quote that nothing closes: where
    the rows after it begin can't be known.
    """
    csv.field_size_limit(MAX_ROW_BYTES)  # the default of 128 KiB is less than a long dialogue
    lines = _Lines(path)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    header = _read_header(path, lines, reader)
    while header is not None:
        lines.start_row()
        try:
            cells = next(reader, None)
        except RowError as error:  # the reader starts afresh on the line behind
            yield lines.first, error
            continue
        except csv.Error as error:
            if lines.at_end or "field larger" in str(error):
                raise DataError(
                    f"{printable(str(path))}:{lines.first} is not valid CSV: {error}. A quote that "
                    "opens there is not closed. Correct that row."
                ) from error
            yield lines.first, RowError("not valid CSV", f"{error} in line {lines.number}")
            continue
        if cells is None:
            return
        yield lines.first, _make_row(header, cells)


def _read_header(path: Path, lines: _Lines, reader: Iterator[list[str]]) -> list[str] | None:
    """The columns' names, None in an empty file. Raises DataError where they can't be used."""
    where = f"{printable(str(path))}:1"
    lines.start_row()
    try:
        header = next(reader, None)
        plain_row(dict.fromkeys(header or ()))
    except csv.Error as error:
        raise DataError(f"{where} is not valid CSV: {error}. Correct the header.") from error
    except RowError as error:
        raise DataError(f"{where} can't be the header: {error}. Save the file as UTF-8.") from error
    if header is None:
        return None
    names = ", ".join(header)
    if len(set(header)) < len(header):
        raise DataError(f"{where} names a column twice. Rename one of: {names}.")
    if "\0" in names:
        raise DataError(f"{where} holds NUL characters, as UTF-16 does. Save the file as UTF-8.")
    return header


def _make_row(header: list[str], cells: list[str]) -> dict[str, Any] | RowError:
    if not cells:
        return RowError("a blank line")
    if len(cells) > len(header):
        detail = f"{len(cells)} cells, {len(header)} columns. Quote cells that hold commas"
        return RowError("more cells than the header names columns", detail)
    padded = cells + [None] * (len(header) - len(cells))
    try:
        return {name: _parse_cell(name, text) for name, text in zip(header, padded, strict=True)}
    except RowError as error:
        return error


def _parse_cell(name: str, text: str | None) -> Any:
    """Parses a cell as JSON where its column must hold a list, or where it holds turns."""
    if text and (
        (name in {"responses", "ranks"} and text.startswith("["))
        or text.startswith(('[{"role"', '[{"content"', '[{"from"', '[{"value"'))
    ):
        try:
            return decode_json(text)
        except json.JSONDecodeError:
            return text
    return text


class _Lines:
    """The lines of a file for the csv module, with the numbers of the present row's first line and
    of the present line. Bytes that are not UTF-8 become half characters, which no row may hold."""

    def __init__(self, path: Path) -> None:
        self.lines = read_lines(path)
        self.first = self.number = 0
        self.size = 0
        self.at_end = False

    def start_row(self) -> None:
        """Count the next line as the first of a row."""
        self.first, self.size = self.number + 1, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        try:
            self.number, line = next(self.lines)
        except StopIteration:
            self.at_end = True
            raise
        if line is None and self.number == self.first:
            raise RowError(TOO_LONG)
        self.size += len(line or b"")
        if line is None or self.size > MAX_ROW_BYTES:
            raise csv.Error("field larger than any row may be")
        return line.decode("utf-8", "surrogateescape")
