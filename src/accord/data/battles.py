"""Parses an arena's rows: which of two models won on a prompt."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from accord.data.checks import RowError, require_response, require_text
from accord.data.files import DataRow
from accord.data.pair_names import ONE_HOT
from accord.records import Battle, Outcome

WINNERS: dict[str, Outcome] = {
    "model_a": "a",
    "model_b": "b",
    "tie": "tie",
    "tie (bothbad)": "both_bad",
    "both_bad": "both_bad",
    "bothbad": "both_bad",
}


MARKS = ("1", "1.0", "true")  # of an outcome's column, in any case
PROMPT_COLUMNS = ("question_id", "prompt", "instruction", "question")


def has_battles(columns: Collection[str]) -> bool:
    """Whether rows with these columns are battles, with the winner in one column or in three."""
    return {"model_a", "model_b"} <= set(columns) and (
        "winner" in columns or set(ONE_HOT) <= set(columns)
    )


def find_winner(row: DataRow) -> Any:
    """The winner, also of rows with a column of 0 or 1 for each outcome (`winner_model_a`, …)."""
    if "winner" in row.values or not set(ONE_HOT) <= set(row.values):
        return row.values.get("winner")
    marks = [str(row.values[column]).strip().lower() for column in ONE_HOT]
    chosen = [c for c, mark in zip(ONE_HOT, marks, strict=True) if mark in MARKS]
    if len(chosen) != 1:
        raise RowError(f"not one of {', '.join(ONE_HOT)} is 1", ", ".join(marks))
    return chosen[0].removeprefix("winner_")


def parse_battle(row: DataRow) -> Battle:
    """The battle in an arena's row. Raises RowError where the row can't be used."""
    model_a, model_b = (
        require_response(require_text(row.values.get(c), c), c) for c in ("model_a", "model_b")
    )
    winner = require_text(find_winner(row), "winner")
    if winner not in WINNERS:
        raise RowError(f"`winner` is none of {', '.join(WINNERS)}", repr(winner))
    if model_a == model_b:
        raise RowError("a model against itself", model_a)
    return Battle(model_a, model_b, WINNERS[winner], prompt_name(row.values))


def prompt_name(values: Mapping[str, Any]) -> str:
    """What names the prompt of a battle: its number, or its text; "" where the row has neither."""
    value = next((values[c] for c in PROMPT_COLUMNS if values.get(c) is not None), "")
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
