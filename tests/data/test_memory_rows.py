"""Rows in memory become the records, reports and errors that a JSONL file of them gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import datasets
import numpy as np
import pandas as pd
import pytest

from accord.data.columns import COLUMNS, Format, detect_format
from accord.data.kinds import Kind
from accord.data.memory import read_memory_rows
from accord.data.read import read_records, records_from_rows
from accord.data.report import ReadReport
from accord.data.write import record_json
from accord.errors import DataError
from accord.records import (
    Comparison,
    Demonstration,
    Message,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Source,
    Text,
)

ASK = {"role": "user", "content": "2+2?"}
FOUR = {"role": "assistant", "content": "4"}
FIVE = {"role": "assistant", "content": "5"}
DIALOGUE = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2+2?\n\nAssistant:"

# Rows of each format, those of test_formats.py and test_preference_formats.py, and rows that
# can't be used.
ROWS: dict[Format, list[dict[str, Any]]] = {
    "labelled pair": [
        {"instruction": "2+2?", "output_1": "4", "output_2": "5", "label": 1},
        {"instruction": "2+2?", "output_1": "4", "output_2": "5", "label": 2},
        {"instruction": "2+2?", "output_1": "4", "output_2": "5", "label": 0},
    ],
    "text": [{"text": " verbatim\n"}, {"text": " \n"}, {"text": 3}, {"text": "x", "label": 1}],
    "messages": [
        {"messages": [{"role": "system", "content": "Brief."}, ASK, FOUR]},
        {"messages": [ASK], "kind": "sum"},
        {"messages": [{"role": "bot", "content": "x"}]},
        {"messages": "hi"},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
    ],
    "prompt": [
        {"prompt": "2+2?", "type": "sum", "label": "safe"},
        {"prompt": [ASK], "meta": {"kind": "sum", "shape": (1, 2)}},
        {"prompt": "  "},
        {"prompt": DIALOGUE},
    ],
    "responses": [
        {
            "prompt": "2+2?",
            "meta": {"kind": "sum"},
            "model": "m",
            "settings": {"seed": 1},
            "responses": [{"text": "4", "tokens": 1}, {"text": "5", "finished": False}],
        },
        {"prompt": "2+2?", "responses": [{"text": " "}]},
    ],
    "prompt-completion": [
        {"prompt": "2+2=", "completion": " 4", "finished": False},
        {"prompt": [ASK], "completion": (FOUR,)},
        {"prompt": "2+2=", "completion": ""},
        {"instruction": "Add.", "input": "2+2", "output": "4"},
        {"question": "2+2?", "answer": 4},
        {"system": "Brief.", "question": "2+2?", "answer": "4"},
    ],
    "preference": [
        {"prompt": "2+2=", "chosen": " 4", "rejected": " 5", "margin": 0.5},
        {"prompt": "2+2?", "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"prompt": "3+3?", "chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"prompt": DIALOGUE, "chosen": " 4", "rejected": " 5"},
        {"prompt": "q", "chosen": "a", "rejected": "a"},
        {"prompt": "q", "chosen": "a", "rejected": "b", "margin": float("nan")},
        {"prompt": "q", "chosen": "a", "rejected": "b", "finished": [True, False]},
        {"prompt": "q", "chosen": "a", "rejected": None},
    ],
    "implicit preference": [
        {"chosen": "Say: the cat", "rejected": "Say: the car"},
        {"chosen": "yes", "rejected": "no"},
        {"chosen": [ASK, FOUR], "rejected": [ASK, FIVE]},
        {"chosen": f"{DIALOGUE} 4", "rejected": f"{DIALOGUE} 5"},
        {"chosen": f"{DIALOGUE} 4", "rejected": "five"},
    ],
    "ranking": [
        {"prompt": "q", "responses": ["a", "b", "c"], "ranks": [1, 0, 1]},
        {"prompt": "q", "responses": ("a", "b"), "ranks": (2, 1), "finished": [True, False]},
        {"prompt": "q", "responses": ["a", "b"], "ranks": [1, 1]},
        {"prompt": "q", "responses": ["a", "b"], "ranks": [0, 0.5]},
    ],
    "unpaired": [
        {"prompt": "q", "completion": "a", "label": True},
        {"prompt": "q", "completion": "a", "label": "False"},
        {"prompt": "q", "completion": "a", "label": 2},
    ],
    "rating": [
        {"prompt": "q", "response": "a", "score": 4},
        {"prompt": "q", "response": "a", "rating": "4.5"},
        {"prompt": "q", "response": "a", "score": True},
    ],
    "battle": [{"model_a": "x", "model_b": "y", "winner": "tie"}],
}
DATA_SETS: list[list[dict[str, Any]]] = [
    *ROWS.values(),
    *([row] for rows in ROWS.values() for row in rows),
    [row for rows in ROWS.values() for row in rows],
    [{"question_id": 1, "choosen": "a", "reject": "b"}],
    [{"foo": None}],
]

Outcome = tuple[list[Record], ReadReport] | str


def outcome_of_file(rows: Sequence[Mapping[str, Any]], kind: Kind, path: Path) -> Outcome:
    """What a JSONL file of the rows gives, with its path and lines named as a list's are."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def located(source: Source) -> Source:
        assert source.path == str(path)
        return Source("list", source.line, in_memory=True)

    try:
        records, report = read_records(path, kind)
    except DataError as error:
        message = str(error).replace(f"{path} ", "The list ")
        for line in range(len(rows), 0, -1):
            message = message.replace(f"{path.name}:{line}", f"row {line} of the list")
        return message
    dropped = {
        reason: [(located(source), detail) for source, detail in lost]
        for reason, lost in report.dropped.items()
    }
    located_records = [replace(r, source=located(r.source)) for r in records]
    return located_records, replace(report, path="list", dropped=dropped)


