"""Rows of annotation tools: Argilla's data sets and Label Studio's exports."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from accord.data.checks import RowError, parse_number
from accord.data.columns import ALIASES
from accord.data.files import DataRow
from accord.data.imports.judged import (
    JudgedAnswer,
    JudgedRow,
    Opinion,
    ranking_or_pair,
    read_answers,
    whole_ranks,
)
from accord.data.imports.questions import NO_ORDER
from accord.data.pair_names import looks_like_response

RESPONSES = ".responses"  # Argilla 2: `preference.responses`, `preference.responses.users`, …
OUTCOMES = {"left": "a", "right": "b"}  # of Label Studio's Pairwise
KINDS_OF_VALUES = {
    "selected": "pairwise",
    "ranker": "ranker",
    "rating": "rating",
    "choices": "choices",
}
"""The types of Label Studio's results by the key of their value."""
TIES = {"tie": "tie", "both": "tie", "equal": "tie", "neither": "both_bad", "both bad": "both_bad"}


def argilla_questions(values: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The answers to each question of an Argilla row, each with `value`, `user_id` and `status`.

    A question is a column of `{user_id, value, status}` (Argilla 1), or has its answers in
    `NAME.responses` and `NAME.responses.users` (Argilla 2).
    """
    questions: dict[str, list[dict[str, Any]]] = {}
    for column, value in values.items():
        if column.endswith(RESPONSES) and isinstance(value, list | tuple):
            users = values.get(f"{column}.users") or [None] * len(value)
            statuses = values.get(f"{column}.status") or ["submitted"] * len(value)
            rows = zip(value, users, statuses, strict=False)
            questions[column.removesuffix(RESPONSES)] = [
                {"value": v, "user_id": u, "status": s} for v, u, s in rows
            ]
        elif isinstance(value, Mapping) and {"user_id", "value", "status"} <= value.keys():
            columns = [value[key] for key in ("value", "user_id", "status")]
            if not all(isinstance(answers, list | tuple) for answers in columns):
                continue
            rows = zip(*columns, strict=False)
            questions[column] = [{"value": v, "user_id": u, "status": s} for v, u, s in rows]
        elif _is_answers(value):
            questions[column] = [dict(item) for item in value]
    return questions


def _is_answers(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(v, Mapping) and {"user_id", "value"} <= v.keys() for v in value)
    )


def parse_argilla(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """A record with two or more responses and a ranking, label or rating question on them."""
    values = row.values.get("fields") if isinstance(row.values.get("fields"), Mapping) else None
    fields = row.values if values is None else values
    given = row.values.get("responses")
    questions = argilla_questions(row.values)
    if values is not None and isinstance(given, Mapping):  # `records.to_json` of Argilla 2
        questions = {name: list(answers) for name, answers in given.items()}
    columns = _response_columns(fields)
    prompt, texts = read_answers(
        fields, _prompt_column(fields), {c: fields[c] for c in columns}, row.source, notes
    )
    # Argilla 1 gives each response of a ranking its rank; Argilla 2 lists them, as it lists labels.
    is_second = values is not None or any(column.endswith(RESPONSES) for column in row.values)
    opinions: list[Opinion] = []
    chosen_labels: list[str] = []
    for name, answers in questions.items():
        for answer in answers:
            if answer.get("status") not in (None, "submitted"):
                notes[f"an answer that was not submitted ({answer['status']}) is not read"] += 1
                continue
            opinion = _argilla_opinion(name, answer, columns, ranks_alone=is_second)
            if opinion is None and is_second and _are_labels(answer.get("value")):
                chosen_labels.append(name)
            if opinion is None:
                notes[NO_ORDER.format(name)] += 1
            else:
                opinions.append(replace(opinion, question=name))
    if not opinions:
        raise RowError("no annotator has submitted an answer that ranks or rates the responses")
    answered = tuple(map(JudgedAnswer, texts))
    return JudgedRow(prompt, answered, tuple(opinions), tuple(chosen_labels))


def _are_labels(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)


def _argilla_opinion(
    name: str, answer: Mapping[str, Any], columns: Sequence[str], *, ranks_alone: bool
) -> Opinion | None:
    """What an answer says of the responses; with `ranks_alone` a list of labels is an order."""
    value, user = answer.get("value"), answer.get("user_id")
    annotator = None if user is None else str(user)
    if isinstance(value, Mapping):  # `{"rank": [1, 2], "value": ["a", "b"]}` in columns
        pairs = zip(value.get("rank") or [], value.get("value") or [], strict=False)
        value = [{"rank": rank, "value": item} for rank, item in pairs]
    if isinstance(value, list | tuple) and value:
        if not ranks_alone and not all(isinstance(item, Mapping) for item in value):
            return None  # labels that were chosen together
        ranked = {_value(item): _rank(item, i) for i, item in enumerate(value)}
        numbers = {_position(str(key), columns): rank for key, rank in ranked.items()}
        if None in numbers or len(numbers) != len(columns):
            return None
        ranks = [rank for _, rank in sorted((n, r) for n, r in numbers.items() if n is not None)]
        return ranking_or_pair(ranks, annotator=annotator)
    position = _position(value, columns) if isinstance(value, str) else None
    if position is not None and len(columns) == 2:
        return Opinion("pair", (0, 1), "ab"[position], annotator=annotator)
    if isinstance(value, str) and value.lower() in TIES and len(columns) == 2:
        return Opinion("pair", (0, 1), TIES[value.lower()], annotator=annotator)
    rated = re.fullmatch(r"(.*?)[-_ ]?(?:rating|score|quality)[-_ ]?(\d*)", name.lower())
    if isinstance(value, int | float) and not isinstance(value, bool) and rated is not None:
        subject = _position(rated[1] or rated[2], columns)
        if subject is None and len(columns) == 1:
            subject = 0
        if subject is not None:
            return Opinion("rating", (subject,), score=float(value), annotator=annotator)
    return None


def _value(item: Any) -> Any:
    return item.get("value") if isinstance(item, Mapping) else item


def _rank(item: Any, position: int) -> int:
    rank = item.get("rank") if isinstance(item, Mapping) else None
    return position if rank is None else whole_ranks([rank], "rank")[0]


def parse_label_studio(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """A task with its `data` and `annotations`: Pairwise, Ranker, Choices or Rating results."""
    data = row.values.get("data")
    if not isinstance(data, Mapping):
        raise RowError("`data` is no object")
    listed = _listed_items(data)
    columns = list(listed) or _response_columns(data)
    responses = listed or {c: data[c] for c in columns}
    prompt, texts = read_answers(data, _prompt_column(data), responses, row.source, notes)
    opinions = []
    for annotation in row.values.get("annotations") or []:
        if annotation.get("was_cancelled"):
            notes["a skipped annotation is not read"] += 1
            continue
        opinions += list(_label_studio_opinions(annotation, columns, notes))
    if not opinions:
        raise RowError("no annotation says which response is better")
    return JudgedRow(prompt, tuple(map(JudgedAnswer, texts)), tuple(opinions))


def _listed_items(data: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a Ranker's items by their ids: `[{"id": …, "title": …, "body": …}, …]`."""
    for value in data.values():
        if not isinstance(value, list | tuple) or len(value) < 2:
            continue
        if all(isinstance(item, Mapping) and {"id", "body"} <= item.keys() for item in value):
            return {str(item["id"]): item["body"] for item in value}
    return {}


def parse_label_studio_min(row: DataRow, notes: Counter[str]) -> JudgedRow:
    """A row of a JSON-MIN export: a task's data, its id, one annotation's results by the names of
    their controls, and behind them the annotator and the times."""
    names = list(row.values)
    begin, end = names.index("id") + 1, names.index("annotator")
    controls = names[begin:end]
    data = {name: row.values[name] for name in names[: begin - 1] if name not in controls}
    results = [r for name in controls for r in _results_of_control(name, row.values[name])]
    annotation = {
        "completed_by": row.values["annotator"],
        "lead_time": row.values.get("lead_time"),
        "result": results,
    }
    task = {"data": data, "annotations": [annotation]}
    return parse_label_studio(DataRow(task, row.source), notes)


def _results_of_control(name: str, value: Any) -> Iterator[dict[str, Any]]:
    """What a JSON-MIN row has for a control, as results of an export: one choice is a text, all
    else a list of values without their type."""
    for item in value if isinstance(value, list | tuple) else [value]:
        content = item if isinstance(item, Mapping) else {"choices": [item]}
        kind = next((KINDS_OF_VALUES[key] for key in content if key in KINDS_OF_VALUES), "other")
        yield {"type": kind, "value": content, "to_name": name, "from_name": name}


def _label_studio_opinions(
    annotation: Mapping[str, Any], columns: Sequence[str], notes: Counter[str]
) -> Iterator[Opinion]:
    user = annotation.get("completed_by")
    if isinstance(user, Mapping):
        user = user.get("email") or user.get("id")
    lead = annotation.get("lead_time")
    seconds = {"seconds": float(lead)} if isinstance(lead, int | float) and lead >= 0 else {}
    annotator = None if user is None else str(user)
    for result in annotation.get("result") or []:
        value = result.get("value") or {}
        kind, opinion = result.get("type"), None
        if kind == "pairwise" and value.get("selected") in OUTCOMES and len(columns) == 2:
            outcome = _pairwise_outcome(value["selected"], str(result.get("to_name")), columns)
            opinion = Opinion("pair", (0, 1), outcome, annotator=annotator, fields=seconds)
        elif kind == "choices" and len(columns) == 2:
            opinion = _choice(value.get("choices"), columns, annotator, seconds)
        elif kind == "rating" and value.get("rating") is not None:
            subject = _position(str(result.get("to_name")), columns)
            score = parse_number(value["rating"], "rating")
            if subject is not None or len(columns) == 1:
                fields = {**seconds}
                opinion = Opinion(
                    "rating", (subject or 0,), score=score, annotator=annotator, fields=fields
                )
        elif kind == "ranker":
            opinion = _ranker(value.get("ranker"), columns, annotator, seconds)
        if opinion is not None:
            yield replace(opinion, question=result.get("from_name"))
        else:
            notes[f"results of the type {kind!r} that name no response are not read"] += 1


def _pairwise_outcome(selected: str, to_name: str, columns: Sequence[str]) -> str:
    """The side that is better: left is the first of the tags `to_name` names, which is the first
    column unless the tags have the columns' names in another order."""
    tags = [_position(tag, columns, by_end=True) for tag in to_name.split(",")]
    outcome = OUTCOMES[selected]
    return {"a": "b", "b": "a"}[outcome] if tags == [1, 0] else outcome


def _choice(
    choices: Any, columns: Sequence[str], annotator: str | None, fields: Mapping[str, Any]
) -> Opinion | None:
    if not isinstance(choices, list | tuple) or len(choices) != 1:
        return None
    word = str(choices[0])
    position = _position(word, columns)
    outcome = TIES.get(word.lower()) if position is None else "ab"[position]
    if outcome is None:
        return None
    return Opinion("pair", (0, 1), outcome, annotator=annotator, fields=fields)


def _ranker(
    value: Any, columns: Sequence[str], annotator: str | None, fields: Mapping[str, Any]
) -> Opinion | None:
    """The order of the items in a Ranker's only list, the best first."""
    lists = list(value.values()) if isinstance(value, Mapping) else [value]
    if len(lists) != 1 or not isinstance(lists[0], list | tuple):
        return None
    order = [_position(str(item), columns) for item in lists[0]]
    if None in order or sorted(o for o in order if o is not None) != [*range(len(columns))]:
        return None
    ranks = [order.index(number) for number in range(len(columns))]
    return ranking_or_pair(ranks, annotator=annotator, **fields)


def _response_columns(values: Mapping[str, Any]) -> list[str]:
    """The columns that hold responses. Raises RowError where fewer than one does."""
    columns = [c for c, v in values.items() if looks_like_response(c) and v is not None]
    for pair in (("text1", "text2"), ("option_1", "option_2"), ("chosen", "rejected")):
        if not columns and set(pair) <= values.keys():
            columns = list(pair)
    columns = columns or [c for c in ALIASES["completion"] if values.get(c) is not None][:1]
    if not columns:
        raise RowError("no column holds a response", ", ".join(map(str, values)))
    return columns


def _prompt_column(values: Mapping[str, Any]) -> str:
    names = (*ALIASES["prompt"], "context", "conversation", "messages", "chat")
    column = next((name for name in names if values.get(name) is not None), None)
    if column is None:
        raise RowError("no column holds the prompt", ", ".join(map(str, values)))
    return column


def _position(name: str, columns: Sequence[str], *, by_end: bool = False) -> int | None:
    """The number of the response that a label names: its column, with - or _, or its last part;
    with `by_end` a name that ends as one column does."""
    word = _plain(name)
    for position, column in enumerate(columns):
        if word == _plain(column):
            return position
    stems = [re.sub(r"[^a-z0-9]", "", column.lower())[-1:] for column in columns]
    word = word[-1:] if by_end else word
    return stems.index(word) if len(word) == 1 and stems.count(word) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
