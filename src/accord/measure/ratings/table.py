"""Battles as columns: what ratings read of millions of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from accord.errors import DataError
from accord.measure.ratings.battles import OUTCOMES, SWAPPED, Counts
from accord.measure.statistics import Floats
from accord.records import Battle, Outcome

Integers = NDArray[np.int64]
_SWAPPED = np.array([OUTCOMES.index(SWAPPED[outcome]) for outcome in OUTCOMES])


@dataclass(frozen=True)
class BattleTable:
    """N battles among `names`: `a` and `b` [N] are the two models' indices, `outcome` [N] the index
    in `OUTCOMES`.

    `prompt` [N] numbers the prompts, whose battles are not independent of each other, and
    `category` [N] indexes `categories`. `style` [N, k] is how the two responses differ, in the
    units of `style_names`; it changes its sign when the sides are exchanged. `lengths` [N, 2] are
    the characters of the two responses. Each may be absent.
    """

    names: tuple[str, ...]
    a: Integers
    b: Integers
    outcome: Integers
    prompt: Integers | None = None
    categories: tuple[str, ...] = ()
    category: Integers | None = None
    style_names: tuple[str, ...] = ()
    style: Floats | None = None
    lengths: Floats | None = None

    def __len__(self) -> int:
        return len(self.a)

    @cached_property
    def cells(self) -> Integers:
        """The cell [N] of each battle: (i·models + j)·outcomes + outcome, the lower index first."""
        swapped = self.a > self.b
        first, second = np.where(swapped, (self.b, self.a), (self.a, self.b))
        outcome = np.where(swapped, _SWAPPED[self.outcome], self.outcome)
        cells: Integers = (first * len(self.names) + second) * len(OUTCOMES) + outcome
        return cells

    def counts(self) -> Counts:
        """The number of battles of each two models with each outcome."""
        numbers = np.bincount(self.cells)
        cells = np.flatnonzero(numbers)
        result: dict[tuple[str, str, Outcome], int] = {}
        for cell, number in zip(cells.tolist(), numbers[cells].tolist(), strict=True):
            pair, outcome = divmod(cell, len(OUTCOMES))
            i, j = divmod(pair, len(self.names))
            result[self.names[i], self.names[j], OUTCOMES[outcome]] = number
        return result

    def by_prompt(self) -> tuple[csr_array, Integers]:
        """How many battles of each prompt lie in each cell, [prompts, cells], and these cells.

        Without prompts each battle is one of its own.
        """
        cells = np.flatnonzero(np.bincount(self.cells))
        column = np.searchsorted(cells, self.cells)
        row = np.arange(len(self)) if self.prompt is None else self.prompt
        shape = (int(row.max()) + 1, len(cells))
        return csr_array((np.ones(len(self)), (row, column)), shape=shape), cells

    def select(self, rows: NDArray[np.bool_]) -> BattleTable:
        """The battles of some rows, with all models."""
        return BattleTable(
            self.names,
            self.a[rows],
            self.b[rows],
            self.outcome[rows],
            None if self.prompt is None else np.unique(self.prompt[rows], return_inverse=True)[1],
            self.categories,
            None if self.category is None else self.category[rows],
            self.style_names,
            None if self.style is None else self.style[rows],
            None if self.lengths is None else self.lengths[rows],
        )


def battle_table(
    model_a: Any,
    model_b: Any,
    outcomes: Any,
    *,
    prompts: Any = None,
    categories: Any = None,
    style: Any = None,
    style_names: Sequence[str] = (),
) -> BattleTable:
    """A table from columns of names, of outcomes (`a`, `b`, `tie`, `both_bad`) and of what else is
    known: lists, arrays, Series, or Arrow arrays.

    `prompts` and `categories` are names or numbers; `style` [N, k] holds numbers. Raises DataError
    where columns differ in length, a model meets itself, an outcome is unknown or a style is not a
    finite number.
    """
    names, (a, b) = _codes([model_a, model_b], "models")
    if len(a) != len(b):
        raise DataError(f"{len(a)} first models meet {len(b)} second ones: pass as many of each.")
    known, (given,) = _codes([outcomes], "outcomes")
    unknown = next((name for name in known if name not in OUTCOMES), None)
    if unknown is not None:
        raise DataError(f"A battle has the outcome {unknown!r}; use one of {', '.join(OUTCOMES)}.")
    index = np.array([OUTCOMES.index(name) for name in known], dtype=np.int64)
    itself = np.flatnonzero(a == b) if len(a) else np.zeros(0, dtype=np.int64)
    if len(itself):
        raise DataError(
            f"{names[a[itself[0]]]!r} battles itself in row {itself[0] + 1}; give the two sides "
            f"different model names."
        )
    prompt = None if prompts is None else _codes([prompts], "prompts")[1][0]
    group_names: tuple[str, ...] = ()
    group = None
    if categories is not None:
        group_names, (group,) = _codes([categories], "categories")
    matrix = None if style is None else _style(style, len(a), style_names)
    columns = {"outcomes": given, "prompts": prompt, "categories": group, "style": matrix}
    for name, column in columns.items():
        if column is not None and len(column) != len(a):
            raise DataError(f"{len(a)} battles have {len(column)} {name}: pass one each.")
    return BattleTable(
        names, a, b, index[given], prompt, group_names, group, tuple(style_names), matrix
    )


def table_of_battles(battles: Sequence[Battle]) -> BattleTable:
    """Battles with their prompts as a table."""
    return battle_table(
        [battle.model_a for battle in battles],
        [battle.model_b for battle in battles],
        [battle.outcome for battle in battles],
        prompts=[battle.prompt for battle in battles],
    )


def _codes(columns: Sequence[Any], what: str) -> tuple[tuple[str, ...], list[Integers]]:
    """The sorted distinct values of some columns as text, and each column as indices into them."""
    arrays = []
    for column in columns:
        array = pa.array(column) if not isinstance(column, pa.Array | pa.ChunkedArray) else column
        array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
        if array.null_count:
            raise DataError(f"{array.null_count} of the {what} are missing. Leave these rows out.")
        arrays.append(array.cast(pa.string()).dictionary_encode())
    names = sorted({name for array in arrays for name in array.dictionary.to_pylist()})
    index = {name: i for i, name in enumerate(names)}
    codes = []
    for array in arrays:
        order = np.array([index[name] for name in array.dictionary.to_pylist()], dtype=np.int64)
        codes.append(order[array.indices.to_numpy(zero_copy_only=False).astype(np.int64)])
    return tuple(names), codes


def _style(style: Any, rows: int, names: Sequence[str]) -> Floats:
    matrix = np.asarray(style, dtype=np.float64).reshape(rows, -1)
    if matrix.shape[1] != len(names):
        raise DataError(f"`style` has {matrix.shape[1]} columns and {len(names)} names.")
    if not np.isfinite(matrix).all():
        row = int(np.flatnonzero(~np.isfinite(matrix).all(axis=1))[0])
        raise DataError(f"The style of battle {row + 1} is not a finite number.")
    return matrix