def outcome_of_list(rows: Any, kind: Kind) -> Outcome:
    try:
        return records_from_rows(rows, kind)
    except DataError as error:
        return str(error)


def test_every_format_is_among_the_rows() -> None:
    assert set(ROWS) == set(COLUMNS)
    for form, rows in ROWS.items():
        assert detect_format(rows[0]) == form


@pytest.mark.parametrize("kind", get_args(Kind))
def test_a_list_gives_what_a_jsonl_file_gives(tmp_path: Path, kind: Kind) -> None:
    outcomes = []
    for rows in DATA_SETS:
        expected = outcome_of_file(rows, kind, tmp_path / "rows.jsonl")
        assert outcome_of_list(rows, kind) == expected
        outcomes.append(expected)
    assert {isinstance(outcome, str) for outcome in outcomes} == {True, False}


def test_where_a_row_in_memory_lies() -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": r} for r in "baac"]
    records, report = records_from_rows(rows, "comparisons")
    assert [str(r.source) for r in records] == ["row 1 of the list", "row 4 of the list"]
    assert report.summary() == (
        "4 rows, 2 used, 2 dropped: "
        "2 chosen and rejected are equal (row 2 of the list, row 3 of the list)."
    )
    assert report.to_json()["place"] == "list"
    with pytest.raises(DataError) as caught:
        records_from_rows(rows[1:2], "comparisons")
    assert str(caught.value) == (
        "The list has 1 rows, none of which can be used as comparisons: 1 chosen and rejected are "
        "equal (row 1 of the list). Correct the rows, or give another data set."
    )


def test_any_iterable_of_mappings() -> None:
    row = {"prompt": "p", "completion": "a"}
    source = Source("generator", 1, in_memory=True)

    def generate() -> Iterator[Mapping[str, Any]]:
        yield MappingProxyType(row)

    assert records_from_rows(generate(), "sft")[0] == [Demonstration("p", "a", source)]
    assert records_from_rows((row, row), "sft")[1].path == "tuple"


def test_a_data_set_and_a_data_frame() -> None:
    rows = ROWS["preference"][:1] * 2
    for table in (datasets.Dataset.from_list(rows), pd.DataFrame(rows)):
        records, report = records_from_rows(table, "comparisons")
        name = type(table).__name__
        assert records == [
            Comparison("2+2=", " 4", " 5", 0.5, Source(name, line, in_memory=True))
            for line in (1, 2)
        ]
        assert report == ReadReport(name, 2, 2, 2)


def test_numpy_values_are_plain_numbers_and_lists() -> None:
    # As a DataFrame has them that pandas read from Parquet.
    ranking = {
        "prompt": "q",
        "responses": np.array(["a", "b"], dtype=object),
        "ranks": np.array([1, 0]),
        "finished": np.array([True, False]),
    }
    here = Source("list", 1, in_memory=True)
    assert records_from_rows([ranking], "rankings")[0] == [
        Ranking("q", ("a", "b"), (1, 0), here, (True, False))
    ]
    rating = {"prompt": "q", "completion": np.str_("a"), "label": np.bool_(True)}
    assert records_from_rows([rating], "kto")[0] == [Rating("q", "a", 1.0, here)]
    turns = np.array([ASK, FOUR], dtype=object)
    assert records_from_rows(pd.DataFrame({"messages": [turns]}), "sft")[0] == [
        Demonstration((Message("user", "2+2?"),), "4", Source("DataFrame", 1, in_memory=True))
    ]


