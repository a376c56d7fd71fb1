"""A model's rows of responses.jsonl as what is measured of them: the answers behind reasoning."""

from __future__ import annotations

from collections.abc import Sequence

from accord.data.write import ResponseRow
from accord.measure.responses import ModelResponses
from accord.measure.rows.texts import question


def model_responses(name: str, rows: Sequence[ResponseRow]) -> ModelResponses:
    """The answers with what is known of each, without scores."""
    parts = [[r.split() for r in row.responses] for row in rows]
    return ModelResponses(
        model=name,
        texts=[[part.answer or "" for part in row] for row in parts],
        kinds=[row.meta.get("kind") for row in rows],
        questions=[question(row.prompt) for row in rows],
        finished=[[r.finished for r in row.responses] for row in rows],
        reasoned=[[bool(part.reasoning) for part in row] for row in parts],
        unanswered=[[part.answer is None for part in row] for row in parts],
    )


def by_row(rows: Sequence[ResponseRow], flat: Sequence[float]) -> list[list[float]]:
    """One value for each response, in the shape [rows][responses]."""
    values = iter(flat)
    return [[next(values) for _ in row.responses] for row in rows]
