"""What ratings.json says beyond a rating for each model, as tables: at equal length and style, by
category, over checkpoints and rounds, and which battles are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from accord.report.formatting import (
    format_interval,
    format_number,
    format_percent,
    format_signed,
    visible,
)
from accord.report.tables.cells import Cell

SHOWN = 8
"""Rows of a table that stand on the page; the rest is folded."""


@dataclass(frozen=True, slots=True)
class TableRow:
    """The models or names that a row is about, and its cells."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class RatingTable:
    """A table with its caption. `heads` are the headings of a row's names, `columns` those of its
    cells with their meanings. `folded` are rows that a reader opens."""

    title: str
    caption: str
    heads: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    rows: tuple[TableRow, ...]
    folded: tuple[TableRow, ...] = ()
    notes: tuple[str, ...] = ()


def rating_tables(ratings: Mapping[str, Any]) -> list[RatingTable]:
    """The tables of the key `ratings` of results.json that have rows."""
    tables = (
        _length_controlled(ratings["length_controlled"]),
        *_style(ratings["style"]),
        _categories(ratings["categories"], ratings["category_spread"]),
        *_runs(ratings["runs"]),
        _not_distinguished(ratings["not_distinguished"], ratings["not_distinguished_pairs"]),
        _next_pairs(ratings["next_pairs"]),
    )
    return [table for table in tables if table is not None]


def _length_controlled(rows: Sequence[Mapping[str, Any]]) -> RatingTable | None:
    if not rows:
        return None
    baseline = visible(rows[0]["baseline"])
    lines = [
        TableRow(
            (row["model"],),
            (
                Cell(format_percent(row["raw"])),
                _share_cell(row["rate"]),
                Cell(_change(row)),
                Cell(f"{row['battles']:,}"),
            ),
        )
        for row in rows
    ]
    notes = [f"{visible(row['model'])} {visible(row['note'])}." for row in rows if row["note"]]
    return _table(
        "At equal length",
        f"How often each model beats {baseline}, and how often it would if their answers were "
        "equally long (Dubois et al. 2024). What disappears here was won by length.",
        ("Model",),
        (
            ("Wins", "share of battles won, ties half"),
            ("At equal length", "the same, predicted where both answers are as long"),
            ("Change", "in percentage points"),
            ("Battles", "between the two"),
        ),
        lines,
        notes=notes,
    )


def _change(row: Mapping[str, Any]) -> str:
    if row["rate"] is None or row["note"]:
        return "–"
    return format_signed(100 * (row["rate"]["mean"] - row["raw"]), 0)


def _share_cell(rate: Mapping[str, Any] | None) -> Cell:
    if rate is None:
        return Cell("–")
    low, high = rate["low"], rate["high"]
    bounded = low is not None and high is not None
    small = f"{format_percent(low)} to {format_percent(high)}" if bounded else ""
    return Cell(format_percent(rate["mean"]), small)


def _points(row: Mapping[str, Any], key: str = "rating", signed: bool = False) -> Cell:
    text = format_signed(row[key], 0) if signed else format_number(row[key], 0)
    low, high = row["low"], row["high"]
    fixed = low is not None and low == high  # the anchor
    return Cell(text, "" if fixed else format_interval(low, high, 0))


def _style(style: Mapping[str, Any]) -> Iterator[RatingTable | None]:
    if style["effects"]:
        yield _table(
            "What style is worth",
            "Points that a standard deviation more of a style than the other answer is worth to "
            "the judge, at equal strength.",
            ("Style",),
            (("Points", "with their interval"), ("Odds", "the factor on the odds of winning")),
            [
                TableRow(
                    (row["name"],),
                    (_points(row, "elo", signed=True), Cell(f"×{row['odds_ratio']:.2f}")),
                )
                for row in style["effects"]
            ],
        )
    if style["models"]:
        yield _table(
            "At equal style",
            "Ratings with these styles held equal (Chiang et al. 2024), and by how much they "
            "differ from the plain ones.",
            ("Model",),
            (("Rating", "at equal style"), ("Change", "against the plain rating")),
            [
                TableRow((row["model"],), (_points(row), Cell(format_signed(row["change"], 0))))
                for row in style["models"]
            ],
        )