@pytest.mark.parametrize("absent", [None, float("nan"), pd.NA, pd.NaT])
def test_a_missing_value_of_a_data_frame_is_none(absent: Any) -> None:
    frame = pd.DataFrame(
        {
            "prompt": ["p", "q", absent],
            "chosen": ["a", "a", "a"],
            "rejected": ["b", absent, "b"],
            "margin": [absent, 1, 1],
        }
    )
    records, report = records_from_rows(frame, "comparisons")
    assert records == [
        Comparison("p", "a", "b", None, Source("DataFrame", 1, in_memory=True)),
    ]
    assert list(report.dropped) == ["no value in `rejected`", "no value in `prompt`"]


def test_a_data_frame_that_names_a_column_twice() -> None:
    frame = pd.DataFrame([["p", "q"]], columns=["prompt", "prompt"])
    with pytest.raises(DataError) as caught:
        records_from_rows(frame, "prompts")
    assert str(caught.value) == (
        "The DataFrame names a column twice. Rename one of: prompt, prompt."
    )


CHAT = (Message("system", "Brief."), Message("user", "2+2?"))


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (PromptOnly(CHAT, meta={"kind": "sum"}), "prompts"),
        (Text(" verbatim\n"), "text"),
        (Demonstration(CHAT, "4"), "sft"),
        (Demonstration("2+2=", " 4", finished=False), "demonstrations"),
        (Comparison(CHAT, "4", "5", 0.5, rejected_finished=False), "comparisons"),
        (Ranking("q", ("a", "b", "c"), (0, 1, 1), finished=(True, True, False)), "rankings"),
        (Rating(CHAT, "4", 0.25, finished=False), "ratings"),
    ],
)
def test_records_stay_what_they_are(tmp_path: Path, record: Any, kind: Kind) -> None:
    records, report = records_from_rows([record], kind)
    assert records == [replace(record, source=Source("list", 1, in_memory=True))]
    assert report.notes == []
    # And so does the row that is written for it.
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(record_json(record)) + "\n")
    assert read_records(path, kind)[0] == [replace(record, source=Source(str(path), 1))]


def test_a_record_is_checked_and_converted_and_keeps_its_source() -> None:
    source = Source("pairs.jsonl", 7)
    pairs = [Comparison("p", "a", "b", source=source), Comparison("p", "a", "a")]
    records, report = records_from_rows(pairs, "sft")
    assert records == [Demonstration("p", "a", source)]
    assert report.dropped == {
        "chosen and rejected are equal": [(Source("list", 2, in_memory=True), "")]
    }
    assert report.notes[0] == "the chosen responses are read as demonstrations"
    assert "read from pairs.jsonl, list" in report.notes


def test_rows_that_are_none() -> None:
    for wrong in ("x.jsonl", ["x.jsonl"]):
        records, report = records_from_rows([{"prompt": "p"}, wrong], "prompts")
        assert [record.prompt for record in records] == ["p"]
        detail = f"{type(wrong).__name__} {str(wrong)!r}"
        source = Source("list", 2, in_memory=True)
        assert report.dropped == {"not a dict of column names and values": [(source, detail)]}
    with pytest.raises(DataError, match=r"none of which .*: 1 not a dict of column names and val"):
        records_from_rows(["x.jsonl"], "prompts")
    with pytest.raises(DataError, match=r"^The list holds no rows\. Give a data set with at least"):
        records_from_rows([], "prompts")


@pytest.mark.parametrize(
    ("rows", "name"),
    [
        ("rows.jsonl", "str"),
        (7, "int"),
        ({"prompt": ["p"], "text": ["x"]}, "dict with the keys prompt, text"),
        (
            datasets.DatasetDict(train=datasets.Dataset.from_list([{"text": "x"}])),
            "DatasetDict with the keys train",
        ),
    ],
)
def test_what_is_no_collection_of_rows(rows: Any, name: str) -> None:
    with pytest.raises(DataError) as caught:
        read_memory_rows(rows)  # not iterated
    assert str(caught.value) == (
        f"The data set is a {name}, which has no rows. Give a list with one dict of column names "
        "and values for each row; of a data set with several splits, give one."
    )
