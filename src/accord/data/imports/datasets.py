"""Rows of published preference data: arenas, HelpSteer3, UltraFeedback, Nectar, NeMo-RL."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from accord.data.battles import WINNERS, find_winner
from accord.data.checks import RowError, parse_number, require_text
from accord.data.columns import Cells
from accord.data.files import DataRow
from accord.data.imports.judged import (
    UNKNOWN_MODEL,
    JudgedAnswer,
    JudgedRow,
    Opinion,
    plain_text,
    ranking_or_pair,
    read_answers,
    signed_preference,
    whole_ranks,
)
from accord.data.pairs import parse_sides

NO_RATING = ("N/A", "", None)


def parse_arena(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """A battle with its texts: `conversation_a` and `conversation_b`, or `prompt`, `response_a` and
    `response_b`, which may be lists of one text a turn (LMArena's exports)."""
    values = row.values
    models = [require_text(values.get(c), c) for c in ("model_a", "model_b")]
    winner = require_text(find_winner(row), "winner").strip().lower()
    if winner not in WINNERS:
        raise RowError(f"`winner` is none of {', '.join(WINNERS)}", repr(winner))
    stem = "conversation" if "conversation_a" in values else "response"
    names = {"response_a": f"{stem}_a", "response_b": f"{stem}_b"}
    if stem == "response":
        names["prompt"] = "prompt"
    sides = parse_sides(Cells(values, names, row.source, notes))
    if sides[0][0] != sides[1][0]:
        raise RowError("the dialogues differ before the last answer")
    texts = [plain_text(answer, names["response_a"]) for _, answer in sides]
    answers = tuple(JudgedAnswer(t, m) for t, m in zip(texts, models, strict=True))
    annotator = values.get("judge") or values.get("judge_hash")
    opinion = Opinion(
        "pair", (0, 1), WINNERS[winner], annotator=None if annotator is None else str(annotator)
    )
    return JudgedRow(sides[0][0], answers, (opinion,))


def parse_helpsteer3(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """`context`, `response1`, `response2` and `overall_preference` from −3 to 3."""
    values = row.values
    responses = {name: values.get(name) for name in ("response1", "response2")}
    prompt, texts = read_answers(values, "context", responses, row.source, notes)
    value = parse_number(values.get("overall_preference"), "overall_preference")
    outcome, strength = signed_preference(value, "overall_preference")
    fields = {} if strength is None else {"strength": strength}
    opinion = Opinion("pair", (0, 1), outcome, fields=fields)
    return JudgedRow(prompt, tuple(map(JudgedAnswer, texts)), (opinion,))


def parse_pandalm(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """`instruction`, `input`, `response1`, `response2`, and the vote of each annotator in
    `annotator1`, `annotator2` and so on: 0 a tie, 1 or 2 the better one."""
    values = row.values
    responses = {name: values.get(name) for name in ("response1", "response2")}
    prompt, texts = read_answers(values, "instruction", responses, row.source, notes)
    outcomes = {0: "tie", 1: "a", 2: "b"}
    opinions = []
    for column in sorted(c for c in values if re.fullmatch(r"annotator\d+", c)):
        vote = parse_number(values[column], column)
        if vote not in outcomes:
            raise RowError(f"`{column}` is none of 0, 1 and 2", repr(values[column]))
        opinions.append(Opinion("pair", (0, 1), outcomes[int(vote)], annotator=column))
    return JudgedRow(prompt, tuple(map(JudgedAnswer, texts)), tuple(opinions))


def parse_ultrafeedback(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """`instruction` and `completions`, each with ratings of single aspects and an overall score."""
    completions = _objects(row.values.get("completions"), "completions")
    responses = {f"completions.{i}": c.get("response") for i, c in enumerate(completions)}
    prompt, texts = read_answers(row.values, "instruction", responses, row.source, notes)
    opinions = []
    for number, completion in enumerate(completions):
        annotations = completion.get("annotations")
        for aspect, judged in (annotations if isinstance(annotations, Mapping) else {}).items():
            rating = judged.get("Rating") if isinstance(judged, Mapping) else None
            if rating in NO_RATING:
                notes[f"`{aspect}` of a completion has no rating"] += 1
                continue
            reason = judged.get("Rationale") if isinstance(judged.get("Rationale"), str) else None
            score = parse_number(rating, f"completions.{number}.annotations.{aspect}.Rating")
            fields = {"criterion": str(aspect), "comment": reason}
            opinions.append(Opinion("rating", (number,), score=score, fields=fields))
        overall = completion.get("overall_score")
        if overall not in NO_RATING:
            score = parse_number(overall, f"completions.{number}.overall_score")
            comment = completion.get("critique")
            opinions.append(
                Opinion(
                    "rating",
                    (number,),
                    score=score,
                    fields={"comment": comment if isinstance(comment, str) else None},
                )
            )
    if not opinions:
        raise RowError("no completion has a rating")
    models = [str(c.get("model") or UNKNOWN_MODEL) for c in completions]
    answers = tuple(JudgedAnswer(t, m) for t, m in zip(texts, models, strict=True))
    return JudgedRow(prompt, answers, tuple(opinions))


def parse_nectar(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """`prompt` and `answers`, each with `answer`, `model` and `rank`, 1 the best."""
    answers = _objects(row.values.get("answers"), "answers")
    responses = {f"answers.{i}": a.get("answer") for i, a in enumerate(answers)}
    prompt, texts = read_answers(row.values, "prompt", responses, row.source, notes)
    ranks = whole_ranks([answer.get("rank") for answer in answers], "answers")
    models = [str(answer.get("model") or UNKNOWN_MODEL) for answer in answers]
    read = tuple(JudgedAnswer(t, m) for t, m in zip(texts, models, strict=True))
    return JudgedRow(prompt, read, (ranking_or_pair(ranks),))


def parse_nemo_rl(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """`context` and `completions`, each with `completion`, a list of turns, and `rank`, 0 best."""
    completions = _objects(row.values.get("completions"), "completions")
    responses = {f"completions.{i}": c.get("completion") for i, c in enumerate(completions)}
    prompt, texts = read_answers(row.values, "context", responses, row.source, notes)
    ranks = whole_ranks([completion.get("rank") for completion in completions], "completions")
    return JudgedRow(prompt, tuple(map(JudgedAnswer, texts)), (ranking_or_pair(ranks),))


def _objects(value: Any, column: str) -> Sequence[Mapping[str, Any]]:
    if not isinstance(value, list | tuple) or not value:
        raise RowError(f"`{column}` is no list of responses")
    if not all(isinstance(item, Mapping) for item in value):
        raise RowError(f"`{column}` holds a response that is no object")
    return value
