"""Records of each kind from files: what is converted, dropped, noted and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from accord.data.kinds import Kind
from accord.data.read import read_battles, read_records
from accord.data.report import ReadReport
from accord.errors import DataError
from accord.records import (
    Battle,
    Comparison,
    Demonstration,
    Message,
    PromptOnly,
    Ranking,
    Rating,
    Source,
    Text,
)

PAIRS = [
    {"prompt": "p", "chosen": "a", "rejected": "b"},
    {"prompt": "q", "chosen": "c", "rejected": "d", "margin": 2},
]


@pytest.fixture
def file(tmp_path: Path) -> Any:
    def write(*rows: dict[str, Any]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def refused(path: Path, kind: Kind) -> str:
    with pytest.raises(DataError) as caught:
        read_records(path, kind)
    return str(caught.value)


def test_comparisons(file: Any) -> None:
    path = file(*PAIRS)
    records, report = read_records(str(path), "comparisons")
    assert records == [
        Comparison("p", "a", "b", None, Source(str(path), 1)),
        Comparison("q", "c", "d", 2.0, Source(str(path), 2)),
    ]
    assert report == ReadReport(str(path), rows=2, used=2, records=2)
    assert report.summary() == "2 rows, 2 used, 0 dropped."


def test_dropped_rows_are_named(file: Any) -> None:
    path = file(
        PAIRS[0],
        {"prompt": "q", "chosen": "c", "rejected": "c"},
        {"prompt": "q", "chosen": "c"},
        {"prompt": "q", "chosen": "", "rejected": "d"},
        {"prompt": "q", "chosen": "e", "rejected": "e"},
    )
    records, report = read_records(path, "comparisons")
    assert len(records) == 1
    assert report.dropped == {
        "chosen and rejected are equal": [(Source(str(path), 2), ""), (Source(str(path), 5), "")],
        "no value in `rejected`": [(Source(str(path), 3), "")],
        "an empty response": [(Source(str(path), 4), "`chosen`")],
    }
    assert report.summary() == (
        "5 rows, 1 used, 4 dropped: 2 chosen and rejected are equal (rows.jsonl:2, rows.jsonl:5); "
        "1 no value in `rejected` (rows.jsonl:3); 1 an empty response (rows.jsonl:4)."
    )
    assert report.to_json()["dropped"]["an empty response"] == [
        {"place": str(path), "line": 4, "detail": "`chosen`"}
    ]
    json.dumps(report.to_json())


def test_demonstrations_from_comparisons_are_noted(file: Any) -> None:
    path = file(*PAIRS)
    records, report = read_records(path, "sft")
    assert records == [
        Demonstration("p", "a", Source(str(path), 1)),
        Demonstration("q", "c", Source(str(path), 2)),
    ]
    assert report.summary() == (
        "2 rows, 2 used, 0 dropped. The chosen responses are read as demonstrations. "
        "Columns not read: margin."
    )
    assert read_records(path, "demonstrations")[0] == records


def test_kto_takes_labels_scores_pairs_and_rankings_together(file: Any) -> None:
    path = file(
        {"prompt": "p", "completion": "a", "label": True},
        {"prompt": "p", "completion": "b", "label": False, "finished": False},
        {"prompt": "p", "completion": "c", "score": 0.7},
        PAIRS[0],
        {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 0, 2]},
        {"prompt": "p", "completion": "a"},
        {"prompt": "p", "completion": "a", "label": True, "finished": [True]},
    )
    records, report = read_records(path, "kto")
    sources = [Source(str(path), line) for line in range(1, 8)]
    assert records == [
        Rating("p", "a", 1.0, sources[0]),
        Rating("p", "b", 0.0, sources[1], finished=False),
        Rating("p", "c", 0.7, sources[2]),
        Comparison("p", "a", "b", None, sources[3]),
        Ranking("p", ("a", "b", "c"), (1, 0, 2), sources[4]),
    ]
    assert report.dropped == {
        "`label` is neither true nor false": [(sources[5], "None")],
        "`finished` must be true or false": [(sources[6], "[True]")],
    }
    assert report.notes == []


def test_an_unfinished_response_stays_unfinished_when_it_is_converted(file: Any) -> None:
    path = file({"prompt": "p", "chosen": "a", "rejected": "b", "finished": [False, True]})
    source = Source(str(path), 1)
    assert read_records(path, "sft")[0] == [Demonstration("p", "a", source, finished=False)]
    assert read_records(path, "ratings")[0] == [
        Rating("p", "a", 1.0, source, finished=False),
        Rating("p", "b", 0.0, source),
    ]
    path = file({"prompt": "p", "completion": "a", "finished": False})
    assert read_records(path, "sft")[0] == [Demonstration("p", "a", source, finished=False)]


def test_ratings_from_comparisons_are_two_each(file: Any) -> None:
    path = file(PAIRS[0])
    records, report = read_records(path, "ratings")
    here = Source(str(path), 1)
    assert records == [Rating("p", "a", 1.0, here), Rating("p", "b", 0.0, here)]
    assert (report.rows, report.used, report.records) == (1, 1, 2)
    assert report.notes == ["each comparison is read as two ratings, chosen 1 and rejected 0"]


def test_sft_reads_text_and_demonstrations(file: Any) -> None:
    path = file({"text": "x"})
    assert read_records(path, "sft")[0] == [Text("x", Source(str(path), 1))]
    assert read_records(path, "text")[0] == [Text("x", Source(str(path), 1))]
    path = file({"prompt": "p", "completion": "a", "text": "pa", "id": 7})
    records, report = read_records(path, "sft")
    assert records == [Demonstration("p", "a", Source(str(path), 1))]
    assert report.notes == ["columns not read: text, id"]
    assert read_records(path, "text")[0] == [Text("pa", Source(str(path), 1))]


@pytest.mark.parametrize(
    ("row", "kind", "is_noted"),
    [
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "preferences", False),
        ({"chosen": "p a", "rejected": "p b"}, "comparisons", False),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "kto", False),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "ratings", True),  # its two responses
        ({"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1]}, "preferences", True),
        ({"prompt": "p", "completion": "a", "label": True}, "kto", True),
        ({"prompt": "p", "completion": "a"}, "sft", True),
        ({"text": "pa"}, "sft", True),
    ],
)
def test_a_margin_is_a_column_of_pairs_alone(
    file: Any, row: dict[str, Any], kind: Kind, is_noted: bool
) -> None:
    _, report = read_records(file({**row, "margin": 2.0}), kind)
    assert ("columns not read: margin" in report.notes) == is_noted


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p"},
        {"prompt": "p", "completion": "a"},
        {"prompt": "p", "completion": "a", "label": True},
        {"prompt": "p", "chosen": "a", "rejected": "b"},
        {"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1]},
        {"prompt": "p", "response": "a", "score": 3},
    ],
)
def test_prompts_from_any_format(file: Any, row: dict[str, Any]) -> None:
    path = file({**row, "kind": "sum"})
    assert read_records(path, "prompts")[0] == [
        PromptOnly("p", Source(str(path), 1), {"kind": "sum"})
    ]


def test_prompts_of_conversations(file: Any) -> None:
    ask, answer = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}
    path = file({"messages": [ask]}, {"messages": [ask, answer]})
    records, report = read_records(path, "prompts")
    assert [r.prompt for r in records] == [(Message("user", "p"),)] * 2  # type: ignore[union-attr]
    assert report.notes == ["in 1 rows, only the prompts are read"]


def test_a_conversation_without_an_answer_is_no_demonstration(file: Any) -> None:
    ask, answer = {"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}
    path = file({"messages": [ask]}, {"messages": [ask, answer]})
    records, report = read_records(path, "demonstrations")
    assert records == [Demonstration((Message("user", "p"),), "a", Source(str(path), 2))]
    assert list(report.dropped) == ["the conversation does not end with the assistant's answer"]


def test_preferences_mix_comparisons_and_rankings(file: Any) -> None:
    path = file(PAIRS[0], {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [2, 0, 1]})
    assert read_records(path, "preferences")[0] == [
        Comparison("p", "a", "b", None, Source(str(path), 1)),
        Ranking("p", ("a", "b", "c"), (2, 0, 1), Source(str(path), 2)),
    ]
    records, report = read_records(path, "rankings")
    assert len(records) == 1
    assert list(report.dropped) == ["no value in `responses`"]


def test_a_prompt_without_its_answer_is_still_a_prompt(file: Any) -> None:
    path = file({"prompt": "p", "completion": "a"}, {"prompt": "q", "completion": None})
    assert [r.prompt for r in read_records(path, "prompts")[0]] == ["p", "q"]  # type: ignore[union-attr]


def test_prompts_of_messages_behind_a_prompt_of_text(file: Any) -> None:
    turns = [{"role": "user", "content": "p"}, {"role": "assistant", "content": "a"}]
    rejected = [turns[0], {"role": "assistant", "content": "b"}]
    path = file({"prompt": "p", "chosen": turns, "rejected": rejected})
    assert read_records(path, "prompts")[0] == [
        PromptOnly((Message("user", "p"),), Source(str(path), 1))
    ]


def test_notes_count_the_rows_they_hold_for(file: Any) -> None:
    path = file(
        {"instruction": "i", "input": "x", "output": "o"},
        {"instruction": "i", "input": "", "output": "o"},
    )
    assert read_records(path, "sft")[1].notes == [
        "`output` is read as the response",
        "in 1 rows, `input` is read as the end of `instruction`",
        "`instruction` is read as the user's message",
    ]


def test_several_files_are_named(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(PAIRS[0]) + "\n")
    report = read_records(tmp_path, "comparisons")[1]
    assert report.notes == [f"read from {tmp_path / 'a.jsonl'}, {tmp_path / 'b.jsonl'}"]


def test_wrong_columns_name_what_fits(file: Any) -> None:
    path = file({"prompt": "p", "completion": "a"})
    assert refused(path, "comparisons") == (
        f"{path} has the columns prompt, completion; comparisons need prompt, chosen, rejected; "
        "or chosen, rejected. These rows would fit `sft`."
    )
    path = file(PAIRS[0])
    assert refused(path, "text") == (
        f"{path} has the columns prompt, chosen, rejected; text need text. "
        "These rows would fit `reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`."
    )
    path = file({"question_id": 1, "choosen": "a", "reject": "b"})
    assert refused(path, "comparisons").endswith("Did you mean `chosen` by `choosen`? Rename it.")
    path = file({"foo": 1})
    assert refused(path, "prompts").endswith("Rename the columns, or give another data set.")
    path = file({"foo": None})
    assert "has the columns (all empty);" in refused(path, "prompts")


def test_no_row_left(file: Any) -> None:
    path = file({"prompt": "p", "chosen": "a", "rejected": "a"})
    assert refused(path, "comparisons") == (
        f"{path} has 1 rows, none of which can be used as comparisons: 1 chosen and rejected are "
        "equal (rows.jsonl:1). Correct the rows, or give another data set."
    )


def test_battles(file: Any) -> None:
    path = file(
        {"model_a": "x", "model_b": "y", "winner": "model_b"},
        {"model_a": "x", "model_b": "y", "winner": "?"},
    )
    battles, report = read_battles(path)
    assert battles == [Battle("x", "y", "b")]
    assert (report.rows, report.used) == (2, 1)
    path = file(PAIRS[0])
    with pytest.raises(DataError) as caught:
        read_battles(path)
    assert str(caught.value) == (
        f"{path} has the columns prompt, chosen, rejected; battles need model_a, model_b, winner. "
        "These rows would fit `reward`, `dpo`, `ipo`, `kto`, `orpo` or `simpo`."
    )
    path = file({"model_a": "x", "model_b": "x", "winner": "tie"})
    with pytest.raises(
        DataError, match="none of which can be used as battles: 1 a model against itself"
    ):
        read_battles(path)


def test_an_answer_is_stored_with_its_prompt(file: Any) -> None:
    # A reward may compare responses with it, as text or as a number.
    path = file({"question": "2+2?", "answer": "4"}, {"question": "1+2?", "answer": 3})
    records, report = read_records(path, "prompts")
    assert [r.meta for r in records] == [{"answer": "4"}, {"answer": 3}]  # type: ignore[union-attr]
    assert [r.prompt[0].content for r in records] == ["2+2?", "1+2?"]  # type: ignore[union-attr]
    assert not report.dropped


def test_responses_are_demonstrations_for_sft(file: Any) -> None:
    rows = [
        {
            "prompt": "p",
            "meta": {},
            "model": "best-of-4",
            "settings": {},
            "responses": [{"text": "a", "finished": True}, {"text": "b", "finished": False}],
        },
        {"prompt": "q", "model": "m", "responses": [{"text": " "}]},
        {"prompt": "q", "model": "m", "responses": ["a"]},
    ]
    path = file(*rows)
    records, report = read_records(path, "sft")
    shown = [(r.prompt, r.response, r.finished) for r in records if isinstance(r, Demonstration)]
    assert shown == [("p", "a", True), ("p", "b", False)]
    assert report.notes == ["each response is read as a demonstration"]
    assert sorted(report.dropped) == [
        "`responses` must be a list of objects, each with its `text`",
        "an empty response",
    ]
    assert len(read_records(path, "prompts")[0]) == 3
    # A ranking's responses are no such lines: its row still names what it fits.
    ranking = file({"prompt": "p", "responses": ["a", "b"], "ranks": [0, 1]})
    with pytest.raises(DataError, match="These rows would fit `reward`, `dpo`"):
        read_records(ranking, "sft")
