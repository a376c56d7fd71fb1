"""A choice of a large file's rows, made before they are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from accord.data.report import count_dropped
from accord.data.selection import random_rows
from accord.data.stream import RecordStream, read_columns
from accord.data.streamed_rows import StreamedRows, TooFewUsableError
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
    assert note == "10 of the 50 rows are read: a random choice by seed 3"
    assert stream.most_rows == 10
    assert numbers(stream) == CHOSEN == numbers(stream)
    assert (stream.report().rows, stream.report().used) == (10, 10)


def test_a_chosen_row_that_cannot_be_used_is_dropped(tmp_path: Path) -> None:
    unusable = {CHOSEN[2], CHOSEN[2] + 1, CHOSEN[-1]}
    stream = make_stream(tmp_path, unusable)
    stream.sample(10, seed=3)
    assert numbers(stream) == sorted({*CHOSEN} - unusable)
    report = stream.report()
    assert (report.rows, report.used) == (10, 8)
    assert count_dropped(report.dropped) == 2


def test_too_few_that_can_be_used_are_an_error(tmp_path: Path) -> None:
    for unusable, usable in ((set(CHOSEN[5:]), 5), (set(CHOSEN), 0)):
        stream = make_stream(tmp_path, unusable)
        rows = StreamedRows(stream)
        rows.sample(10, fewest=6, seed=3, why=", more than max_steps=1 takes")
        with pytest.raises(TooFewUsableError):
            list(rows.records())
        rows = StreamedRows(make_stream(tmp_path, unusable))
        rows.sample(10, fewest=usable, seed=3, why="")
        if usable:
            assert len(list(rows.records())) == usable
