"""Pairs of responses under other names than chosen and rejected, with a label."""

from __future__ import annotations

from typing import Any

import pytest

from accord.data.read import records_from_rows
from accord.errors import DataError
from accord.records import Comparison, Message


def pairs(*rows: dict[str, Any], kind: Any = "comparisons") -> list[tuple[Any, str, str]]:
    records, _ = records_from_rows(list(rows), kind)
    return [(r.prompt, r.chosen, r.rejected) for r in records if isinstance(r, Comparison)]


def refused(*rows: dict[str, Any], kind: Any = "comparisons") -> str:
    with pytest.raises(DataError) as caught:
        records_from_rows(list(rows), kind)
    return str(caught.value)


# The names and labels of LLMBar, PandaLM, AlpacaEval, PKU-SafeRLHF, WebGPT, JudgeBench,
# HelpSteer2 and HelpSteer3. In each row the response "good" is the preferred one.
LABELLED = [
    {"output_1": "bad", "output_2": "good", "label": 2},
    {"output_1": "good", "output_2": "bad", "label": "1"},
    {"response1": "good", "response2": "bad", "preference": 1.0},
    {"output_1": "bad", "output_2": "good", "preference": 2.0},
    {"response_0": "bad", "response_1": "good", "better_response_id": 1},
    {"response_0": "good", "response_1": "bad", "better_response_id": 0},
    {"answer_0": "bad", "answer_1": "good", "score_0": -0.5, "score_1": 0.5},
    {"response_A": "bad", "response_B": "good", "label": "B>A"},
    {"response_a": "good", "response_b": "bad", "winner": "model_a"},
    {"response_a": "bad", "response_b": "good", "preferred": "response_b"},
    {"response_1": "good", "response_2": "bad", "preference_strength": -2},
    {"response1": "bad", "response2": "good", "overall_preference": 3},
    {"completion_a": "bad", "completion_b": "good", "choice": "[[B]]"},
]


@pytest.mark.parametrize("row", LABELLED)
@pytest.mark.parametrize("prompt", ["prompt", "instruction", "input"])
def test_labels_name_the_preferred_response(row: dict[str, Any], prompt: str) -> None:
    expected = "q" if prompt == "prompt" else (Message("user", "q"),)
    assert pairs({prompt: "q", **row}) == [(expected, "good", "bad")]


def test_the_line_that_people_see() -> None:
    row = {"input": "q", "output_1": "x", "output_2": "y", "label": 1, "subset": "Natural"}
    _, report = records_from_rows([row], "preferences")
    assert report.notes == [
        "`output_1` and `output_2` are read as a pair, of which `label` names the preferred one",
        "`input` is read as the user's message",
        "columns not read: subset",
    ]


def test_ties_and_unknown_labels_drop_the_row() -> None:
    row = {"prompt": "q", "output_1": "x", "output_2": "y"}
    rows = [{**row, "label": label} for label in (1, 2, 0, "?", None)]
    _, report = records_from_rows(rows, "comparisons")
    assert (report.used, {reason: len(rows) for reason, rows in report.dropped.items()}) == (
        2,
        {
            "neither response is preferred": 1,
            "`label` names none of the two responses": 1,
            "no value in `label`": 1,
        },
    )


# 0 and 1 may count from 0, or mean the second and the first (SHP), or a tie and the first.
@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("output_1", "output_2"), (0, 1)),
        (("response_a", "response_b"), (0, 1)),
        (("human_ref_A", "human_ref_B"), (1, 1)),
        (("response_0", "response_1"), (1, 2)),
        (("output_1", "output_2"), (-1, 1)),
    ],
)
def test_numbers_that_could_name_either_are_refused(
    names: tuple[str, str], labels: tuple[int, int]
) -> None:
    rows = [{"prompt": "q", names[0]: "x", names[1]: "y", "label": label} for label in labels]
    message = refused(*rows)
    assert "it can't be known which response each names" in message
    assert f"`{names[0]}`" in message


def test_a_pair_without_a_label_is_no_prompt_without_a_word() -> None:
    row = {"instruction": "q", "response1": "x", "response2": "y", "annotator1": 1}
    message = refused(row)
    assert "`response1`, `response2` look like responses" in message
    assert "add a column `preferred`" in message
    records, report = records_from_rows([row], "prompts")
    assert len(records) == 1
    assert "the responses in response1, response2 are not read, only the prompts" in report.notes


def test_prompts_of_pairs_include_those_of_ties() -> None:
    rows = [{"prompt": f"q{v}", "output_1": "x", "output_2": "y", "label": v} for v in (0, 1, 2)]
    records, report = records_from_rows(rows, "prompts")
    assert len(records) == 3
    assert report.notes[-1] == "the responses in output_1, output_2 are not read, only the prompts"


def kaggle(a: int, b: int, tie: int, **more: str) -> dict[str, Any]:
    winner = {"winner_model_a": a, "winner_model_b": b, "winner_tie": tie}
    models = {"model_a": "x", "model_b": "y"}
    texts = {"prompt": '["q"]', "response_a": '["A"]', "response_b": '["B"]'}
    return {**texts, **models, **winner, **more}


def test_an_arena_with_one_column_for_each_winner() -> None:
    rows = [kaggle(1, 0, 0), kaggle(0, 1, 0), kaggle(0, 0, 1), kaggle(0, 0, 0)]
    q = (Message("user", "q"),)
    assert pairs(*rows) == [(q, "A", "B"), (q, "B", "A")]
    _, report = records_from_rows(rows, "comparisons")
    assert {reason: len(rows) for reason, rows in report.dropped.items()} == {
        "neither response is preferred": 1,
        "not one of winner_model_a, winner_model_b, winner_tie is 1": 1,
    }
    # Two turns with different first answers have no common prompt; with equal ones they have.
    two = {"prompt": '["q","r"]', "response_a": '["A","C"]', "response_b": '["A","D"]'}
    turns = (*q, Message("assistant", "A"), Message("user", "r"))
    assert pairs(kaggle(1, 0, 0, **two)) == [(turns, "C", "D")]
    differ = {**two, "response_b": '["B","D"]'}
    assert "the dialogues differ before the last answer" in refused(kaggle(1, 0, 0, **differ))
    null = {"response_b": "[null]"}
    assert "no value in `response_b`" in refused(kaggle(1, 0, 0, **null))


def test_an_arena_of_conversations() -> None:
    a, b = (
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": text}] for text in "AB"
    )
    row = {"model_a": "x", "model_b": "y", "conversation_a": a, "conversation_b": b}
    assert pairs({**row, "winner": "model_b"}) == [((Message("user", "q"),), "B", "A")]
    assert pairs({**row, "winner": "tie (bothbad)"}, {**row, "winner": "model_a"}) == [
        ((Message("user", "q"),), "A", "B")
    ]


def test_other_columns_are_no_pair() -> None:
    choices = {f"option_{i}": "x" for i in range(1, 3)}
    records, _ = records_from_rows([{"question": "q", **choices, "label": 1}], "prompts")
    assert len(records) == 1
    four = {f"answer_{i}": "x" for i in range(4)}
    assert "look like responses" in refused({"question": "q", **four, "label": 1})
