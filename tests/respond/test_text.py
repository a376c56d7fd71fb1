"""A response's text is what was sampled: tags of an answer stay, control tokens go."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from accord.lm.tokens.answers import encode_answers
from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.template import encode_prompt
from accord.records import Message
from accord.respond.protocol import Sample
from accord.respond.text import find_stop_strings, response_text
from tests.lm.toys import toy_tokenizer

TAGS = ["<think>", "</think>", "<answer>", "</answer>", "<tool_call>"]
PROMPT = (Message("user", "what is it"),)
EOS = 2


@cache
def with_tags(special: bool) -> Any:
    """The toy tokenizer with tags of an answer, among its special tokens or not."""
    tokenizer = copy.deepcopy(toy_tokenizer())
    tags: list[Any] = [AddedToken(tag, special=special, normalized=False) for tag in TAGS]
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": tags}, False)
    else:
        tokenizer.add_tokens(tags)
    return tokenizer


def ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def encoded(text: str, tokenizer: Any) -> tuple[int, ...]:
    return encode_answers(PROMPT, [text], tokenizer, frozenset({EOS})).responses[0]


def ended(tokens: tuple[int, ...]) -> Sample:
    return Sample((*tokens, EOS), (0.0,) * (len(tokens) + 1), True)


@pytest.mark.parametrize("special", [True, False])
def test_tags_of_an_answer_are_part_of_its_text(special: bool) -> None:
    tokenizer = with_tags(special)
    assert tokenizer.convert_tokens_to_ids("<think>") not in control_tokens(tokenizer).ids
    text = "<think>a dog</think><answer>4</answer>"
    sample = ended(ids(tokenizer, text))
    assert response_text(sample, tokenizer) == text
    assert encoded(text, tokenizer) == sample.tokens


def test_only_the_end_and_control_tokens_are_left_out() -> None:
    tokenizer = with_tags(True)
    user, bos = (tokenizer.convert_tokens_to_ids(t) for t in ("<|user|>", tokenizer.bos_token))
    a, b = ids(tokenizer, "<think> a ."), ids(tokenizer, " b")
    assert response_text(ended((bos, *a, user, *b)), tokenizer) == "<think> a . b"
    cut = Sample((*a, *b), (0.0,) * len((*a, *b)), False)
    assert response_text(cut, tokenizer) == "<think> a . b"


PIECES = st.one_of(st.sampled_from(TAGS), st.text(alphabet="ab .,!?'\n\té漢", max_size=5))


@given(st.lists(PIECES, max_size=8).map("".join), st.booleans())
def test_text_and_tokens_are_one(text: str, special: bool) -> None:
    tokenizer = with_tags(special)
    tokens = encoded(text, tokenizer)
    sample = Sample(tokens, (0.0,) * len(tokens), True)
    prompt = encode_prompt(PROMPT, tokenizer)
    assert response_text(sample, tokenizer, prompt) == text


def test_a_stop_string_may_be_a_special_token() -> None:
    tokenizer = with_tags(True)
    tokens = ids(tokenizer, "<answer>4</answer>")
    stops = find_stop_strings(tokenizer, ["</answer>"])
    assert stops.find_in(tokens) == "</answer>"
    sample = Sample(tokens, (0.0,) * len(tokens), True, "</answer>")
    assert response_text(sample, tokenizer) == "<answer>4"
    # A marker of turns, which is no part of the text, with the line break before it.
    tokens = ids(tokenizer, "4\n<|user|>")
    sample = Sample(tokens, (0.0,) * len(tokens), True, "\n<|user|>")
    assert response_text(sample, tokenizer) == "4"


@pytest.mark.parametrize(
    ("strings", "stop", "text"),
    [
        (["se"], None, "4\nab"),  # only the marker's name holds it
        (["<|user|>"], "<|user|>", "4\n"),
        (["\n<|user|>", "x"], "\n<|user|>", "4"),
        (["\na"], "\na", "4"),  # in the text that is shown, over the marker
        (["b", "a"], "a", "4\n"),
    ],
)
def test_a_stop_string_is_not_looked_for_in_a_marker_that_it_does_not_name(
    strings: list[str], stop: str | None, text: str
) -> None:
    tokenizer = with_tags(True)
    tokens = ids(tokenizer, "4\n<|user|>ab")
    assert find_stop_strings(tokenizer, strings).find_in(tokens) == stop
    sample = Sample(tokens, (0.0,) * len(tokens), stop is not None, stop)
    assert response_text(sample, tokenizer) == text
