"""What a rendered prompt already wrote of the answer."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from accord.lm.tokens.opened import opened_by_prompt
from accord.records import Message
from tests.lm.toys import toy_tokenizer

TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
ASK = "{% if add_generation_prompt %}<|assistant|>OPENED{% endif %}"
PROMPT = (Message("user", "what is <b>it</b><i>"),)


def with_template(text: str) -> Any:
    tokenizer = copy.deepcopy(toy_tokenizer())
    tokenizer.chat_template = text
    return tokenizer


@pytest.mark.parametrize(
    "opened",
    ["", "<think>", "<think>\n", "<think>\n\n</think>\n\n", "</think>", "[THINK]", "<a><b>\n"],
)
def test_what_stands_behind_the_header_is_opened(opened: str) -> None:
    tokenizer = with_template(TURNS + ASK.replace("OPENED", opened))
    assert opened_by_prompt(PROMPT, tokenizer) == opened


def test_a_header_in_tags_is_not_opened() -> None:
    # The header is no special token: only the answered turn shows what it is.
    turns = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    ask = "{% if add_generation_prompt %}<assistant>OPENED{% endif %}"
    for opened in ("", "<think>"):
        tokenizer = with_template(turns + ask.replace("OPENED", opened))
        assert opened_by_prompt(PROMPT, tokenizer) == opened


def test_a_template_that_thinks_in_the_last_turn() -> None:
    # As Qwen3's: the last answer has an empty thought, earlier ones have none.
    turns = (
        "{% for m in messages %}<|{{ m.role }}|>{% if loop.last and m.role == 'assistant' %}"
        "<think>\n\n</think>\n\n{% endif %}{{ m.content }}{% endfor %}"
    )
    tokenizer = with_template(turns + ASK.replace("OPENED", "<think>\n"))
    assert opened_by_prompt(PROMPT, tokenizer) == "<think>\n"
    tokenizer = with_template(turns + ASK.replace("OPENED", ""))
    assert opened_by_prompt(PROMPT, tokenizer) == ""


def test_plain_text_and_begun_answers() -> None:
    tokenizer = toy_tokenizer()
    assert opened_by_prompt("Q: it?\nA: <think>\n", tokenizer) == "<think>\n"
    assert opened_by_prompt("Q: it?\nA:", tokenizer) == ""
    assert opened_by_prompt("<|user|>it<|assistant|><think>", tokenizer) == "<think>"
    assert opened_by_prompt("<|user|>it<|assistant|>", tokenizer) == ""
    begun = (*PROMPT, Message("assistant", '{"a": '))
    assert opened_by_prompt(begun, tokenizer) == '{"a": '
