"""Reads an arena's battles as columns: millions of rows in a second, some in memory at a time.

The columns are those that `parse_battle` reads row by row, with the same checks. A row that fails
one is parsed by it, so that its reason is the same. A file that Arrow can't read as columns is read
row by row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from accord.data.battles import (
    MARKS,
    PROMPT_COLUMNS,
    WINNERS,
    has_battles,
    parse_battle,
    prompt_name,
)
from accord.data.checks import RowError
from accord.data.files import expand_path, make_row, read_rows
from accord.data.json_rows import decode_json
from accord.data.pair_names import ONE_HOT
from accord.data.record_batches import (
    BATCH_ROWS,
    NotColumnarError,
    line_numbers,
    open_columns,
)
from accord.data.report import Dropped
from accord.errors import DataError
from accord.records import Outcome, Source
from accord.runs.activity import with_activity

TEXT_COLUMNS = (("conversation_a", "conversation_b"), ("response_a", "response_b"))
NUMBERS = {outcome: number for number, outcome in enumerate(get_args(Outcome))}
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class BattleBatch:
    """Some battles as columns. `outcome` indexes the outcomes of `Outcome`; prompts and categories
    are names, "" where a row has none; `texts` are the two models' answers, None where they are
    not read."""

    model_a: Sequence[str] | pa.Array
    model_b: Sequence[str] | pa.Array
    outcome: NDArray[np.int64]
    prompt: Sequence[str] | pa.Array
    category: Sequence[str] | None = None
    texts: tuple[Sequence[str], Sequence[str]] | None = None


@dataclass(slots=True)
class BattleFile:
    """The battles at `path`, with the column `category` and the answers' texts on request.

    `rows` and `dropped` are known when `batches` has ended; `columns` are the file's.
    """

    path: str
    category: str | None = None
    texts: bool = False
    rows: int = 0
    dropped: Dropped = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    def columnar(self) -> Iterator[BattleBatch]:
        """The battles by Arrow. Raises NotColumnarError where it can't read them: `by_rows` can."""
        path = expand_path(self.path)
        unusable: list[tuple[int, dict[str, Any]]] = []
        try:
            names, batches = open_columns(path, self._needed())
            self.columns = tuple(names)
            self._check_columns()
            for batch in batches:
                good = _usable(batch)
                for index in np.flatnonzero(~good).tolist():
                    (values,) = batch.slice(index, 1).to_pylist()
                    unusable.append((self.rows + index, values))
                self.rows += batch.num_rows
                if not good.all():
                    batch = batch.filter(pa.array(good))
                yield self._batch(batch)
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise NotColumnarError from error
        self._drop(path, unusable)

    def by_rows(self) -> Iterator[BattleBatch]:
        """The battles row by row, from any format that `read_rows` reads."""
        self.rows, self.dropped = 0, {}
        rows = with_activity(read_rows(self.path), "reading")
        while chunk := list(islice(rows, BATCH_ROWS)):
            self.rows += len(chunk)
            known = dict.fromkeys((*self.columns, *(c for row in chunk for c in row.values)))
            self.columns = tuple(known)
            if any(row.error is None for row in chunk):
                self._check_columns()
            battles = []
            for row in chunk:
                try:
                    if row.error is not None:
                        raise row.error
                    battles.append((parse_battle(row), row.values))
                except RowError as error:
                    self.dropped.setdefault(error.reason, []).append((row.source, error.detail))
            pair = self._text_columns()
            yield BattleBatch(
                [battle.model_a for battle, _ in battles],
                [battle.model_b for battle, _ in battles],
                np.array([NUMBERS[battle.outcome] for battle, _ in battles], dtype=np.int64),
                [battle.prompt for battle, _ in battles],
                None
                if self.category is None
                else [category_name(values.get(self.category)) for _, values in battles],
                None
                if pair is None
                else tuple([answer_text(v.get(c)) for _, v in battles] for c in pair),  # type: ignore[arg-type]
            )

    def _batch(self, batch: pa.RecordBatch) -> BattleBatch:
        pair = self._text_columns()
        return BattleBatch(
            batch["model_a"],
            batch["model_b"],
            _outcomes(batch),
            _prompts(batch),
            None
            if self.category is None
            else [category_name(value) for value in batch[self.category].to_pylist()],
            None
            if pair is None
            else tuple([answer_text(v) for v in batch[c].to_pylist()] for c in pair),  # type: ignore[arg-type]
        )

    def _needed(self) -> list[str]:
        texts = [column for pair in TEXT_COLUMNS for column in pair] if self.texts else []
        names = ["model_a", "model_b", "winner", *ONE_HOT, *PROMPT_COLUMNS, *texts]
        return names if self.category is None else [*names, self.category]

    def _check_columns(self) -> None:
        if not has_battles(self.columns):
            raise NotColumnarError  # `read_battles` says what these rows would fit
        if self.category is not None and self.category not in self.columns:
            raise DataError(
                f"{self.path} has no column {self.category!r} for `category`; it has "
                f"{', '.join(self.columns)}. Name one of these, or leave it out."
            )
        if self.texts and self._text_columns() is None:
            raise DataError(
                f"{self.path} has no answers to measure the style of: neither conversation_a and "
                f"conversation_b nor response_a and response_b. Leave `style` out."
            )

    def _text_columns(self) -> tuple[str, str] | None:
        if not self.texts:
            return None
        return next((pair for pair in TEXT_COLUMNS if set(pair) <= set(self.columns)), None)

    def _drop(self, path: Path, unusable: Sequence[tuple[int, dict[str, Any]]]) -> None:
        """Count the rows that can't be used, with the reason that `parse_battle` gives."""
        lines = line_numbers(path, [index for index, _ in unusable])
        for (_, values), line in zip(unusable, lines, strict=True):
            if not any(values.values()):
                raise NotColumnarError  # a blank line, which is no empty battle
            row = make_row(values, Source(str(path), line))
            try:
                parse_battle(row)
            except RowError as error:
                self.dropped.setdefault(error.reason, []).append((row.source, error.detail))
            else:
                raise NotColumnarError  # it can be used after all


