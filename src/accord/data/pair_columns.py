"""Pairs of responses under other names than chosen and rejected, with a label.

Two columns are a pair where their names differ in the last character alone, 1 and 2, 0 and 1, or
a and b (`output_1` and `output_2`). A label may be a side's name or number; where it can't be known
which side a number names, the rows are refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Literal

from accord.data.checks import RowError, parse_number, truncate
from accord.data.columns import Cells
from accord.data.pair_names import ONE_HOT, STRENGTHS, looks_like_response
from accord.errors import DataError

Side = Literal["a", "b", "tie"]

_TIES = {"tie", "both_bad", "bothbad", "tie (bothbad)", "both", "neither", "draw", "equal"}
_TIES |= {"a=b", "c", "none", "1.5"}
_WORDS: dict[str, Side] = {
    **dict.fromkeys(("a", "a>b", "a>>b", "first"), "a"),
    **dict.fromkeys(("b", "b>a", "b>>a", "second"), "b"),
    **dict.fromkeys(_TIES, "tie"),
}
_SIDE_NAME = re.compile(r"(?:model|response|output|answer|assistant|conversation)[ _]?([ab])")


def preferred_side(cells: Cells) -> Side:
    """The preferred response of a labelled pair. Raises RowError where the row does not say."""
    name = cells.name("preferred")
    if name in ONE_HOT:
        return _one_hot_side(cells.values)
    if looks_like_score(name):
        first, second = (parse_number(cells.values.get(n), n) for n in (name, _other(name)))
        return "tie" if first == second else "a" if first > second else "b"
    value = cells.get("preferred")
    if name in STRENGTHS:
        strength = parse_number(value, name)
        return "tie" if strength == 0 else "a" if strength < 0 else "b"
    if value is None or value == "":
        raise RowError(f"no value in `{name}`")
    side = _read_label(value, cells.name("response_a"), cells.name("response_b"))
    if side is None:
        raise RowError(f"`{name}` names none of the two responses", truncate(value))
    return side


def _one_hot_side(values: Mapping[str, Any]) -> Side:
    """The side whose column of ONE_HOT is 1, and the others' 0."""
    marks = [parse_number(values.get(name) or 0, name) for name in ONE_HOT]
    if sorted(marks) != [0.0, 0.0, 1.0]:
        raise RowError(f"not one of {', '.join(ONE_HOT)} is 1", truncate(marks))
    sides: tuple[Side, ...] = ("a", "b", "tie")
    return sides[marks.index(1.0)]


def _read_label(value: Any, first: str, second: str) -> Side | None:
    word = _normalise(value)
    if word in (first.lower(), second.lower()):
        return "a" if word == first.lower() else "b"
    if word in _WORDS:
        return _WORDS[word]
    named = _SIDE_NAME.fullmatch(word)
    if named is not None:
        return "a" if named[1] == "a" else "b"
    base = 0 if first[-1] == "0" else 1
    by_number: dict[str, Side] = {str(base): "a", str(base + 1): "b"}
    if base == 1 and first[-1] == "1":
        by_number["0"] = "tie"
    return by_number.get(word)


def _normalise(value: Any) -> str:
    """A label in lower case, a whole number without its point."""
    word = str(value).strip().strip("[]").lower()
    return word[:-2] if re.fullmatch(r"-?\d+\.0", word) else word


def looks_like_score(name: str) -> bool:
    """Whether a column holds the score of one response of a pair."""
    return re.fullmatch(r"(?:score|rating|reward)s?_?[01ab]", name.lower()) is not None


def _other(name: str) -> str:
    """The second column of a pair, by the first."""
    return name[:-1] + chr(ord(name[-1]) + 1)


def pair_label_columns(name: str) -> list[str]:
    """All columns that say together which response of a pair is preferred."""
    if name in ONE_HOT:
        return list(ONE_HOT)
    return [name, _other(name)] if looks_like_score(name) else [name]


def require_clear_labels(values: Iterable[Any], names: Mapping[str, str], subject: str) -> None:
    """Raise DataError where the labels of all rows leave open which response a number names."""
    first, second, label = (names[c] for c in ("response_a", "response_b", "preferred"))
    if label in (*ONE_HOT, *STRENGTHS) or looks_like_score(label):
        return
    words = {_normalise(value) for value in values if value is not None}
    numbers = {word for word in words if re.fullmatch(r"-?\d+", word)}
    clear: set[str] = {"0": {"0", "1"}, "1": {"0", "1", "2"}}.get(first[-1], {"1", "2"})
    ambiguous = {"0": set[str](), "1": {"0", "1"}}.get(first[-1], {"1"})
    if not numbers or (numbers <= clear and numbers != ambiguous):
        return
    raise DataError(
        f"{subject} has pairs of responses in `{first}` and `{second}`, and `{label}` holds the "
        f"numbers {', '.join(sorted(numbers))}: it can't be known which response each names. Write "
        f"`{first}`, `{second}` or `tie` there, or give the columns chosen and rejected."
    )


def describe_unlabelled(columns: Collection[str]) -> str:
    """What to do with a pair of responses without a label; empty where the columns hold none."""
    responses = [column for column in columns if looks_like_response(column)]
    if len(responses) < 2:
        return ""
    shown = ", ".join(f"`{column}`" for column in responses)
    return (
        f" {shown} look like responses, and no column says which is preferred: name the better one "
        f"`chosen` and the other `rejected`, or add a column `preferred` that names one of them."
    )
