"""Tool calls, tools, thoughts and contents in parts: what turns hold beside text."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from accord.data.files import DataRow
from accord.data.formats import parse_record
from accord.data.memory import read_memory_rows
from accord.data.read import records_from_rows
from accord.data.write import record_json
from accord.records import (
    Comparison,
    Demonstration,
    Message,
    Ranking,
    Record,
    parse_fields,
    prompt_context,
    prompt_from_json,
    prompt_json,
    prompt_text,
)
from tests.data.row_parsing import HERE, collect_notes, fails, parse, turn

CALL = {"type": "function", "function": {"name": "depth", "arguments": {"of": "lake"}}}
TOOLS = [{"type": "function", "function": {"name": "depth", "parameters": {"type": "object"}}}]
CALLS = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ASK = turn("user", "how deep?")
RESULT = {"role": "tool", "content": "9", "tool_call_id": "c1", "name": "depth"}
ROW: dict[str, Any] = {"messages": [ASK, CALLS, RESULT, turn("assistant", "9 m")], "tools": TOOLS}


def read_back(record: Record) -> Record:
    """The record written as a row and read again."""
    (row,) = read_memory_rows([json.loads(json.dumps(record_json(record)))])
    return parse_record(DataRow(row.values, HERE), notes=Counter())


def demonstration(**row: Any) -> Demonstration:
    record = parse(**row)
    assert isinstance(record, Demonstration)
    return record


def test_turns_have_their_calls_and_the_row_its_tools() -> None:
    record = demonstration(**ROW)
    assert isinstance(record.prompt, tuple)
    ask, calls, result = record.prompt
    assert prompt_context(record.prompt) == {"tools": TOOLS}
    assert parse_fields(calls.fields) == {"content": None, "tool_calls": [CALL]}
    assert parse_fields(result.fields) == {"tool_call_id": "c1", "name": "depth"}
    assert (ask.fields, calls.content, record.response, record.fields) == ("", "", "9 m", "")
    assert collect_notes(**ROW) == ["`tools` goes to the chat template"]
    assert records_from_rows([ROW], "sft")[1].notes == ["`tools` goes to the chat template"]


def test_json_keeps_them() -> None:
    record = demonstration(**ROW)
    as_json = prompt_json(record.prompt)
    assert as_json == {"messages": ROW["messages"][:3], "tools": TOOLS}
    assert prompt_from_json(json.loads(json.dumps(as_json))) == record.prompt
    assert read_back(record) == record
    chosen = [{**CALLS, "reasoning_content": "ask"}]
    pair = parse(prompt=[ASK], tools=TOOLS, chosen=chosen, rejected=[turn("assistant", "4 m")])
    assert isinstance(pair, Comparison)
    assert parse_fields(pair.chosen_fields)["reasoning_content"] == "ask"
    assert read_back(pair) == pair
    rows = [[CALLS], "4 m"]
    ranking = parse(prompt=[ASK], responses=rows, ranks=[0, 1])
    assert isinstance(ranking, Ranking)
    assert ranking.fields == (pair.chosen_fields.replace(', "reasoning_content": "ask"', ""), "")
    assert read_back(ranking) == ranking
    rating = parse(prompt=[ASK], response=[CALLS], score=1)
    assert read_back(rating) == rating
    marked = demonstration(messages=[ASK, {**CALLS, "weight": 0}])
    assert read_back(marked) == marked
    assert not marked.learn


def test_tools_and_calls_as_json_text() -> None:
    texts = {
        "messages": [ASK, {**CALLS, "tool_calls": json.dumps([CALL])}, *ROW["messages"][2:]],
        "tools": json.dumps(TOOLS),
    }
    assert demonstration(**texts) == demonstration(**ROW)
    assert demonstration(**{**ROW, "tools": [json.dumps(t) for t in TOOLS]}) == demonstration(**ROW)
    assert fails(**{**ROW, "tools": "a hammer"}) == "`tools` is no JSON: 'a hammer'"
    assert fails(**{**ROW, "tools": [3]}).startswith("`tools` holds something else than objects")
    bad = [ASK, {**CALLS, "tool_calls": "depth()"}]
    assert fails(messages=bad).startswith("`tool_calls` of a turn in `messages")


def test_values_that_arrow_fills_in_are_left_out() -> None:
    arguments = {"of": "lake", "x": None}
    filled = {"type": "function", "function": {"name": "depth", "arguments": arguments}}
    turns = [{**t, "tool_calls": None} for t in (ASK, turn("assistant", "?"), ASK)]
    record = demonstration(messages=[*turns, {**CALLS, "tool_calls": [filled], "name": None}])
    assert parse_fields(record.fields) == {"content": None, "tool_calls": [CALL]}


def test_sharegpt_function_calls() -> None:
    row = {
        "conversations": [
            {"from": "human", "value": "how deep?"},
            {"from": "function_call", "value": json.dumps(CALL["function"])},
            {"from": "observation", "value": "9"},
            {"from": "gpt", "value": "9 m"},
        ],
        "tools": json.dumps(TOOLS),
    }
    record = demonstration(**row)
    assert isinstance(record.prompt, tuple)
    assert [m.role for m in record.prompt] == ["user", "assistant", "tool"]
    assert parse_fields(record.prompt[1].fields) == {"content": None, "tool_calls": [CALL]}
    row["conversations"][1]["value"] = "depth of the lake"
    assert fails(**row).startswith("`conversations` is no JSON")


def test_the_former_function_call_of_openai() -> None:
    call = {"role": "assistant", "content": None, "function_call": CALL["function"]}
    result = {"role": "function", "name": "depth", "content": "9"}
    record = demonstration(messages=[ASK, call, result, turn("assistant", "9 m")])
    assert isinstance(record.prompt, tuple)
    assert record.prompt[1:] == (
        Message("assistant", "", json.dumps({"content": None, "tool_calls": [CALL]})),
        Message("tool", "9", '{"name": "depth"}'),
    )


def test_a_null_content_needs_a_call() -> None:
    assert demonstration(messages=[ASK, CALLS]).fields
    assert fails(messages=[ASK, turn("assistant", None)]) == "no value in `messages`"  # type: ignore[arg-type]
    assert fails(messages=[ASK, turn("assistant", "")]) == "an empty response: `messages`"


def test_people_read_the_calls_of_a_prompt() -> None:
    text = prompt_text(demonstration(**ROW).prompt)
    assert text.startswith(f"tools: {json.dumps(TOOLS)}\n\nuser: how deep?\n\nassistant: tool")
    assert "lake" in text


def test_contents_in_parts() -> None:
    parts = [{"type": "text", "text": "how"}, {"type": "text", "text": "deep?"}]
    record = demonstration(messages=[{"role": "user", "content": parts}, turn("assistant", "9 m")])
    assert record.prompt == (Message("user", "how\ndeep?"),)
    parts[1] = {"type": "image_url", "image_url": "x.png"}
    assert fails(messages=[{"role": "user", "content": parts}, turn("assistant", "9")]) == (
        "`messages` holds a turn with a part that is no text: 'image_url'"
    )


@pytest.mark.parametrize(
    ("name", "role"),
    [("developer", "system"), ("ipython", "tool"), ("model", "assistant"), ("gpt", "assistant")],
)
def test_other_names_of_roles(name: str, role: str) -> None:
    turns = [ASK, turn(name, "x"), ASK, turn("assistant", "9")]
    record = demonstration(messages=turns)
    assert isinstance(record.prompt, tuple)
    assert record.prompt[1].role == role


def test_the_system_column_of_a_conversation_is_its_first_turn() -> None:
    record = demonstration(messages=[ASK, turn("assistant", "9")], system="Brief.")
    assert record.prompt == (Message("system", "Brief."), Message("user", "how deep?"))
    rows = [{"messages": [ASK, turn("assistant", "9")], "system": "Brief."}]
    assert records_from_rows(rows, "sft")[1].notes == []
