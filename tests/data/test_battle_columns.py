"""Battles by columns are those that are read row by row, and so are the rows that can't be used."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from accord.data.battle_columns import BattleBatch, BattleFile, answer_text
from accord.data.read import read_battles
from accord.data.record_batches import NotColumnarError
from accord.errors import DataError
from accord.measure.ratings.battles import count_battles
from accord.measure.ratings.builder import TableBuilder
from accord.records import Outcome

ROWS: list[dict[str, Any]] = [
    {"model_a": "x", "model_b": "y", "winner": "model_a", "prompt": "q 1", "kind": "math"},
    {"model_a": "y", "model_b": "x", "winner": "tie", "prompt": "q 1", "kind": "math"},
    {"model_a": "x", "model_b": "x", "winner": "model_a", "prompt": "two\nlines", "kind": "art"},
    {"model_a": "x", "model_b": "z", "winner": "tie (bothbad)", "prompt": "q 2", "kind": ""},
    {"model_a": " ", "model_b": "z", "winner": "model_b", "prompt": "q 2", "kind": "art"},
    {"model_a": "z", "model_b": "y", "winner": "neither", "prompt": "q 3", "kind": "art"},
    {"model_a": "z", "model_b": "y", "winner": "model_b", "prompt": "q 3", "kind": "art"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("\n\n".join(json.dumps(row) for row in rows))
    return str(path)


def build(reading: BattleFile, *, by_rows: bool = False) -> TableBuilder:
    builder = TableBuilder()
    for batch in reading.by_rows() if by_rows else reading.columnar():
        builder.add(batch)
    return builder


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".jsonl"])
@pytest.mark.parametrize("by_rows", [False, True])
def test_columns_are_read_as_rows_are(tmp_path: Path, ending: str, by_rows: bool) -> None:
    path = write(tmp_path / f"battles{ending}", ROWS)
    battles, report = read_battles(path)
    reading = BattleFile(path, category="kind")
    table = build(reading, by_rows=by_rows).table()
    assert table.counts() == count_battles(battles)
    assert (reading.rows, reading.dropped) == (7, report.dropped)
    assert sum(map(len, reading.dropped.values())) == 3
    assert table.prompt is not None
    assert table.prompt.tolist() == [0, 0, 1, 2]
    assert table.category is not None
    named = [table.categories[number] for number in table.category]
    assert named == ["math", "math", "(no category)", "art"]


@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_an_outcome_in_three_columns(tmp_path: Path, ending: str) -> None:
    names = ("winner_model_a", "winner_model_b", "winner_tie")
    marks = [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 0, 0)]
    rows = [{"model_a": "x", "model_b": "y", **dict(zip(names, m, strict=True))} for m in marks]
    path = write(tmp_path / f"battles{ending}", rows)
    reading = BattleFile(path)
    outcomes: tuple[Outcome, ...] = ("a", "b", "tie")
    assert build(reading).table().counts() == {("x", "y", o): 1 for o in outcomes}
    assert reading.dropped == read_battles(path)[1].dropped


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("b.csv", "model_a,model_b,winner\nx,y,model_a\n\nx,y,tie\n"),  # a blank line
        ("b.csv", "model_a,model_b,winner\nx,y\nx,y,tie\n"),  # too few cells
        ("b.jsonl", '{"model_a": "x", "model_b": "y", "winner": "tie"}\n{oops\n'),
        ("b.jsonl", '{"model_a": 1, "model_b": "y", "winner": "tie"}\n'),
        ("b.json", '[{"model_a": "x", "model_b": "y", "winner": "tie"}]'),
    ],
)
def test_what_arrow_does_not_read_is_read_by_rows(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(NotColumnarError):
        build(BattleFile(str(path)))
    reading = BattleFile(str(path))
    builder = build(reading, by_rows=True)
    assert builder.battles + sum(map(len, reading.dropped.values())) == reading.rows > 0


def test_numbers_name_prompts_and_an_unnamed_one_names_none(tmp_path: Path) -> None:
    rows = [
        {"question_id": n, "model_a": "x", "model_b": "y", "winner": "tie"} for n in (7, 7, 8, 7)
    ]
    table = build(BattleFile(write(tmp_path / "a.parquet", rows))).table()
    assert table.prompt is not None
    assert table.prompt.tolist() == [0, 0, 1, 0]
    rows[1]["question_id"] = None
    assert build(BattleFile(write(tmp_path / "b.parquet", rows))).table().prompt is None


def test_long_names_of_prompts_are_as_good_as_short_ones() -> None:
    builder = TableBuilder()
    for prompts in (["short", "é" * 40], ["é" * 40 + "x", "é" * 40]):
        builder.add(BattleBatch(["x", "x"], ["y", "y"], np.array([0, 1]), prompts))
    prompt = builder.table().prompt
    assert prompt is not None
    assert prompt.tolist() == [0, 1, 2, 1]


def test_missing_columns_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "battles.csv", ROWS)
    with pytest.raises(DataError, match=r"no column 'topic'.*model_a, model_b, winner"):
        build(BattleFile(path, category="topic"))
    with pytest.raises(DataError, match=r"no answers to measure the style of"):
        build(BattleFile(path, texts=True))


def test_the_answers_of_a_conversation() -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "one"}]
    assert answer_text([*turns, *turns[:1], {"role": "assistant", "content": "two"}]) == "one\ntwo"
    parts = [{"type": "text", "text": "part"}, {"type": "image", "image": None}]
    assert answer_text([{"role": "assistant", "content": parts}]) == "part"
    assert answer_text(json.dumps(["one", None, "two"])) == "one\ntwo"
    assert answer_text("[1, 2]") == "[1, 2]"
    assert answer_text("[not JSON") == "[not JSON"
    assert answer_text(None) == ""


def test_a_model_with_one_answer_to_everything_is_named(tmp_path: Path) -> None:
    rows = [
        {
            "model_a": "x",
            "model_b": "y",
            "winner": "model_b",
            "prompt": f"q {n}",
            "response_a": f"answer {n}",
            "response_b": "<think>no</think>**the** answer",
        }
        for n in range(5)
    ]
    builder = build(BattleFile(write(tmp_path / "battles.parquet", rows), texts=True))
    assert builder.constant_models() == ["y"]
    table = builder.table()
    assert table.lengths is not None
    assert table.lengths[0].tolist() == [8, 14]
    assert table.style is not None
    assert table.style[0].tolist() == [0, 0, 0, -1]  # 2 words each; one bold run against none
    rows[4]["response_b"] = "another"
    again = build(BattleFile(write(tmp_path / "again.parquet", rows), texts=True))
    assert again.constant_models() == []
