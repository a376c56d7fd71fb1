"""A choice of a large file's rows, made before they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.data.report import count_dropped
from accord.data.selection import random_rows
from accord.data.stream import RecordStream, read_columns
from accord.errors import DataError
from accord.records import Comparison

ROWS = 50
CHOSEN = random_rows(ROWS, 10, seed=3)


def make_stream(folder: Path, unusable: set[int]) -> RecordStream:
    """Numbered pairs, of which some have no chosen response."""
    rows = [
        {"prompt": f"{i}", "chosen": "" if i in unusable else "good", "rejected": "bad"}
        for i in range(ROWS)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return RecordStream(read_columns(str(path), "comparisons"), "comparisons")


def numbers(stream: RecordStream) -> list[int]:
    records = [record for row in stream.usable() for record in row]
    return [
        int(r.prompt) for r in records if isinstance(r, Comparison) and isinstance(r.prompt, str)
    ]


def test_the_chosen_rows_are_read_and_no_others(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, set())
    note = stream.sample(10, seed=3)
    assert note == "10 of the 50 rows are used: a random choice by seed 3"
    assert stream.most_rows == 10
    assert numbers(stream) == CHOSEN == numbers(stream)
    assert (stream.report().rows, stream.report().used) == (10, 10)


def test_the_next_that_can_be_used_is_taken_for_one_that_cannot(tmp_path: Path) -> None:
    first, second = CHOSEN[2], CHOSEN[5]
    stream = make_stream(tmp_path, {first, second, second + 1})
    stream.sample(10, seed=3)
    free = [i for i in range(ROWS) if i not in {*CHOSEN, first, second, second + 1}]
    replaced = [min(i for i in free if i > first), min(i for i in free if i > second)]
    assert numbers(stream) == sorted({*CHOSEN, *replaced} - {first, second})
    report = stream.report()
    assert report.used == 10
    assert count_dropped(report.dropped) == len({first, second, second + 1})


def test_fewer_rows_where_the_last_cannot_be_used(tmp_path: Path) -> None:
    stream = make_stream(tmp_path, set(range(CHOSEN[-2], ROWS)))
    stream.sample(10, seed=3)
    assert numbers(stream) == CHOSEN[:-2]
    stream = make_stream(tmp_path, set(range(CHOSEN[0], ROWS)))
    stream.sample(10, seed=3)
    assert numbers(stream) == []
    with pytest.raises(DataError, match="none of which can be used"):
        stream.report()
