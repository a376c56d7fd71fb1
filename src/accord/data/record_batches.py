"""Opens files of rows as columns, by Arrow, and finds the lines on which the rows stand."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from accord.data.csv_rows import read_csv
from accord.data.lines import read_lines
from accord.data.parquet_rows import check_parquet

BATCH_ROWS = 65_536
BLOCK_BYTES = 2**23  # of text at a time


class NotColumnarError(Exception):
    """A file that is to be read row by row."""


def open_columns(path: Path, needed: Sequence[str]) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    """The columns of a Parquet, CSV or JSON-lines file, and batches of those needed. Raises
    NotColumnarError for other files."""
    suffix = path.suffix.lower() if path.is_file() else ""
    if suffix == ".parquet":
        return _parquet_batches(path, needed)
    if suffix in (".csv", ".tsv"):
        return _csv_batches(path, needed, "\t" if suffix == ".tsv" else ",")
    if suffix in (".jsonl", ".ndjson"):
        return _json_batches(path, needed)
    raise NotColumnarError


def _parquet_batches(
    path: Path, needed: Sequence[str]
) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    file = pa.parquet.ParquetFile(path)
    check_parquet(path, file)
    names = file.schema_arrow.names
    present = [name for name in names if name in needed]
    return names, file.iter_batches(BATCH_ROWS, columns=present)


def _csv_batches(
    path: Path, needed: Sequence[str], delimiter: str
) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    _, first = next(read_lines(path), (0, b""))
    names = next(csv.reader([(first or b"").decode()], delimiter=delimiter), [])
    if len(set(names)) < len(names):
        raise NotColumnarError
    present = [name for name in names if name in needed]
    reader = pa.csv.open_csv(
        path,
        pa.csv.ReadOptions(block_size=BLOCK_BYTES),
        pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False),
        pa.csv.ConvertOptions(
            include_columns=present,
            column_types=dict.fromkeys(present, pa.string()),
            strings_can_be_null=False,
        ),
    )
    return names, iter(reader)


def _json_batches(path: Path, needed: Sequence[str]) -> tuple[list[str], Iterator[pa.RecordBatch]]:
    _, first = next(((n, line) for n, line in read_lines(path) if line and line.strip()), (0, b""))
    values = json.loads(first or b"{}")
    if not isinstance(values, dict):
        raise NotColumnarError
    schema = pa.schema([(name, _json_type(values[name])) for name in values if name in needed])
    reader = pa.json.open_json(
        path,
        pa.json.ReadOptions(block_size=BLOCK_BYTES),
        pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
    )
    return list(values), iter(reader)


def _json_type(value: Any) -> pa.DataType:
    if isinstance(value, str):
        return pa.string()
    if isinstance(value, int) and not isinstance(value, bool):
        return pa.int64()
    raise NotColumnarError


def line_numbers(path: Path, rows: Sequence[int]) -> list[int]:
    """The line where each row stands, counted as the row-by-row readers do: rows count from 0."""
    if not rows:
        return []
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return [row + 1 for row in rows]
    if suffix in (".csv", ".tsv"):
        lines = (line for line, _ in read_csv(path, "\t" if suffix == ".tsv" else ","))
    else:
        lines = (number for number, line in read_lines(path) if line is None or line.strip())
    requested = set(rows)
    by_row = {}
    for row, line in enumerate(islice(lines, max(rows) + 1)):
        if row in requested:
            by_row[row] = line
    return [by_row[row] for row in rows]
