"""Rows of JSON files: JSON lines, a list of objects, or a single object."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import Any

from accord.data.checks import RowError
from accord.data.lines import MAX_ROW_BYTES, TOO_LONG, decode_line, read_chunks, read_lines
from accord.data.values import MAX_DEPTH, printable
from accord.errors import DataError

ReadRow = tuple[int, "dict[str, Any] | RowError"]
"""The line (or the row), counted from 1, and the values, or why the row can't be used."""

_OUTSIDE = re.compile(r'["\[\]{},]')
_INSIDE = re.compile(r'["\\]')
_NOT_SPACE = re.compile(r"[^ \t\n\r]")
_SPACE = " \t\n\r"
_LONGEST_TOKEN = 12  # an escaped surrogate pair


def read_jsonl(path: Path) -> Iterator[ReadRow]:
    """The rows of JSON lines; blank lines are none."""
    for number, line in read_lines(path):
        if line is not None and not line.strip():
            continue
        try:
            text = decode_line(line).rstrip("\r\n")  # the position of an error lies in this line
            yield number, _require_object(decode_json(text))
        except json.JSONDecodeError as error:
            yield number, RowError("not valid JSON", _describe_syntax_error(error, text))
        except RowError as error:
            yield number, error


def read_json(path: Path) -> Iterator[ReadRow]:
    """A list of objects (the number is then the row's), one object, or JSON lines named .json."""
    text, chunks = "", read_chunks(path)
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    pieces = (decoder.decode(chunk) for chunk in chunks)
    for piece in pieces:
        text = (text + piece).lstrip("\ufeff" + _SPACE)
        if text:
            break
    if text.startswith("["):
        yield from _List(path, chain([text], pieces)).rows()
        return
    for piece in pieces:
        text += piece
        if len(text) > MAX_ROW_BYTES:
            break
    chunks.close()
    first_line = text.partition("\n")[0].rstrip()
    try:
        yield 1, _require_object(decode_json(text))
    except RowError as error:
        if first_line.endswith("}"):
            yield from read_jsonl(path)
        else:
            yield 1, error
    except json.JSONDecodeError:
        if text:
            yield from read_jsonl(path)


def _reject_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise RowError("a key is named twice in an object", printable(repr(repeated)))
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_reject_repeated_keys)


def _decode(text: str, start: int = 0) -> tuple[Any, int]:
    """The JSON value at `start` and the position after it.

    Raises JSONDecodeError where it is no JSON, RowError where it can't be a row's.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (json.JSONDecodeError, RowError):
        raise
    except RecursionError:
        raise RowError(f"values that nest more than {MAX_DEPTH} levels deep") from None
    except ValueError:  # integers of over 4,300 digits
        raise RowError("a number of thousands of digits") from None
    return value, end


def decode_json(text: str) -> Any:
    """The JSON value that is all of `text`.

    Raises JSONDecodeError where it is no JSON, RowError where it can't be a row's.
    """
    start = len(text) - len(text.lstrip(_SPACE))
    value, end = _decode(text, start)
    rest = text[end:].lstrip(_SPACE)
    if rest:
        raise json.JSONDecodeError("Extra data", text, len(text) - len(rest))
    return value


def _describe_syntax_error(error: json.JSONDecodeError, text: str) -> str:
    near = text[max(0, error.pos - 30) : error.pos + 30].strip()
    return f"{error.msg} at character {error.colno}, near {printable(near)!r}"


def _require_object(value: Any) -> dict[str, Any] | RowError:
    if isinstance(value, dict):
        return value
    return RowError("not a JSON object of column names and values", type(value).__name__)


class _List:
    """A list of objects in pieces of text, of which one object at a time is in memory.

    `text` is the present part, and `at` the position in it; `line` and `column` are those of the
    start of `text`.
    """

    def __init__(self, path: Path, pieces: Iterator[str]) -> None:
        self.path, self.pieces = path, pieces
        self.text, self.at, self.line, self.column = "", 0, 1, 0

    def rows(self) -> Iterator[ReadRow]:
        """The objects, numbered from 1. Raises DataError where the list is not valid JSON."""
        self._next_mark()
        self.at += 1  # the bracket
        if self._next_mark() != "]":
            for number in count(1):
                yield number, self._read_item()
                mark = self._next_mark()
                if mark == "]":
                    break
                if mark != ",":
                    raise self._syntax_error("Expecting ',' delimiter")
                self.at += 1
                self._next_mark()
        self.at += 1
        if self._next_mark():
            raise self._syntax_error("Extra data")

    def _read_item(self) -> dict[str, Any] | RowError:
        at_end = False
        while True:
            try:
                value, end = _decode(self.text, self.at)
                if end < len(self.text) or at_end:
                    too_long, self.at = end - self.at > MAX_ROW_BYTES, end
                    return RowError(TOO_LONG) if too_long else _require_object(value)
            except RowError as error:
                self._skip_item()
                return error
            except json.JSONDecodeError as error:
                near_end = error.pos >= len(self.text) - _LONGEST_TOKEN
                if at_end or not (near_end or error.msg.startswith("Unterminated string")):
                    raise self._syntax_error(error.msg, error.pos) from error
                if len(self.text) - self.at > MAX_ROW_BYTES:
                    self._skip_item()
                    return RowError(TOO_LONG)
            at_end = not self._read_more()

    def _skip_item(self) -> None:
        """Go to the mark behind the present item, whatever is in it."""
        depth, inside = 0, False  # of brackets, of a string
        while True:
            match = (_INSIDE if inside else _OUTSIDE).search(self.text, self.at)
            if match is None:
                self.at = max(self.at, len(self.text))
                if not self._read_more():
                    raise self._syntax_error("The list has no end")
                continue
            mark, self.at = match[0], match.end()
            if mark == "\\":
                self.at += 1  # what it escapes, if only in the next piece
            elif mark == '"':
                inside = not inside
            elif mark in "[{":
                depth += 1
            elif depth == 0:
                self.at -= 1
                return
            elif mark in "]}":
                depth -= 1

    def _next_mark(self) -> str:
        """Go to the next character that is no white space; empty at the end."""
        while True:
            match = _NOT_SPACE.search(self.text, self.at)
            if match is not None:
                self.at = match.start()
                return match[0]
            self.at = len(self.text)
            if not self._read_more():
                return ""

    def _read_more(self) -> bool:
        """Forget what is read, and read as much again as is left, so that retries cost linearly."""
        read = self.text[: self.at]
        self.line += read.count("\n")
        self.column = len(read) - read.rfind("\n") - 1 if "\n" in read else self.column + len(read)
        left, self.at = self.text[self.at :], max(0, self.at - len(self.text))
        pieces, size = [left], 0
        while size <= len(left) and (piece := next(self.pieces, None)) is not None:
            pieces.append(piece)
            size += len(piece)
        self.text = "".join(pieces)
        return len(self.text) > len(left)

    def _syntax_error(self, what: str, at: int | None = None) -> DataError:
        error = json.JSONDecodeError(what, self.text, self.at if at is None else at)
        column = error.colno + (self.column if error.lineno == 1 else 0)
        near = printable(self.text[max(0, error.pos - 30) : error.pos + 30].strip())
        return DataError(
            f"{printable(str(self.path))}:{self.line + error.lineno - 1} is not valid JSON: "
            f"{what} at character {column}, near {near!r}. Correct or remove that line."
        )
