"""Rewards on the form of an answer whose beginning the rendered prompt already wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from accord.api.rewards import combine_rewards
from accord.compare.rewards.build import build_reward
from accord.data.write import ResponseRow, read_responses, write_responses
from accord.records import Response
from accord.settings.rewards import (
    AnswerSource,
    ContainsSource,
    FormatSource,
    LengthSource,
    RegexSource,
    RepetitionSource,
    RewardSource,
)

TAGS = FormatSource(kind="format", form="tags", tags=["think", "answer"])
REST = "a</think><answer>4</answer>"
FULL = "<think>" + REST


def scores(source: RewardSource, rows: Sequence[tuple[str, str]]) -> list[float]:
    """The scores of (opened, response)."""
    opened, responses = zip(*rows, strict=True)
    return build_reward([source]).scores(["?"] * len(rows), responses, opened=opened).total


def test_an_opened_tag_counts_as_written() -> None:
    rows = [
        ("<think>", REST),
        ("<think>\n", "\n" + REST),
        ("", FULL),
        ("", REST),  # nobody opened it
        ("<think>", FULL),  # opened twice
        ("<think>", "<answer>4</answer>"),
        ("<think>\n\n</think>\n\n", "<answer>4</answer>"),
    ]
    assert scores(TAGS, rows) == [1, 1, 1, 0, 0, 0, 1]
    answer = FormatSource(kind="format", form="tags", tags=["answer"])
    assert scores(answer, [("<think>\n\n</think>\n\n", "<answer>4</answer>")]) == [1]


def test_begun_json() -> None:
    source = FormatSource(kind="format", form="json", keys=["a"])
    assert scores(source, [('{"a": ', "1}"), ("", "1}"), ("<think>", '{"a": 1}')]) == [1, 0, 1]


@pytest.mark.parametrize("pattern", ["^<think>.*</think>", "^a</think>"])
def test_a_pattern_may_begin_with_the_answer_or_with_the_response(pattern: str) -> None:
    must = RegexSource(kind="regex", pattern=pattern)
    must_not = RegexSource(kind="regex", pattern=pattern, match=False)
    assert scores(must, [("<think>", REST), ("", "b")]) == [1, 0]
    assert scores(must_not, [("<think>", REST), ("", "b")]) == [0, 1]


def test_contains_sees_what_was_sampled() -> None:
    contains = ContainsSource(kind="contains", text="<think>")
    assert scores(contains, [("<think>", REST), ("", FULL)]) == [0, 1]


def test_length_repetition_and_answer_are_those_of_the_answer() -> None:
    rows = [("<think>", "7 7 7</think>4"), ("", "<think>7 7 7</think>\n\n4"), ("", "4")]
    assert scores(LengthSource(kind="length", at_most=0, penalty=1), rows) == [-1, -1, -1]
    assert scores(RepetitionSource(kind="repetition", ngram=1), rows) == [0, 0, 0]
    answer = AnswerSource(kind="answer", column="gold", compare="exact")
    golds = [{"gold": "4"}] * 3
    reward = build_reward([answer])
    opened, responses = [o for o, _ in rows], [r for _, r in rows]
    assert reward.scores(["?"] * 3, responses, metas=golds, opened=opened).total == [1, 1, 1]
    # A thought that never ends is no answer, whatever it holds.
    assert reward.scores(["?"], ["4"], metas=golds[:1], opened=["<think>"]).total == [0]


def test_functions_get_the_response_and_what_was_opened() -> None:
    seen: list[Any] = []

    def score(responses: list[str], opened: list[str]) -> list[float]:
        seen.extend(zip(opened, responses, strict=True))
        return [0.0] * len(responses)

    combine_rewards(score).scores(["?"], [REST], opened=["<think>"])
    assert seen == [("<think>", REST)]


def test_responses_are_stored_with_what_was_opened(tmp_path: Path) -> None:
    rows = [
        ResponseRow("?", {}, "m", {}, (Response("?", REST, "m", opened=opened),))
        for opened in ("<think>\n", "")
    ]
    write_responses(tmp_path / "responses.jsonl", rows)
    assert read_responses(tmp_path / "responses.jsonl") == rows
    assert "opened" not in (tmp_path / "responses.jsonl").read_text().splitlines()[1]
