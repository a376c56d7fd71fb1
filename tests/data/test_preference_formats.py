"""Preference rows of text, messages and HH dialogues, and the records they become."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data.turns import parse_hh_dialogue, shared_prefix_length
from accord.records import Comparison, Message
from tests.data.row_parsing import ASK, HERE, collect_notes, fails, parse, turn


def test_preference_of_text_and_of_messages() -> None:
    assert parse(prompt="2+2=", chosen=" 4", rejected=" 5", margin=0.5) == Comparison(
        "2+2=", " 4", " 5", 0.5, HERE
    )
    assert parse(
        prompt=[turn("user", "2+2?")],
        chosen=[turn("assistant", "4")],
        rejected=[turn("assistant", "5")],
    ) == Comparison((ASK,), "4", "5", None, HERE)


def test_preference_whose_messages_repeat_the_prompt() -> None:
    """UltraFeedback: the prompt as text, and whole conversations in chosen and rejected."""
    chosen = [turn("user", "2+2?"), turn("assistant", "4")]
    rejected = [turn("user", "2+2?"), turn("assistant", "5")]
    expected = Comparison((ASK,), "4", "5", None, HERE)
    assert parse(prompt="2+2?", chosen=chosen, rejected=rejected) == expected
    system = [turn("system", "Brief.")]
    assert parse(prompt="2+2?", chosen=system + chosen, rejected=system + rejected) == Comparison(
        (Message("system", "Brief."), ASK), "4", "5", None, HERE
    )
    assert fails(prompt="3+3?", chosen=chosen, rejected=rejected) == (
        "the messages do not repeat the prompt: `chosen` begins '2+2?'"
    )


def test_implicit_prompt_of_messages() -> None:
    before = [turn("user", "hi"), turn("assistant", "hello"), turn("user", "2+2?")]
    assert parse(
        chosen=[*before, turn("assistant", "4")], rejected=[*before, turn("assistant", "5")]
    ) == Comparison(
        (Message("user", "hi"), Message("assistant", "hello"), ASK), "4", "5", None, HERE
    )
    answers = {"chosen": [turn("assistant", "4")], "rejected": [turn("assistant", "5")]}
    assert fails(**answers) == "a conversation in which nobody asks: `chosen`"


def test_implicit_prompt_of_text_never_splits_a_word() -> None:
    # They share "Say: the ca"; the last blank before the difference is the one after "the".
    row = {"chosen": "Say: the cat", "rejected": "Say: the car"}
    assert parse(**row) == Comparison("Say: the", " cat", " car", None, HERE)
    assert collect_notes(**row) == ["the prompt is the beginning that chosen and rejected share"]
    assert fails(chosen="yes", rejected="no") == (
        "chosen and rejected share no beginning that could be the prompt"
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "shared"),
    [
        ("Q: hi A: yes", "Q: hi A: yes please", "Q: hi A:"),  # one is the other's beginning
        ("Q?\n\nyes", "Q?\n\nno", "Q?"),  # the blank line goes to the responses
        ("a b", "ab", ""),
        ("a b c", "a bc", "a"),  # the blank after b is not in both
        ("", "x", ""),
    ],
)
def test_shared_prefix(chosen: str, rejected: str, shared: str) -> None:
    assert chosen[: shared_prefix_length(chosen, rejected)] == shared
    assert rejected[: shared_prefix_length(rejected, chosen)] == shared


@given(st.text("ab \n"), st.text("ab \n"), st.text("ab \n"))
def test_shared_prefix_is_shared_and_ends_at_a_word(before: str, end_1: str, end_2: str) -> None:
    first, second = before + end_1, before + end_2
    end = shared_prefix_length(first, second)
    assert first[:end] == second[:end] == first[:end].rstrip()
    assert end == 0 or (first[end:][:1].isspace() and second[end:][:1].isspace())


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"prompt": "q", "chosen": "a", "rejected": "a"},
            "chosen and rejected are equal",
        ),
        ({"chosen": "q a", "rejected": "q a"}, "chosen and rejected are equal"),
        (
            {"prompt": "q", "chosen": "a", "rejected": [{"role": "assistant", "content": "b"}]},
            "one of chosen and rejected is text, the other is not",
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": 5},
            "one of chosen and rejected is text, the other is not",
        ),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "an empty response: `rejected`"),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "margin": "much"},
            "`margin` is no finite number: 'much'",
        ),
        (
            {"prompt": "q", "chosen": "a", "rejected": "b", "margin": float("nan")},
            "`margin` is no finite number: nan",
        ),
    ],
)
def test_preference_that_cannot_be_used(row: dict[str, Any], reason: str) -> None:
    assert fails(**row) == reason


def test_hh_dialogues() -> None:
    before = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: 2+2?"
    row = {"chosen": before + "\n\nAssistant: 4", "rejected": before + "\n\nAssistant: 5 "}
    expected = Comparison(
        (Message("user", "hi"), Message("assistant", "hello"), ASK), "4", "5", None, HERE
    )
    assert parse(**row) == expected
    assert parse(**row, prompt="hi") == expected  # a prompt column adds nothing to whole dialogues
    assert collect_notes(**row) == ["dialogue text (Human:, Assistant:) is read as turns"]


def test_hh_prompt_with_responses_apart() -> None:
    prompt = "\n\nHuman: 2+2?\n\nAssistant:"
    expected = Comparison((ASK,), "4", "5", None, HERE)
    assert parse(prompt=prompt, chosen=" 4", rejected=" 5") == expected


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (
            "\n\nHuman: 2+2?\n\nAssistant: 4",
            "\n\nHuman: 3+3?\n\nAssistant: 5",
            "the dialogues differ before the last answer",
        ),
        (
            "\n\nHuman: 2+2?\n\nAssistant: 4\n\nHuman: thanks",
            "\n\nHuman: 2+2?\n\nAssistant: 5",
            "the conversation does not end with the assistant's answer: "
            "`chosen` ends with the turn of the user: 'thanks'",
        ),
        (
            "\n\nHuman: 2+2?\n\nAssistant: 4",
            "five",
            "a dialogue that does not begin with Human: or Assistant:: 'five'",
        ),
        (
            "\n\nHuman: 2+2?\n\nAssistant:",
            "\n\nHuman: 2+2?\n\nAssistant: 5",
            "an empty response: `chosen`",
        ),
    ],
)
def test_hh_dialogues_that_cannot_be_used(chosen: str, rejected: str, reason: str) -> None:
    assert fails(chosen=chosen, rejected=rejected) == reason


def test_hh_speakers_count_only_after_a_blank_line() -> None:
    assert parse_hh_dialogue("\n\nHuman: a\nHuman: b\n\nAssistant: c Human: d") == (
        Message("user", "a\nHuman: b"),
        Message("assistant", "c Human: d"),
    )


words = (
    st.text(st.characters(codec="utf-8"), min_size=1)
    .map(str.strip)
    .filter(lambda s: s and "Human:" not in s and "Assistant:" not in s)
)


@given(st.lists(words, min_size=2, max_size=6).filter(lambda turns: len(turns) % 2 == 0))
def test_hh_text_round_trip(contents: list[str]) -> None:
    speakers = ["Human", "Assistant"] * (len(contents) // 2)
    text = "".join(f"\n\n{s}: {c}" for s, c in zip(speakers, contents, strict=True))
    assert parse_hh_dialogue(text) == tuple(
        Message("user" if s == "Human" else "assistant", c)
        for s, c in zip(speakers, contents, strict=True)
    )
