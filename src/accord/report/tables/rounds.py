"""Rounds of sampling, judging and training: a table with each round's model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from accord.measure.measures import Column, table_columns
from accord.measure.ratings.notes import join_names
from accord.report.formatting import visible
from accord.report.tables.cells import Cell, table_cell
from accord.report.tables.rows import Row

_TERMINAL_INTERVALS = ("true_reward", "reward_model_score")
"""The measures whose interval fits into a terminal."""
_NOT_IN_TERMINAL = ("elo",)
"""The wins say the same of two models, and 80 columns are few."""


@dataclass(frozen=True, slots=True)
class RoundsTable:
    """The table on the page: a sentence above it, its columns by key, and a row of cells, one for
    each column, for every round."""

    sentence: str
    columns: Mapping[str, Column]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def rounds_columns(rows: Sequence[Row]) -> dict[str, Column]:
    """The columns, by key, in which at least one round has a value."""
    return {
        key: column
        for key, column in table_columns("rounds").items()
        if any(value_with_bounds(row, key)[0] is not None for row in rows)
    }


def value_with_bounds(row: Row, key: str) -> tuple[float | None, float | None, float | None]:
    """A number of rounds.json with the bounds of its interval; None for what is unknown."""
    value = row.get(key)
    if isinstance(value, Mapping):
        return value.get("mean"), value.get("low"), value.get("high")
    return (float(value) if isinstance(value, int | float) else None), None, None


def rounds_table(lineage: Mapping[str, Any]) -> RoundsTable:
    """The content of a rounds.json as a table for the page."""
    rows: list[Row] = lineage["rounds"]
    columns = rounds_columns(rows)
    return RoundsTable(
        f"{_sentence(lineage)}{_arena(columns)}",
        columns,
        tuple(
            (
                str(row["round"]),
                tuple(table_cell(*value_with_bounds(row, k), c) for k, c in columns.items()),
            )
            for row in rows
        ),
    )


def terminal_rounds_table(lineage: Mapping[str, Any]) -> Table:
    """The same for a terminal of some 80 columns, with intervals of the rewards alone."""
    page = rounds_table(lineage)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("round", justify="right", no_wrap=True)
    shown = [key for key in page.columns if key not in _NOT_IN_TERMINAL]
    for key in shown:
        table.add_column(page.columns[key].heading.lower(), justify="right", no_wrap=True)
    for name, cells in page.rows:
        by_key = dict(zip(page.columns, cells, strict=True))
        texts = (
            f"{by_key[key].text} {by_key[key].small if key in _TERMINAL_INTERVALS else ''}"
            for key in shown
        )
        table.add_row(name, *(text.strip() for text in texts))
    return table


def _sentence(lineage: Mapping[str, Any]) -> str:
    method = visible(str(lineage.get("method"))).replace("_", " ")
    data = "its own verdicts" if lineage.get("keep_data") == "round" else "all verdicts so far"
    parts = [f"Each round samples from its model and trains by {method} on {data}"]
    if lineage.get("reference") is not None:
        moving = lineage["reference"] == "moving"
        parts.append(
            f"the reference is {'the start of each round' if moving else 'the first model'}"
        )
    text = f"{join_names(parts)}. Round 0 is the model before training."
    judge = lineage.get("judge") or {}
    if judge.get("kind", "world") == "world" and not any((judge.get("flaws") or {}).values()):
        return text  # its annotators know the truth
    return (
        f"{text} The judge that measures here is the one whose verdicts the rounds learn from: "
        f"that it prefers later rounds says that they please it, not that they are better."
    )


def _arena(columns: Mapping[str, Column]) -> str:
    """A sentence where the rounds lack ratings."""
    if "elo" in columns:
        return ""
    if "win_rate" in columns:  # of an earlier version
        return " rounds.json has no ratings: the wins are those of each round's arena."
    return " No arena was held in these rounds, so they have no ratings."