def category_name(value: Any) -> str:
    """The name of a battle's category; "" where it has none."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def answer_text(value: Any) -> str:
    """The text of one model's answers: a string, a list of strings (or its JSON), or the turns of
    a conversation, of which the assistant's count."""
    if isinstance(value, str) and value[:1] == "[":
        try:
            parsed = decode_json(value)
        except ValueError:
            return value
        if not all(item is None or isinstance(item, str | dict) for item in parsed):
            return value  # an answer that is a list itself
        value = parsed
    if isinstance(value, list | tuple):
        return "\n".join(filter(None, map(_turn_text, value)))
    return value if isinstance(value, str) else ""


def _turn_text(turn: Any) -> str:
    if isinstance(turn, dict):
        if turn.get("role", "assistant") not in ("assistant", "model", "gpt"):
            return ""
        turn = turn.get("content", turn.get("text"))
    if isinstance(turn, list):
        return "\n".join(filter(None, map(_turn_text, turn)))
    return turn if isinstance(turn, str) else ""


def _usable(batch: pa.RecordBatch) -> Bools:
    """Which rows [rows] are battles as they should be; the others are parsed one by one."""
    first, second = (_dictionary(batch[name]) for name in ("model_a", "model_b"))
    good = np.ones(batch.num_rows, dtype=np.bool_)
    for array in (first, second):
        named = [bool(name and name.strip()) for name in array.dictionary.to_pylist()]
        good &= _look_up(array, named, missing=False)
    names = {*first.dictionary.to_pylist(), *second.dictionary.to_pylist()}
    number = {name: i for i, name in enumerate(names)}
    a, b = (
        _look_up(array, [number[name] for name in array.dictionary.to_pylist()], missing=-1)
        for array in (first, second)
    )
    good &= a != b
    if "winner" in batch.schema.names:
        winner = _dictionary(batch["winner"])
        known = [name in WINNERS for name in winner.dictionary.to_pylist()]
        return good & _look_up(winner, known, missing=False)
    return good & (_marks(batch).sum(axis=0) == 1)


def _outcomes(batch: pa.RecordBatch) -> NDArray[np.int64]:
    if "winner" in batch.schema.names:
        winner = _dictionary(batch["winner"])
        numbers = [
            NUMBERS[WINNERS[name]] if name in WINNERS else -1
            for name in winner.dictionary.to_pylist()
        ]
        codes: NDArray[np.int64] = _look_up(winner, numbers, missing=-1)
        return codes
    given = [NUMBERS[WINNERS[column.removeprefix("winner_")]] for column in ONE_HOT]
    return np.array(given, dtype=np.int64)[_marks(batch).argmax(axis=0)]


def _marks(batch: pa.RecordBatch) -> Bools:
    """Whether each outcome's column is 1 [outcomes, rows]."""
    rows = []
    for column in ONE_HOT:
        array = batch[column].dictionary_encode()
        ones = [str(value).strip().lower() in MARKS for value in array.dictionary.to_pylist()]
        rows.append(_look_up(array, ones, missing=False))
    return np.stack(rows)


def _prompts(batch: pa.RecordBatch) -> Sequence[str] | pa.Array:
    columns = [batch[name] for name in PROMPT_COLUMNS if name in batch.schema.names]
    if not columns:
        return [""] * batch.num_rows
    plain = all(pa.types.is_integer(c.type) or _is_text(c.type) for c in columns)
    if plain:
        texts = [column.cast(pa.string()) for column in columns]
        return pa.compute.coalesce(*texts, pa.scalar(""))
    names = [name for name in PROMPT_COLUMNS if name in batch.schema.names]
    return [prompt_name(values) for values in batch.select(names).to_pylist()]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _dictionary(array: pa.Array) -> pa.DictionaryArray:
    if not _is_text(array.type):
        raise NotColumnarError  # a number as a name: its reason is `parse_battle`'s
    return array if pa.types.is_dictionary(array.type) else array.dictionary_encode()


def _look_up(array: pa.DictionaryArray, values: Sequence[Any], *, missing: Any) -> NDArray[Any]:
    """The value of each row's entry in the dictionary."""
    table = np.array([*values, missing])
    codes = array.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)
    return table[codes]
