"""Soft labels of rows: the column `probability` of pairs and `votes` of rankings."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from accord.data.checks import RowError
from accord.data.files import DataRow
from accord.data.formats import parse_record
from accord.data.read import read_records, records_from_rows
from accord.data.write import record_json, write_jsonl
from accord.records import Comparison, Ranking, Record, Source

PAIR = {"prompt": "q", "chosen": "a", "rejected": "b", "finished": [True, False]}
RANKING = {"prompt": "q", "responses": ["a", "b", "c"], "ranks": [0, 1, 2]}


def parse(row: dict[str, Any]) -> tuple[Record, Counter[str]]:
    notes: Counter[str] = Counter()
    return parse_record(DataRow(row, Source("rows.jsonl", 1)), notes=notes), notes


@pytest.mark.parametrize(("value", "label"), [(0.8, 0.8), ("0.8", 0.8), (1, None), ("", None)])
def test_the_probability_of_a_pair(value: Any, label: float | None) -> None:
    pair, notes = parse({**PAIR, "probability": value})
    assert isinstance(pair, Comparison)
    assert (pair.chosen, pair.probability, pair.rejected_finished) == ("a", label, False)
    assert not notes


def test_the_more_probable_response_is_the_chosen_one() -> None:
    pair, notes = parse({**PAIR, "probability": 0.25})
    assert isinstance(pair, Comparison)
    assert (pair.chosen, pair.rejected, pair.probability) == ("b", "a", 0.75)
    assert (pair.chosen_finished, pair.rejected_finished) == (False, True)
    assert notes == {"pairs with a `probability` below 0.5 are turned around": 1}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**PAIR, "probability": 0.5}, "`probability` is 0.5: neither response is preferred"),
        ({**PAIR, "probability": 1.2}, "`probability` is not from 0 to 1"),
        ({**PAIR, "probability": -0.1}, "`probability` is not from 0 to 1"),
        ({**PAIR, "probability": "high"}, "`probability` is no finite number"),
        ({**RANKING, "votes": [[0, 1]]}, "`votes` must be lists of 3 whole numbers"),
        ({**RANKING, "votes": [[0, 1, 0.5]]}, "`votes` must be lists of 3 whole numbers"),
        ({**RANKING, "votes": "ann"}, "`votes` must be lists of 3 whole numbers"),
        ({**RANKING, "votes": [[0, 0, 0]]}, "all responses of a vote tie"),
    ],
)
def test_labels_that_cannot_be_used(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as caught:
        parse(row)
    assert caught.value.reason == reason


def test_the_side_that_a_labelled_pairs_probability_means_is_unknown() -> None:
    row = {"prompt": "q", "response_a": "a", "response_b": "b", "winner": "response_b"}
    records, report = records_from_rows([{**row, "probability": 0.9}], "comparisons")
    (pair,) = records
    assert isinstance(pair, Comparison)
    assert (pair.chosen, pair.probability) == ("b", None)
    assert "columns not read: probability" in report.notes


RECORDS: list[Record] = [
    Comparison("q", "a", "b", probability=0.75, margin=2.0),
    Ranking("q", ("a", "b", "c"), (0, 0, 2), votes=((0, 1, 2), (1, 0, 2))),
    Ranking("q", ("a", "b"), (0, 0), votes=((0, 1), (1, 0))),
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_label_comes_back_from_a_file_and_from_memory(record: Record, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [record_json(record)])
    read, report = read_records(tmp_path / "rows.jsonl", "preferences")
    assert read == [replace(record, source=read[0].source)]
    assert not any("not read" in note for note in report.notes)
    assert records_from_rows([record], "preferences")[0] == [
        replace(record, source=Source("list", 1, in_memory=True))
    ]
