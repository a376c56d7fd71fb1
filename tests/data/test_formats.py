"""Each row format but preferences: how it is detected, and the record it becomes, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from accord.data.battles import parse_battle
from accord.data.checks import RowError
from accord.data.columns import detect_format, matching_formats
from accord.data.files import DataRow
from accord.errors import DataError
from accord.records import (
    Battle,
    Comparison,
    Demonstration,
    Message,
    PromptOnly,
    Ranking,
    Rating,
    Text,
)
from tests.data.row_parsing import ASK, HERE, collect_notes, fails, parse, turn

FOUR = Message("assistant", "4")


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        (["text"], "text"),
        (["text", "label"], "text"),
        (["messages"], "messages"),
        (["prompt", "prompt_id", "messages"], "messages"),
        (["conversations", "id"], "messages"),
        (["prompt"], "prompt"),
        (["id", "prompt", "type", "label"], "prompt"),
        (["prompt", "completion"], "prompt-completion"),
        (["instruction", "input", "output"], "prompt-completion"),
        (["question", "answer"], "prompt-completion"),
        (["prompt", "chosen", "rejected"], "preference"),
        (["prompt", "chosen", "rejected", "messages", "score_chosen"], "preference"),
        (["chosen", "rejected", "margin"], "implicit preference"),
        (["prompt", "completion", "label"], "unpaired"),
        (["prompt", "response", "score"], "rating"),
        (["prompt", "responses", "ranks"], "ranking"),
        (["prompt", "meta", "model", "settings", "responses"], "responses"),
        (["model_a", "model_b", "winner", "prompt"], "battle"),
    ],
)
def test_detect(columns: list[str], form: str) -> None:
    assert detect_format(columns) == form


def test_columns_of_no_format() -> None:
    with pytest.raises(DataError) as caught:
        detect_format(["foo", "bar"])
    assert str(caught.value) == (
        "The columns bar, foo are those of no known format. Rename them to one of: "
        "model_a, model_b, winner; prompt, chosen, rejected; chosen, rejected; "
        "prompt, responses, ranks; prompt, responses; prompt, completion, label; "
        "prompt, completion, score; prompt, completion; messages; text; prompt."
    )


def test_matching_formats_lists_all_that_fit() -> None:
    assert matching_formats(["prompt", "completion", "text"]) == [
        "prompt-completion",
        "text",
        "prompt",
    ]


def test_text() -> None:
    assert parse(text=" as it stands\n") == Text(" as it stands\n", HERE)
    assert fails(text=" \n") == "an empty text"
    assert fails(text=3) == "`text` holds neither text nor messages: int '3'"


def test_text_that_cannot_be_encoded() -> None:
    assert fails(text="a\ud83d") == (
        "`text` holds half a character (a lone surrogate): \"'a\\\\ud83d'\""
    )


def test_messages() -> None:
    turns = [turn("system", "Brief."), turn("user", "2+2?"), turn("assistant", "4")]
    expected = Demonstration((Message("system", "Brief."), ASK), "4", HERE)
    assert parse(messages=turns) == expected


def test_earlier_answers_are_part_of_the_prompt() -> None:
    turns = [
        turn("user", "hi"),
        turn("assistant", "hello"),
        turn("user", "2+2?"),
        turn("assistant", "4"),
    ]
    expected = (Message("user", "hi"), Message("assistant", "hello"), ASK)
    assert parse(messages=turns) == Demonstration(expected, "4", HERE)


def test_messages_that_end_with_the_user_are_a_prompt() -> None:
    assert parse(messages=[turn("user", "2+2?")], kind="sum") == PromptOnly(
        (ASK,), HERE, {"kind": "sum"}
    )


def test_sharegpt() -> None:
    turns = [
        {"from": "system", "value": "Brief."},
        {"from": "human", "value": "2+2?"},
        {"from": "gpt", "value": "4"},
    ]
    expected = Demonstration((Message("system", "Brief."), ASK), "4", HERE)
    assert parse(conversations=turns) == expected


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hi", "`messages` is no list of messages: str"),
        ([], "`messages` holds no messages"),
        (["hi"], "`messages` holds a turn that is no {role, content}: 'hi'"),
        ([turn("bot", "x")], "`messages` holds a turn of an unknown role: 'bot'"),
        ([{"role": "user", "content": None}], "no value in `messages`"),
        ([turn("assistant", "4")], "a conversation in which nobody asks: `messages`"),
        ([turn("user", "2+2?"), turn("assistant", " ")], "an empty response: `messages`"),
    ],
)
def test_messages_that_cannot_be_used(messages: Any, reason: str) -> None:
    assert fails(messages=messages) == reason


def test_other_columns_of_a_prompt_become_its_meta() -> None:
    expected = PromptOnly("2+2?", HERE, {"type": "sum", "label": "safe"})
    assert parse(prompt="2+2?", type="sum", label="safe") == expected
    assert parse(prompt=[turn("user", "2+2?")], meta={"kind": "sum"}) == PromptOnly(
        (ASK,), HERE, {"kind": "sum"}
    )
    assert fails(prompt="  ") == "an empty prompt"
    assert fails(prompt=[turn("user", "")]) == "an empty prompt"


def test_a_line_of_responses_jsonl_is_a_prompt() -> None:
    row = {"prompt": "2+2?", "meta": {"kind": "sum"}, "model": "m", "settings": {"seed": 1}}
    assert parse(**row, responses=[{"text": "4", "tokens": 1}]) == PromptOnly(
        "2+2?", HERE, {"kind": "sum"}
    )


def test_prompt_completion() -> None:
    assert parse(prompt="2+2=", completion=" 4") == Demonstration("2+2=", " 4", HERE)
    both = parse(prompt=[turn("user", "2+2?")], completion=[turn("assistant", "4")])
    assert both == Demonstration((ASK,), "4", HERE)
    assert fails(prompt="2+2=", completion="") == "an empty response: `completion`"


def test_completion_of_several_turns_extends_the_prompt() -> None:
    completion = [turn("assistant", "4"), turn("user", "sure?"), turn("assistant", "yes")]
    assert parse(prompt=[turn("user", "2+2?")], completion=completion) == Demonstration(
        (ASK, FOUR, Message("user", "sure?")), "yes", HERE
    )


def test_alpaca() -> None:
    row = {"instruction": "Add.", "input": "2+2", "output": "4"}
    assert parse(**row) == Demonstration((Message("user", "Add.\n\n2+2"),), "4", HERE)
    assert collect_notes(**row) == [
        "`output` is read as the response",
        "`input` is read as the end of `instruction`",
        "`instruction` is read as the user's message",
    ]
    row = {"instruction": "Add 2+2.", "input": "", "output": "4"}
    assert parse(**row) == Demonstration((Message("user", "Add 2+2."),), "4", HERE)


def test_system_column_goes_before_the_user() -> None:
    row = {"system": "Brief.", "question": "2+2?", "chosen": "4", "rejected": "5"}
    prompt = (Message("system", "Brief."), ASK)
    assert parse(**row) == Comparison(prompt, "4", "5", None, HERE)
    assert parse(**{**row, "system": ""}) == Comparison((ASK,), "4", "5", None, HERE)


@pytest.mark.parametrize(
    ("label", "score"),
    [(True, 1.0), (False, 0.0), (1, 1.0), (0, 0.0), ("True", 1.0), ("false", 0.0)],
)
def test_unpaired(label: Any, score: float) -> None:
    assert parse(prompt="q", completion="a", label=label) == Rating("q", "a", score, HERE)


def test_unpaired_label_that_is_neither() -> None:
    assert fails(prompt="q", completion="a", label="good") == (
        "`label` is neither true nor false: 'good'"
    )
    assert fails(prompt="q", completion="a", label=2) == "`label` is neither true nor false: 2"


def test_rating() -> None:
    assert parse(prompt="q", response="a", score=4) == Rating("q", "a", 4.0, HERE)
    assert parse(prompt="q", response="a", rating="4.5") == Rating("q", "a", 4.5, HERE)
    assert fails(prompt="q", response="a", score=True) == "`score` is no finite number: True"
    assert fails(prompt="q", response="a", score="inf") == "`score` is no finite number: 'inf'"


def test_ranking() -> None:
    assert parse(prompt="q", responses=["a", "b", "c"], ranks=[1, 0, 1]) == Ranking(
        "q", ("a", "b", "c"), (1, 0, 1), HERE
    )
    row = {"prompt": "q", "responses": ["a", "b"], "ranks": [2, 1]}
    assert parse(**row) == Ranking("q", ("a", "b"), (1, 0), HERE)
    assert collect_notes(**row) == ["ranks that began above 0 are moved to begin at 0"]


@pytest.mark.parametrize(
    ("responses", "ranks", "reason"),
    [
        ("ab", [0, 1], "`responses` and `ranks` must be lists"),
        (
            ["a", "b"],
            [0],
            "`responses` and `ranks` must be two or more, and as many: 2 responses, 1 ranks",
        ),
        (["a", "b"], [0, 0.5], "`ranks` must be whole numbers from 0 (best): [0, 0.5]"),
        (["a", "b"], [-1, 0], "`ranks` must be whole numbers from 0 (best): [-1, 0]"),
        (["a", "b"], [1, 1], "all responses of the ranking tie"),
        (["a", ""], [0, 1], "an empty response: `responses`"),
    ],
)
def test_ranking_that_cannot_be_used(responses: Any, ranks: Any, reason: str) -> None:
    assert fails(prompt="q", responses=responses, ranks=ranks) == reason


@pytest.mark.parametrize(
    ("winner", "outcome"),
    [
        ("model_a", "a"),
        ("model_b", "b"),
        ("tie", "tie"),
        ("tie (bothbad)", "both_bad"),
        ("both_bad", "both_bad"),
    ],
)
def test_battle(winner: str, outcome: Any) -> None:
    row = DataRow({"model_a": "x", "model_b": "y", "winner": winner}, HERE)
    assert parse_battle(row) == Battle("x", "y", outcome)
    assert parse_battle(row).prompt == ""


@pytest.mark.parametrize(
    ("columns", "name"),
    [
        ({"question_id": 81, "prompt": "Hi"}, "81"),
        ({"prompt": "Hi"}, "Hi"),
        ({"question_id": None, "prompt": ["Hi", "é"]}, '["Hi", "é"]'),
    ],
)
def test_a_battle_names_its_prompt(columns: dict[str, Any], name: str) -> None:
    row = DataRow({"model_a": "x", "model_b": "y", "winner": "tie", **columns}, HERE)
    assert parse_battle(row).prompt == name


def test_battle_that_cannot_be_used() -> None:
    def battle(**values: Any) -> str:
        with pytest.raises(RowError) as caught:
            parse_battle(DataRow(values, HERE))
        return str(caught.value)

    assert battle(model_a="x", model_b="y", winner="x") == (
        "`winner` is none of model_a, model_b, tie, tie (bothbad), both_bad, bothbad: 'x'"
    )
    assert battle(model_a="x", model_b="x", winner="tie") == "a model against itself: x"
    assert battle(model_a="x", winner="tie") == "no value in `model_b`"
    with pytest.raises(DataError, match="file:3 is a battle between models"):
        parse(model_a="x", model_b="y", winner="tie")
