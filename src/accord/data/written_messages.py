"""Messages that a cell holds as text: JSON, Python's notation, or NumPy's.

pandas writes a list into a CSV as Python's notation, and an array as NumPy's, without commas
between its items. Literals alone are read; nothing is evaluated.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping
from typing import Any

from accord.data.checks import RowError, truncate
from accord.data.values import to_plain

MAX_LENGTH = 2_000_000  # characters of text in Python's notation: its syntax tree is much larger
_OBJECT = re.compile(r"""\s*(?:array\()?[\[(]?\s*\{\s*['"]([\w.-]{1,40})['"]\s*:""")
_ROLE = re.compile(r"""['"](?:role|from)['"]\s*:""")
_FIRST_KEYS = {"role", "from", "content", "value"}


def may_be_messages(text: str) -> bool:
    """Whether `messages_in_text` looks for messages in a text, and may raise."""
    return _first_key(text) is not None


def _first_key(text: str) -> str | None:
    """The first key of a text that begins as messages do; None for other texts."""
    first = _OBJECT.match(text)
    return first[1] if first is not None and _ROLE.search(text) is not None else None


def messages_in_text(text: str, column: str) -> list[dict[str, Any]] | None:
    """The messages that a text writes, as a list of dicts; None where it writes no messages.

    Raises RowError for a text that begins as messages do and can't be read.
    """
    first_key, stripped = _first_key(text), text.strip()
    if first_key is None or not stripped.endswith(("]", "}", ")")):
        return None
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        value = _read_literal(stripped)
    if value is None and first_key in _FIRST_KEYS:
        raise RowError(f"`{column}` holds text that begins as messages do", truncate(text))
    turns = [value] if isinstance(value, Mapping) else value
    if isinstance(turns, list | tuple) and turns and all(map(_is_turn, turns)):
        try:
            return [to_plain(turn) for turn in turns]
        except RowError as error:
            raise RowError(f"`{column}` {error.reason}", error.detail) from None
    return None


def _is_turn(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    contents = {"content", "tool_calls", "function_call"}
    return ("role" in value and bool(contents & value.keys())) or {"from", "value"} <= value.keys()


def _read_literal(text: str) -> Any:
    """The value that a text writes in Python's or NumPy's notation; None where it writes none."""
    if len(text) > MAX_LENGTH:
        return None
    for rewrite in (str, _with_commas):
        try:
            return ast.literal_eval(rewrite(text))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
        except tokenize.TokenError:
            continue
    return None


def _with_commas(text: str) -> str:
    """NumPy's notation as Python's: commas between objects, and no `array(…, dtype=object)`."""
    skipped = (tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT)
    tokens = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in skipped
    ]
    pieces: list[str] = []
    i = 0
    while i < len(tokens):
        if tokens[i : i + 2] == ["array", "("]:
            i += 2
            continue
        if tokens[i : i + 4] == [",", "dtype", "=", "object"]:
            i += 5  # with the bracket behind it
            continue
        if tokens[i] == "{" and pieces and pieces[-1] in ("}", "]"):
            pieces.append(",")
        pieces.append(tokens[i])
        i += 1
    return " ".join(pieces)