def _categories(rows: Sequence[Mapping[str, Any]], spread: float | None) -> RatingTable | None:
    """A row for each category, most battles first, and a column for each model."""
    if not rows:
        return None
    names = list(dict.fromkeys(model["model"] for row in rows for model in row["models"]))
    ordered = sorted(rows, key=lambda row: (-row["battles"], row["category"]))
    lines = []
    for row in ordered:
        by_name = {model["model"]: model for model in row["models"]}
        best = row["models"][0]["model"] if row["models"] else None
        cells = [_category_cell(by_name.get(name), name == best) for name in names]
        lines.append(TableRow((row["category"],), (Cell(f"{row['battles']:,}"), *cells)))
    caption = (
        "Ratings in each category, drawn toward the overall ones where battles are few; bold: the "
        "first of a category. A rating in parentheses rests on the overall one for more than half."
    )
    if spread is not None:
        caption += f" Ratings differ between categories by about {format_number(spread, 0)} points."
    return _table(
        "By category",
        caption,
        ("Category",),
        (("Battles", "in the category"), *((visible(name), "its rating") for name in names)),
        lines,
        notes=[
            f"{visible(row['category'])}: {visible(row['note'])}." for row in ordered if row["note"]
        ],
    )


def _category_cell(model: Mapping[str, Any] | None, is_best: bool) -> Cell:
    if model is None:
        return Cell("–")
    cell = _points(model)
    text = cell.text if model["weight"] >= 0.5 else f"({cell.text})"
    return Cell(text, cell.small, is_best)


def _runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[RatingTable]:
    for run in runs:
        name = visible(run["run"])
        unit = str(run["unit"])
        yield _table(
            f"Ratings of {name} by {unit}" if name else f"Ratings by {unit}",
            f"Each {unit}'s model in one fit with all others.",
            (unit.capitalize(),),
            (("Rating", "with its interval"), ("Change", f"against the {unit} before")),
            [
                TableRow((f"{moment['number']:,}",), (_points(moment), Cell(change)))
                for moment, change in zip(run["moments"], _changes(run["moments"]), strict=True)
            ],
        )


def _changes(moments: Sequence[Mapping[str, Any]]) -> list[str]:
    ratings = [moment["rating"] for moment in moments]
    return ["", *(format_signed(after - before, 0) for before, after in pairwise(ratings))]


def _not_distinguished(pairs: Sequence[Mapping[str, Any]], count: int) -> RatingTable | None:
    if not pairs:
        return None
    left_out = count - len(pairs)
    return _table(
        "Which models the battles do not distinguish",
        "Neither of the two is surely better. So many more battles between them would show their "
        "order, if the difference stays as it is (power 80%, all pairs at once).",
        ("Higher", "Lower"),
        (("Difference", "in points"), ("Battles needed", "more, between the two")),
        [
            TableRow(
                (pair["better"], pair["worse"]),
                (
                    Cell(format_number(pair["elo_difference"], 0)),
                    Cell("equal so far" if (n := pair["more_battles"]) is None else f"{n:,}"),
                ),
            )
            for pair in pairs
        ],
        notes=[f"{left_out:,} more pairs are not listed."] if left_out > 0 else [],
    )


def _next_pairs(pairs: Sequence[Mapping[str, Any]]) -> RatingTable | None:
    if not pairs:
        return None
    joins = pairs[0]["variance_removed"] is None
    return _table(
        "Which battles to hold next",
        "They join models that have no common scale."
        if joins
        else "The battles that lower the ratings' summed variance most, and by how much one does.",
        ("Model", "Against"),
        () if joins else (("Variance", "the share that one battle removes"),),
        [
            TableRow(
                (pair["a"], pair["b"]),
                () if joins else (Cell("−" + format_percent(pair["variance_removed"], 2)),),
            )
            for pair in pairs
        ],
    )


def _table(
    title: str,
    caption: str,
    heads: tuple[str, ...],
    columns: Sequence[tuple[str, str]],
    rows: Sequence[TableRow],
    notes: Sequence[str] = (),
) -> RatingTable:
    # One row more than the limit is no reason to fold it.
    shown = len(rows) if len(rows) <= SHOWN + 1 else SHOWN
    return RatingTable(
        title,
        caption,
        heads,
        tuple(columns),
        tuple(rows[:shown]),
        tuple(rows[shown:]),
        tuple(notes),
    )
