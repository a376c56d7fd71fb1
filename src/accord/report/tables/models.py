"""The page's tables about models as data: the rows of results.json, and win rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.report.plain import duration, number, percent, spread
from accord.report.tables.rows import Row, known


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as text, small print below it, and whether it is the best of its column."""

    text: str
    small: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True)
class Column:
    """A key of a row, its heading, what it means, how it is shown, and which end is good."""

    key: str
    heading: str
    meaning: str
    digits: int = 2
    share: bool = False
    better: int = 0  # 1: higher, -1: lower, 0: neither
    group: str = ""


COLUMNS = (
    Column("true_reward", "True reward", "what the world says the answers are worth", 3, better=1),
    Column("elo", "Rating", "Bradley-Terry strength on the Elo scale", 0, better=1),
    Column("reward_model_score", "Score", "mean score of the reward model", 2),
    Column("proxy_gain", "Proxy", "gain by the reward model it was trained against", 2),
    Column("kl", "KL", "divergence from the reference, nats a response", 2),
    Column("refusal_harmful", "Harmful", "refused, higher is better", 0, True, 1, "Refuses"),
    Column("refusal_jailbreak", "Jailbreak", "refused, higher is better", 0, True, 1, "Refuses"),
    Column("refusal_safe", "Safe", "refused though safe, lower is better", 0, True, -1, "Refuses"),
    Column("mean_length", "Words", "mean length of a response", 1),
    Column("distinct_2", "Distinct-2", "distinct word pairs at an equal count of words", 2),
    Column("duplicate_share", "Repeats", "responses that repeat another exactly", 0, True),
    Column("seconds", "Time", "spent on training"),
)


def model_columns(rows: Sequence[Row]) -> list[Column]:
    """The columns for which some model has a value."""
    return [column for column in COLUMNS if any(known(row, column.key) for row in rows)]


def model_cells(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[Cell]]:
    """One list of cells a model."""
    eligible = [row for row in rows if not row.get("ceiling")]
    best = {column.key: _best(eligible, column) for column in columns}
    return [[_cell(row, column, best[column.key]) for column in columns] for row in rows]


def _best(rows: Sequence[Row], column: Column) -> float | None:
    values = [row[column.key] for row in rows if known(row, column.key)]
    if not column.better or len(values) < 2 or min(values) == max(values):
        return None
    return max(values) if column.better > 0 else min(values)


def _cell(row: Row, column: Column, best: float | None) -> Cell:
    value = row.get(column.key)
    if column.key == "seconds":
        return Cell(duration(value))
    show: Callable[[float | None, int], str] = percent if column.share else number
    bounds = row.get(f"{column.key}_low"), row.get(f"{column.key}_high")
    small = "" if column.share else spread(value, *bounds, column.digits)
    return Cell(show(value, column.digits), small, value is not None and value == best)


@dataclass(frozen=True, slots=True)
class WinTable:
    """Win rates: `cells[i][j]` is how often model i is preferred to model j, None on the diagonal
    and where two never met. `shade` is in steps of a tenth, 0 to 10."""

    names: tuple[str, ...]
    cells: tuple[tuple[WinCell | None, ...], ...]


@dataclass(frozen=True, slots=True)
class WinCell:
    text: str
    shade: int
    detail: str


def win_table(ratings: Mapping[str, Any] | None) -> WinTable | None:
    """The matrix of ratings.json's pairs, in the order of the ratings; None without pairs."""
    pairs = (ratings or {}).get("pairs") or []
    if not ratings or not pairs:
        return None
    names = tuple(row["model"] for row in ratings["models"])
    cells: dict[tuple[str, str], WinCell | None] = {}
    for pair in pairs:
        wins, losses = pair["wins_a"], pair["wins_b"]
        even = pair["ties"] + pair.get("both_bad", 0)
        cells[pair["a"], pair["b"]] = _win_cell(wins, losses, even)
        cells[pair["b"], pair["a"]] = _win_cell(losses, wins, even)
    return WinTable(names, tuple(tuple(cells.get((a, b)) for b in names) for a in names))


def _win_cell(wins: int, losses: int, even: int) -> WinCell | None:
    battles = wins + losses + even
    if not battles:
        return None
    rate = (wins + even / 2) / battles
    return WinCell(percent(rate), round(rate * 10), f"{wins} won, {losses} lost, {even} tied")
