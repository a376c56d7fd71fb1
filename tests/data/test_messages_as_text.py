"""Messages that a column holds as text: JSON, Python's notation, NumPy's."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accord.data.read import read_records, records_from_rows
from accord.data.written_messages import MAX_LENGTH, messages_in_text
from accord.records import Comparison, Demonstration, Message, PromptOnly, Ranking
from tests.data.row_parsing import HERE, collect_notes, fails, parse, turn

ASK = [turn("user", 'it\'s "how" deep?\n{[')]
WELL, NO = [turn("assistant", "it's 9")], [turn("assistant", "no, }\n {'role': x")]
PAIR = Comparison(
    (Message("user", ASK[0]["content"]),), WELL[0]["content"], NO[0]["content"], source=HERE
)


def numpy_text(turns: list[dict[str, Any]]) -> str:
    """As pandas writes a column of NumPy arrays, as it reads from Parquet, into a CSV."""
    return str(np.array(turns, dtype=object))


NOTATIONS: list[Callable[[Any], str]] = [
    json.dumps,
    lambda turns: json.dumps(turns, indent=2),
    lambda turns: json.dumps(turns, separators=(",", ":")),
    repr,
    numpy_text,
    lambda turns: repr(np.array(turns, dtype=object)),
    lambda turns: f"  {turns!r}\n",
]


@pytest.mark.parametrize("write", NOTATIONS)
def test_each_notation_is_read(write: Callable[[Any], str]) -> None:
    assert parse(prompt=write(ASK), chosen=write(WELL), rejected=write(NO)) == PAIR
    whole = parse(chosen=write(ASK + WELL), rejected=write(ASK + NO))
    assert whole == PAIR
    assert isinstance(parse(messages=write(ASK + WELL)), Demonstration)
    assert isinstance(parse(conversations=write(ASK)), PromptOnly)
    demonstration = parse(prompt=write(ASK), completion=write(WELL))
    assert isinstance(demonstration, Demonstration)
    assert demonstration.response == "it's 9"


def test_the_note_names_the_column() -> None:
    notes = collect_notes(prompt=ASK, chosen=repr(WELL), rejected=repr(NO))
    assert notes == [
        "messages that `chosen` holds as text are read as messages",
        "messages that `rejected` holds as text are read as messages",
    ]


def test_one_message_alone() -> None:
    assert parse(prompt=ASK, chosen=WELL[0], rejected=repr(NO[0])) == PAIR
    sharegpt = {"conversations": [{"from": "human", "value": ASK[0]["content"]}]}
    ends = {"chosen": {"from": "gpt", "value": "it's 9"}, "rejected": {"from": "gpt", "value": "5"}}
    pair = parse(**sharegpt, **ends)
    assert isinstance(pair, Comparison)
    assert (pair.prompt, pair.chosen, pair.rejected) == (PAIR.prompt, "it's 9", "5")
    notes = records_from_rows([{**sharegpt, **ends}], "comparisons")[1].notes
    assert notes == []


def test_responses_of_a_ranking() -> None:
    ranking = parse(prompt=ASK, responses=[repr(WELL), json.dumps(NO)], ranks=[0, 1])
    assert isinstance(ranking, Ranking)
    assert ranking.responses == (PAIR.chosen, PAIR.rejected)


def test_a_column_of_text_is_no_text_where_it_holds_messages() -> None:
    row = {"text": json.dumps(ASK + WELL)}
    (record,), _ = records_from_rows([row], "sft")
    assert isinstance(record, Demonstration)
    _, report = records_from_rows([row, {"text": "plain"}], "text")
    assert list(report.dropped) == ["the text holds messages"]


def test_csv_as_pandas_writes_it(tmp_path: Path) -> None:
    for name, write in (("json.csv", json.dumps), ("repr.csv", repr), ("numpy.csv", numpy_text)):
        buffer = io.StringIO()
        rows = [["prompt", "chosen", "rejected"], [write(ASK), write(WELL), write(NO)]]
        csv.writer(buffer).writerows(rows)
        (tmp_path / name).write_text(buffer.getvalue())
        (pair,), _ = read_records(tmp_path / name, "comparisons")
        assert isinstance(pair, Comparison)
        assert pair == replace(PAIR, source=pair.source)


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        '{"a": 1}',
        '[{"a": "role"}]',
        '[{"name": "x", "role": "king"}]',  # no content
        '[{"role": "user", "content": "x"}] is a list of messages',
        "[[{'role': 'user'}]]",
        "[" * 10_000 + "]" * 10_000,
        "how deep?",
    ],
)
def test_other_text_stays(text: str) -> None:
    assert messages_in_text(text, "prompt") is None


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'user', 'content': __import__('os').getcwd()}]",
        '[{"role": "user", "content": "x"',
        "[{'role': 'user', 'content': 'x'} for _ in [1]]",
        "[{'role': " + "[" * 10_000 + "]" * 10_000 + "}]",
        "[{'role': '" + "x" * MAX_LENGTH + "'}]",
    ],
)
def test_what_begins_as_messages_is_never_evaluated_nor_learned(text: str) -> None:
    if text.endswith('"'):
        assert messages_in_text(text, "prompt") is None  # it does not end as messages do
    else:
        assert fails(prompt=text, completion="a").startswith("`prompt` holds text that begins as")
