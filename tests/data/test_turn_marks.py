"""Turns that rows mark as not to be learned, and keys of turns that nothing reads."""

from __future__ import annotations

from typing import Any

import pytest

from accord.data.read import records_from_rows
from accord.records import Demonstration, Message, prompt_from_json, prompt_json
from tests.data.row_parsing import collect_notes, fails, parse, turn

NO = {"role": "assistant", "content": "no"}
ROW: list[dict[str, Any]] = [turn("user", "a"), NO, turn("user", "b"), turn("assistant", "yes")]


def with_mark(**mark: Any) -> list[dict[str, Any]]:
    """ROW, whose first answer has the mark."""
    return [ROW[0], {**NO, **mark}, *ROW[2:]]


def marks(record: Any) -> list[bool]:
    assert isinstance(record, Demonstration)
    assert not isinstance(record.prompt, str)
    return [*(m.learn for m in record.prompt if m.role == "assistant"), record.learn]


# OpenAI's and Mistral's `weight`, axolotl's `train` and `training`, ms-swift's `loss`.
@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0},
        {"weight": 0.0},
        {"weight": "0"},
        {"train": False},
        {"training": "False"},
        {"trainable": False},
        {"loss": False},
        {"learn": 0},
        {"train_detail": [{"begin_offset": 0, "end_offset": 1, "train": False}]},
    ],
)
def test_a_marked_turn_is_context(mark: dict[str, Any]) -> None:
    assert marks(parse(messages=with_mark(**mark))) == [False, True]


@pytest.mark.parametrize("mark", [{"weight": 1}, {"weight": None}, {"train": True}, {"loss": 1.0}])
def test_other_marks_change_nothing(mark: dict[str, Any]) -> None:
    assert marks(parse(messages=with_mark(**mark))) == [True, True]
    assert collect_notes(messages=with_mark(**mark)) == []


def test_marks_in_sharegpt_turns() -> None:
    turns = [
        {"from": "human", "value": "a", "weight": 0},
        {"from": "gpt", "value": "no", "weight": 0},
        {"from": "human", "value": "b"},
        {"from": "gpt", "value": "yes", "weight": 1},
    ]
    assert marks(parse(conversations=turns)) == [False, True]


def test_a_marked_last_answer() -> None:
    last = [*ROW[:3], {**ROW[3], "weight": 0}]
    assert marks(parse(messages=last)) == [True, False]
    bad = turn("assistant", "maybe")
    assert fails(prompt=ROW[:1], chosen=[last[3]], rejected=[bad]) == (
        "its answer is marked as not to be learned: `chosen`"
    )
    assert fails(prompt="a", response=[last[3]], score=1).startswith("its answer is marked")


@pytest.mark.parametrize(
    ("mark", "reason"),
    [
        ({"weight": 0.5}, "`weight` of a turn is neither 0 nor 1"),
        ({"train": "maybe"}, "`train` of a turn is neither 0 nor 1"),
        ({"train": [0, 1]}, "`train` of a turn is neither 0 nor 1"),
        ({"train_detail": "x"}, "`train_detail` of a turn is no list of segments"),
        ({"train_detail": [{"train": True}, {"train": False}]}, "`train_detail` marks a part"),
    ],
)
def test_marks_that_can_not_be_followed_drop_the_row(mark: Any, reason: str) -> None:
    assert fails(messages=with_mark(**mark)).startswith(reason)


def test_keys_that_nothing_reads_are_named() -> None:
    row = {"messages": with_mark(mask=1, id="x", empty=None)}
    _, report = records_from_rows([row, {"messages": ROW}], "sft")
    assert report.notes == [
        "in 1 rows, `mask` of the turns is not read",
        "in 1 rows, `id` of the turns is not read",
    ]
    assert collect_notes(messages=[{**ROW[0], "train": True}, NO]) == [
        "only turns of the assistant are learned, whatever others are marked as"
    ]


def test_a_mark_survives_json() -> None:
    record = parse(messages=with_mark(weight=0))
    assert isinstance(record, Demonstration)
    again = prompt_from_json(prompt_json(record.prompt))
    assert [m.learn for m in again if isinstance(m, Message)] == [True, False, True]
