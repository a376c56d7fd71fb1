"""Lines of text files, plain or gzipped, in bounded memory."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from accord.data.checks import RowError
from accord.data.values import printable
from accord.errors import DataError

MAX_ROW_BYTES = 32 * 2**20  # some 8 million tokens
TOO_LONG = f"a row of more than {MAX_ROW_BYTES // 2**20} MiB"
CHUNK_BYTES = 2**16
NOT_UTF8 = "text that is not UTF-8"

GZIP = b"\x1f\x8b"
# What a file is that begins with these bytes, and what to do about it.
FOREIGN: dict[bytes, str] = {
    b"\xff\xfe": "UTF-16 text. Save it as UTF-8",
    b"\xfe\xff": "UTF-16 text. Save it as UTF-8",
    b"PAR1": "a Parquet file. Rename it so that it ends with .parquet",
    b"ARROW1": "an Arrow file. Write its rows as Parquet or JSON lines",
    b"PK\x03\x04": "a zip archive. Unpack it",
    b"(\xb5/\xfd": "packed by zstd. Unpack it, or pack it by gzip",
    b"BZh": "packed by bzip2. Unpack it, or pack it by gzip",
    b"\xfd7zXZ": "packed by xz. Unpack it, or pack it by gzip",
    b"SQLite format 3": "an SQLite database. A preference store must end with .db",
    b"version https://git-lfs": "a pointer of Git LFS and not the file itself. Run `git lfs pull`",
}


def require_file(path: Path) -> None:
    """Raise DataError where `path` is no regular file, such as a named pipe, which could block."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        kinds = {
            stat.S_IFIFO: "a named pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
            stat.S_IFDIR: "a folder",
        }
        raise DataError(
            f"{printable(str(path))} is {kinds.get(stat.S_IFMT(mode), 'no regular file')}, and "
            "rows are read more than once. Write them to a file first."
        )


def open_text(path: Path) -> BinaryIO:
    """The bytes of a text file, unpacked where it is gzipped, by name or by content.

    Raises DataError where it is no regular file, or begins as a file of another kind.
    """
    require_file(path)
    file = path.open("rb")
    start = file.read(32)
    file.seek(0)
    for magic, what in FOREIGN.items():
        if start.startswith(magic):
            file.close()
            raise DataError(f"{printable(str(path))} is {what}.")
    if path.suffix.lower() == ".gz" or start.startswith(GZIP):
        file.close()
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return file


def read_chunks(path: Path) -> Generator[bytes]:
    """The bytes of a text file in chunks. Raises DataError where it can't be read."""
    size = 0
    with _opened(path, lambda: f"{size:,} bytes") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
            size += len(chunk)


def read_lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """The lines of a text file with their numbers; None for one longer than MAX_ROW_BYTES.

    A mark of the byte order at the start is left out. Raises DataError where the file can't be
    read.
    """
    number = 0
    with _opened(path, lambda: f"line {number}") as file:
        while line := file.readline(MAX_ROW_BYTES + 1):
            number += 1
            if len(line) > MAX_ROW_BYTES:
                yield number, None
                while not line.endswith(b"\n") and (line := file.readline(CHUNK_BYTES)):
                    pass
            else:
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line


@contextmanager
def _opened(path: Path, progress: Callable[[], str]) -> Iterator[BinaryIO]:
    """`open_text` for a block that reads it. Raises DataError, with how far it came, where reading
    fails."""
    try:
        with open_text(path) as file:
            yield file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{printable(str(path))} can't be unpacked after {progress()} ({error}). "
            "Copy or download it again."
        ) from error
    except OSError as error:
        raise DataError(
            f"{printable(str(path))} can't be read: {error.strerror or error}."
        ) from error


def decode_line(line: bytes | None) -> str:
    """A line as text. Raises RowError where it is too long or not UTF-8."""
    if line is None:
        raise RowError(TOO_LONG)
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"{error.reason} at byte {error.start} of the line"
        raise RowError(NOT_UTF8, detail) from None
