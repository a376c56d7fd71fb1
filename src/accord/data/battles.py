"""Parses an arena's rows: which of two models won on a prompt."""

from __future__ import annotations

from accord.data.checks import RowError, require_response, require_text
from accord.data.files import DataRow
from accord.records import Battle, Outcome

WINNERS: dict[str, Outcome] = {
    "model_a": "a",
    "model_b": "b",
    "tie": "tie",
    "tie (bothbad)": "both_bad",
    "both_bad": "both_bad",
    "bothbad": "both_bad",
}


def parse_battle(row: DataRow) -> Battle:
    """The battle in an arena's row. Raises RowError where the row can't be used."""
    model_a, model_b = (
        require_response(require_text(row.values.get(c), c), c) for c in ("model_a", "model_b")
    )
    winner = require_text(row.values.get("winner"), "winner")
    if winner not in WINNERS:
        raise RowError(f"`winner` is none of {', '.join(WINNERS)}", repr(winner))
    if model_a == model_b:
        raise RowError("a model against itself", model_a)
    return Battle(model_a, model_b, WINNERS[winner])
