"""Rows of Parquet files, and what of a table can't become Python values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from accord.data.checks import RowError
from accord.data.json_rows import ReadRow
from accord.data.lines import MAX_ROW_BYTES, TOO_LONG, require_file
from accord.data.values import printable
from accord.errors import DataError

BATCH_ROWS = 256  # in memory as Python values at a time
MAX_GROUP_BYTES = 2**30  # of a row group that is unpacked from far fewer bytes
MAX_RATIO = 100  # of unpacked to packed bytes; text is packed 2 to 20 times


def read_parquet(path: Path) -> Iterator[ReadRow]:
    """The rows of a Parquet file. Raises DataError where it can't be read, where a column is named
    twice, or where few bytes would be unpacked into gigabytes."""
    import pyarrow
    import pyarrow.parquet

    require_file(path)
    number = 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            check_parquet(path, file)
            for batch in file.iter_batches(BATCH_ROWS):
                for row in rows_of_batch(batch.num_rows, _converter(batch)):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError, MemoryError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise DataError(
            f"{printable(str(path))} can't be read as Parquet after row {number}: "
            f"{printable(lines[0]).rstrip('.')}. Write or download it again."
        ) from error


def rows_of_batch(
    size: int, convert: Callable[[int, int], list[dict[str, Any]]]
) -> Iterator[dict[str, Any] | RowError]:
    """The rows of a batch by `convert(start, length)`: all at a time, or if that fails one by one,
    so that a row that can't be converted does not stop the others."""
    try:
        yield from convert(0, size)
        return
    except Exception:  # of any kind: a value that Python, or a decoder, has no equal for
        pass
    for i in range(size):
        try:
            row: dict[str, Any] | RowError = convert(i, 1)[0]
        except RowError as error:
            row = error
        except UnicodeDecodeError as error:
            row = RowError("text that is not UTF-8", f"{error.reason} at byte {error.start}")
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:120]
            row = RowError(
                "values that can't be read", f"{type(error).__name__}: {printable(reason)}"
            )
        yield row


def _converter(batch: Any) -> Callable[[int, int], list[dict[str, Any]]]:
    def convert(start: int, length: int) -> list[dict[str, Any]]:
        part = batch.slice(start, length)
        if part.nbytes > MAX_ROW_BYTES and length == 1:
            raise RowError(TOO_LONG)
        if part.nbytes > MAX_ROW_BYTES:
            raise ValueError("too large to be converted at a time")
        rows: list[dict[str, Any]] = part.to_pylist()
        return rows

    return convert


def check_parquet(path: Path, file: Any) -> None:
    """Raise DataError where a column is named twice, or where few bytes would be unpacked into
    gigabytes."""
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise DataError(
            f"{printable(str(path))} names a column twice. Rename one of: {', '.join(names)}."
        )
    packed = path.stat().st_size
    for number in range(file.metadata.num_row_groups):
        # Not the metadata of its columns: pyarrow ends the process where those are damaged.
        unpacked = file.metadata.row_group(number).total_byte_size
        if unpacked > MAX_GROUP_BYTES and unpacked > MAX_RATIO * packed:
            raise DataError(
                f"{printable(str(path))} would unpack {packed:,} bytes into {unpacked:,}, in one "
                "row group. Write it in smaller row groups."
            )
