"""Writing JSON lines and responses.jsonl, and reading them back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.write import (
    ResponseRow,
    read_responses,
    record_json,
    write_jsonl,
    write_responses,
)
from accord.errors import DataError, StorageError
from accord.records import Comparison, Demonstration, Message, Response


def test_write_jsonl_makes_the_folder_and_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.jsonl"
    assert write_jsonl(path, [{"x": "é\u2028"}, {"x": 2}]) == 2
    assert path.read_bytes() == '{"x": "é\u2028"}\n{"x": 2}\n'.encode()
    assert write_jsonl(path, []) == 0
    assert path.read_bytes() == b""


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write_jsonl(path, [{"x": 1}])

    def rows() -> Iterator[dict[str, Any]]:
        yield {"x": 2}
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError):
        write_jsonl(path, rows())
    assert path.read_text() == '{"x": 1}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, "\ud800"])
def test_row_that_json_cannot_hold(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError) as caught:
        write_jsonl(tmp_path / "a.jsonl", [{"x": 1}, {"x": value}])
    assert str(caught.value).startswith(
        f"Row 2 of {tmp_path / 'a.jsonl'} can't be written as JSON: "
    )
    assert list(tmp_path.iterdir()) == []


def test_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "a.jsonl"
    with pytest.raises(StorageError) as caught:
        write_jsonl(path, [])
    assert str(caught.value).startswith(
        f"Could not write {path}: a part of the path is a file, not a folder"
    )


def test_the_json_of_a_line_of_responses(tmp_path: Path) -> None:
    path = tmp_path / "responses.jsonl"
    prompt = (Message("user", "hi"),)
    response = Response(prompt, "hello", "m", {"seed": 1}, logp=-1.5, tokens=2, finished=False)
    write_responses(path, [ResponseRow(prompt, {"kind": "a"}, "m", {"seed": 1}, (response,))])
    assert json.loads(path.read_text()) == {
        "prompt": [{"role": "user", "content": "hi"}],
        "meta": {"kind": "a"},
        "model": "m",
        "settings": {"seed": 1},
        "responses": [{"text": "hello", "tokens": 2, "logp": -1.5, "finished": False}],
    }


text = st.text(st.characters(codec="utf-8"))


@settings(deadline=None, max_examples=50)  # files each
@given(
    prompt=text | st.tuples(st.builds(Message, st.just("user"), text)),
    answers=st.lists(
        st.tuples(
            text, st.none() | st.floats(-1e9, 0), st.none() | st.integers(0, 9), st.booleans()
        )
    ),
    meta=st.dictionaries(text, st.none() | text | st.integers(), max_size=2),
)
def test_responses_round_trip(
    tmp_path_factory: pytest.TempPathFactory, prompt: Any, answers: Any, meta: Any
) -> None:
    path = tmp_path_factory.mktemp("r") / "responses.jsonl"
    settings = {"temperature": 0.7}
    responses = tuple(
        Response(prompt, answer, "m", settings, logp, tokens, finished)
        for answer, logp, tokens, finished in answers
    )
    row = ResponseRow(prompt, meta, "m", settings, responses)
    write_responses(path, [row, row])
    assert read_responses(path) == [row, row]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"prompt": "p", "responses": []},
            "has no `model`. Give a responses.jsonl as `accord sample` writes it: prompt, meta, "
            "model, settings and responses, each with its text.",
        ),
        (
            {"prompt": "p", "model": "m", "responses": [{"tokens": 1}]},
            "is not a line of responses.jsonl: a response must be an object with `text`, got "
            "\"{'tokens': 1}\". Sample the responses again, or correct that line.",
        ),
        (
            {"prompt": 5, "model": "m", "responses": []},
            "is not a line of responses.jsonl: a prompt must be text or a list of "
            "{role, content}, got 5. Sample the responses again, or correct that line.",
        ),
    ],
)
def test_lines_that_are_no_responses(tmp_path: Path, line: dict[str, Any], message: str) -> None:
    path = tmp_path / "responses.jsonl"
    write_jsonl(path, [line])
    with pytest.raises(DataError) as caught:
        read_responses(path)
    assert str(caught.value) == f"{path}:1 {message}"


@pytest.mark.parametrize("text", ["[image]", "{x} is a set", "array(1)", '[{"a": 1}]'])
def test_an_answer_that_only_begins_like_json_stays_text(text: str) -> None:
    """A list in one row of a file and text in the others can't be read by `datasets`."""
    row = record_json(Comparison((Message("user", "q"),), text, "b"))
    assert (row["chosen"], row["rejected"]) == (text, "b")


@pytest.mark.parametrize(
    ("response", "is_text"),
    [
        ("hello", True),
        ('{"answer": 4}', True),
        ('[{"role": "user", "content": "hi"}]', False),  # as text it would be read as turns
        ("\n\nHuman: hi\n\nAssistant: hello", False),
    ],
)
def test_an_answer_to_a_conversation_is_written_as_text_where_it_is_read_as_text(
    response: str, is_text: bool
) -> None:
    row = record_json(Demonstration((Message("user", "hi"),), response))
    turn = [{"role": "assistant", "content": response}]
    assert row["completion"] == (response if is_text else turn)
