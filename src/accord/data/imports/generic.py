"""Rows of pairs, rankings and ratings under the names that training reads too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from accord.data.checks import RowError, parse_all_finished
from accord.data.columns import COLUMNS, Cells, Format, match_columns, matching_formats
from accord.data.files import DataRow
from accord.data.formats import parse_record
from accord.data.imports.fields import leave_out, opened_texts, verdict_fields
from accord.data.imports.judged import (
    UNKNOWN_MODEL,
    JudgedAnswer,
    JudgedRow,
    Opinion,
    plain_text,
    ranking_or_pair,
    read_answers,
    whole_ranks,
)
from accord.data.pair_columns import preferred_side
from accord.data.pair_names import STRENGTHS
from accord.data.pairs import parse_sides
from accord.records import Comparison, Rating

FORMS: tuple[Format, ...] = (
    "preference",
    "implicit preference",
    "labelled pair",
    "ranking",
    "unpaired",
    "rating",
)
BOTH_BAD = {"both_bad", "bothbad", "tie (bothbad)", "neither", "both bad"}
MODEL_COLUMNS = {
    "chosen": ("chosen_model", "model_chosen"),
    "rejected": ("rejected_model", "model_rejected"),
    "response": ("model", "generator"),
}


def form_of(row: DataRow) -> Format | None:
    """The format of the row, None where it holds no preference."""
    present = matching_formats([c for c, v in row.values.items() if v is not None])
    return next((form for form in FORMS if form in present), None)


def parse_generic(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """A pair, a ranking or a rating. Raises RowError where the row holds none."""
    form = form_of(row)
    if form is None:
        expected = "; ".join(", ".join(COLUMNS[f]) for f in FORMS if f != "labelled pair")
        raise RowError(f"the row has no preference: its columns are none of {expected}")
    fields = verdict_fields(row.values, notes)
    annotator = fields.pop("annotator", None)
    if form == "ranking":
        return _ranking(row, annotator, fields, notes)
    names = match_columns(row.values)
    if form == "labelled pair":
        return _labelled_pair(row, names, annotator, fields, notes)
    values = {name: value for name, value in row.values.items() if name != "probability"}
    record = parse_record(DataRow(values, row.source), form, names, notes)
    if isinstance(record, Comparison):
        if record.chosen_fields or record.rejected_fields:
            raise RowError("a response has fields beside its text, which a store can't hold")
        opened = opened_texts(row.values.get("opened"), 2)
        sides = (
            (record.chosen, "chosen", record.chosen_finished),
            (record.rejected, "rejected", record.rejected_finished),
        )
        answers = tuple(
            JudgedAnswer(text, _model(row.values, side), finished, begun)
            for (text, side, finished), begun in zip(sides, opened, strict=True)
        )
        strength = _strength(record.margin, notes)
        if strength is not None:
            fields.setdefault("strength", strength)
        opinion = Opinion("pair", (0, 1), "a", annotator=annotator, fields=fields)
        return JudgedRow(record.prompt, answers, (opinion,))
    assert isinstance(record, Rating)
    if record.fields:
        raise RowError("a response has fields beside its text, which a store can't hold")
    leave_out(fields, ["probability"], "a rating", notes)
    rated = Opinion("rating", (0,), score=record.score, annotator=annotator, fields=fields)
    (begun,) = opened_texts(row.values.get("opened"), 1)
    answer = JudgedAnswer(record.response, _model(row.values, "response"), record.finished, begun)
    return JudgedRow(record.prompt, (answer,), (rated,))


def _labelled_pair(
    row: DataRow,
    names: Mapping[str, str],
    annotator: str | None,
    fields: dict[str, Any],
    notes: Counter[str],
) -> JudgedRow:
    cells = Cells(row.values, names, row.source, notes)
    side = preferred_side(cells)
    (prompt, first), (other, second) = parse_sides(cells)
    if prompt != other:
        raise RowError("the dialogues differ before the last answer")
    columns = [cells.name(column) for column in ("response_a", "response_b")]
    texts = [plain_text(a, c) for a, c in zip((first, second), columns, strict=True)]
    label = cells.get("preferred")
    outcome = str(side)
    if side == "tie" and str(label).strip().lower() in BOTH_BAD:
        outcome = "both_bad"
    if cells.name("preferred") in STRENGTHS and outcome in ("a", "b"):
        strength = _strength(abs(float(label)), notes)
        if strength is not None:
            fields.setdefault("strength", strength)
    if outcome not in ("a", "b"):
        leave_out(fields, ["strength"], "a pair without a winner", notes)
    models = [str(row.values.get(c) or UNKNOWN_MODEL) for c in ("model_a", "model_b")]
    opened = opened_texts(row.values.get("opened"), 2)
    answers = tuple(
        JudgedAnswer(t, m, opened=begun) for t, m, begun in zip(texts, models, opened, strict=True)
    )
    return JudgedRow(
        prompt, answers, (Opinion("pair", (0, 1), outcome, annotator=annotator, fields=fields),)
    )


def _ranking(
    row: DataRow, annotator: str | None, fields: dict[str, Any], notes: Counter[str]
) -> JudgedRow:
    values = row.values
    responses, ranks, models = values["responses"], values["ranks"], values.get("models")
    if not isinstance(responses, list | tuple) or not isinstance(ranks, list | tuple):
        raise RowError("`responses` and `ranks` must be lists")
    if len(responses) != len(ranks):
        raise RowError("`responses` and `ranks` are not as many")
    named = {f"responses.{i}": response for i, response in enumerate(responses)}
    column = match_columns(values).get("prompt", "prompt")
    if not named:
        raise RowError("fewer than two responses are ranked")
    prompt, texts = read_answers(values, column, named, row.source, notes)
    if not isinstance(models, list | tuple) or len(models) != len(texts):
        models = [None] * len(texts)
    finished = parse_all_finished(values.get("finished"), len(texts)) or (True,) * len(texts)
    if len(ranks) > 2:
        leave_out(fields, ["strength", "probability"], "a ranking", notes)
    opinion = ranking_or_pair(whole_ranks(ranks, "ranks"), annotator=annotator, **fields)
    if opinion.outcome == "tie" and values.get("both_bad") is True:
        opinion = Opinion("pair", (0, 1), "both_bad", annotator=annotator, fields=opinion.fields)
    opened = opened_texts(values.get("opened"), len(texts))
    answers = zip(texts, models, finished, opened, strict=True)
    read = tuple(
        JudgedAnswer(text, str(model or UNKNOWN_MODEL), end, begun)
        for text, model, end, begun in answers
    )
    return JudgedRow(prompt, read, (opinion,))


def _strength(margin: float | None, notes: Counter[str]) -> int | None:
    """A margin of 1, 2 or 3 as the strength; 0 is none."""
    if margin in (1, 2, 3):
        return int(margin)
    if margin:
        notes["a margin that is not 1, 2 or 3 is not stored"] += 1
    return None


def _model(values: Mapping[str, Any], side: str) -> str:
    given = (values.get(column) for column in MODEL_COLUMNS[side])
    return next((str(model) for model in given if model), UNKNOWN_MODEL)
