"""The page's tables about models as data: the rows of results.json, and win rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.measure.measures import Column, table_columns
from accord.measure.ratings.battles import PairCounts
from accord.measure.statistics import proportion_interval
from accord.report.formatting import format_p, format_percent
from accord.report.tables.cells import Cell, table_cell
from accord.report.tables.rows import Row, has_value


def model_columns(rows: Sequence[Row]) -> dict[str, Column]:
    """The columns, by key, in which at least one model has a value."""
    return {
        key: column
        for key, column in table_columns("models").items()
        if any(has_value(row, key) for row in rows)
    }


def model_cells(rows: Sequence[Row], columns: Mapping[str, Column]) -> list[list[Cell]]:
    """One list of cells for each model. A ceiling is never marked as the best."""
    eligible = [row for row in rows if not row.get("ceiling")]
    best = {key: _best_value(eligible, key, column) for key, column in columns.items()}
    return [[_cell(row, key, columns[key], best[key]) for key in columns] for row in rows]


def _best_value(rows: Sequence[Row], key: str, column: Column) -> float | None:
    """None where neither direction is better, or no model is ahead of another."""
    values = [row[key] for row in rows if has_value(row, key)]
    if not column.direction or len(values) < 2 or min(values) == max(values):
        return None
    return max(values) if column.direction > 0 else min(values)


def _cell(row: Row, key: str, column: Column, best: float | None) -> Cell:
    low, high = row.get(f"{key}_low"), row.get(f"{key}_high")
    return table_cell(row.get(key), low, high, column, best)


EVEN_SHADE = 5


@dataclass(frozen=True, slots=True)
class WinCell:
    """A win rate as text with its exact interval, its shade in steps of a tenth (0 to 10), and the
    counts behind it. The shade is the middle one where the interval includes one half."""

    text: str
    interval: str
    shade: int
    detail: str


@dataclass(frozen=True, slots=True)
class WinTable:
    """Win rates: `cells[i][j]` is how often model i is preferred to model j, None on the diagonal
    and where the two never met."""

    names: tuple[str, ...]
    cells: tuple[tuple[WinCell | None, ...], ...]


def win_table(ratings: Mapping[str, Any] | None) -> WinTable | None:
    """The matrix of ratings.json's pairs, in the order of the ratings; None without pairs. The
    intervals and the tests by prompt are those of `comparisons`, where the file has them."""
    pairs = (ratings or {}).get("pairs") or []
    if not ratings or not pairs:
        return None
    names = tuple(row["model"] for row in ratings["models"])
    cells: dict[tuple[str, str], WinCell | None] = {}
    compared = {frozenset((row["a"], row["b"])): row for row in ratings.get("comparisons") or ()}
    for pair in pairs:
        wins, ties = (pair["wins_a"], pair["wins_b"]), (pair["ties"], pair.get("both_bad", 0))
        counts = PairCounts(pair["a"], pair["b"], *wins, *ties)
        row = compared.get(frozenset((counts.a, counts.b)))
        cells[counts.a, counts.b] = _win_cell(counts, row)
        cells[counts.b, counts.a] = _win_cell(counts.swapped(), row)
    return WinTable(names, tuple(tuple(cells.get((a, b)) for b in names) for a in names))


def _win_cell(counts: PairCounts, row: Mapping[str, Any] | None) -> WinCell | None:
    if not counts.battles:
        return None
    even = counts.ties + counts.both_bad
    detail = f"{counts.wins_a} won, {counts.wins_b} lost, {even} tied"
    rate = proportion_interval(counts.score, counts.battles)
    low, high = rate.low, rate.high
    if row is not None:
        low, high = ((row["rate"] or {}).get(bound) for bound in ("low", "high"))
        if row["a"] != counts.a:
            low, high = (None if bound is None else 1 - bound for bound in (high, low))
        detail += f" on {row['prompts']} prompts; {format_p(row['holm_p'])} (permutation, Holm)"
    low, high = low or 0.0, 1.0 if high is None else high
    shade = EVEN_SHADE if low <= 0.5 <= high else round(rate.mean * 10)
    return WinCell(format_percent(rate.mean), f"{100 * low:.0f}–{100 * high:.0f}", shade, detail)
