"""What is reasoning in a model's text, and what is its answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.reasoning import Reasoned, answer_of, split_reasoning
from accord.records import Response

TAGS = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<unused94>thought\n", "<unused95>"),
]


@pytest.mark.parametrize(("begin", "end"), TAGS)
def test_the_tags_of_public_models(begin: str, end: str) -> None:
    assert split_reasoning(f"{begin}I can't.{end}\n\nSure. ").answer == "Sure. "
    # The prompt wrote the opening tag: with or without knowing it.
    assert split_reasoning(f"I can't.{end}\n\nSure.") == Reasoned("Sure.", "I can't.")
    assert split_reasoning(f"I can't.{end}\n\nSure.", begin).answer == "Sure."
    # Reasoning that never ends is no answer.
    assert split_reasoning(f"{begin}I can't").answer is None
    assert split_reasoning("I can't", begin).answer is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("  Sure, here it is.\n", "  Sure, here it is.\n"),  # as it is
        ("", ""),
        ("A `<think>` tag opens a thought.", "A `<think>` tag opens a thought."),
        ('Write “<think>” first, not "</think>".', 'Write “<think>” first, not "</think>".'),
        ("```xml\n<analysis>x</analysis>\n```", "```xml\n<analysis>x</analysis>\n```"),
        ("<think>a</think>B<think>c</think>D", "B\nD"),
        ("<think>a <think> b</think>C", "C"),
        ('<think>Say "no"</think>"Yes"', '"Yes"'),  # quotations that end and begin at the tag
        ("<think>I close it with '</think>', then</think>Sure", "Sure"),
        ("<think>```</think>Sure", "Sure"),  # a fence within a thought hides no end
        ("A<think>b</think>C</think>D", "D"),  # a second end: what stands before it is no answer
        ("<think></think>\n\nSure", "Sure"),  # thoughts that are switched off
        ("<|channel|>analysis<|message|>No.<|end|><|channel|>final<|message|>Yes.", "Yes."),
        ("analysisI can't.assistantfinalYes.", "Yes."),
        ("x < 3 and [1, 2]", "x < 3 and [1, 2]"),
    ],
)
def test_answers(text: str, answer: str) -> None:
    assert answer_of(text) == answer


@pytest.mark.parametrize("text", ["<|channel|>analysis<|message|>No.", "analysisI can't."])
def test_channels_without_a_final_message_hold_no_answer(text: str) -> None:
    assert split_reasoning(text) == Reasoned(None, text)


def test_what_the_prompt_opened_and_closed_is_no_part_of_the_text() -> None:
    assert split_reasoning("Sure.", "<think>\n\n</think>\n\n") == Reasoned("Sure.")
    assert split_reasoning(" 4", "The answer is") == Reasoned(" 4")
    assert Response("p", "I can't", "m", opened="<think>\n").answer == ""
    assert Response("p", "I can't</think>Sure", "m", opened="<think>\n").answer == "Sure"


@given(st.text(alphabet="ab <>/[]`{}\n", max_size=30))
def test_a_text_without_tags_is_its_answer(text: str) -> None:
    assert split_reasoning(text) == Reasoned(text)


PARTS = st.sampled_from([tag for pair in TAGS for tag in pair] + ["a", " ", "`", "```", "{", "\n"])


@given(st.lists(PARTS, max_size=12).map("".join))
def test_every_text_has_two_parts_that_come_from_it(text: str) -> None:
    parts = split_reasoning(text)
    for part in (parts.answer or "", parts.reasoning):
        assert all(line in text for line in part.split("\n"))
    if parts.answer is not None:
        again = split_reasoning(parts.answer)
        assert again.answer is None or len(again.answer) <= len(parts.answer)
