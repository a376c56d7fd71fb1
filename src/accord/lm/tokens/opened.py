"""What a rendered prompt already wrote of the answer: an opened tag, such as `<think>`.

Chat templates of reasoning models end their generation prompt with the tag that opens the thoughts,
so a sampled response begins behind it. Whatever checks the form of an answer reads it with the tag.
"""

from __future__ import annotations

import re
from typing import Any

from accord.errors import DataError
from accord.lm.tokens.control import control_tokens
from accord.lm.tokens.render_turns import UnusableRow, render_turns
from accord.records import Prompt, prompt_context, turns_json

_TAG = r"(?:</?[A-Za-z][\w.:-]*>|\[/?[A-Z][A-Z_]*\]|<\|/?[A-Za-z][\w-]*\|>|◁/?\w+▷)"
_TAGS_AT_END = re.compile(rf"(?:{_TAG}\s*)+\Z")
_PROBE, _ANSWER = "o", "\0answer"


def opened_by_prompt(prompt: Prompt, tokenizer: Any) -> str:
    """The text of the answer that the prompt ends with; empty where it ends before the answer.

    Of a conversation, it is what the generation prompt writes behind the header of a turn, and of
    plain text, the tags at its end. A conversation that ends with the assistant's turn opened all
    of that turn.
    """
    if isinstance(prompt, str):
        return _tags_at_end(prompt, tokenizer)
    if prompt and prompt[-1].role == "assistant":
        return prompt[-1].content
    turns, context = turns_json(prompt), prompt_context(prompt)
    try:
        before = render_turns(tokenizer, turns, context, generation_prompt=False)
        rendered = render_turns(tokenizer, turns, context, generation_prompt=True)
    except UnusableRow:
        return ""  # what encodes the prompt gives the reason
    if not rendered.startswith(before):
        return _tags_at_end(rendered, tokenizer)
    generation_prompt, header = rendered[len(before) :], _turn_header(tokenizer)
    if header and generation_prompt.startswith(header):
        return generation_prompt[len(header) :]
    return _tags_at_end(generation_prompt, tokenizer)


def blank_before_answers(tokenizer: Any) -> str:
    """The blanks that the template writes between its generation prompt and an answer's text."""
    asked = {"role": "user", "content": _PROBE}
    answered = {"role": "assistant", "content": _ANSWER}
    try:
        before = render_turns(tokenizer, [asked], {}, generation_prompt=True)
        whole = render_turns(tokenizer, [asked, answered], {}, generation_prompt=False)
    except (UnusableRow, DataError):
        return ""
    between, _, _ = whole[len(before) :].partition(_ANSWER)
    return between if whole.startswith(before) and between.isspace() else ""


def _tags_at_end(text: str, tokenizer: Any) -> str:
    """The tags that a text ends with, from behind the last control token on."""
    tags = _TAGS_AT_END.search(text)
    rest = tags[0] if tags is not None else ""
    for token in control_tokens(tokenizer).texts:
        rest = rest.rpartition(token)[2]
    return rest.lstrip()


def _turn_header(tokenizer: Any) -> str:
    """What the template writes before the text of an assistant's turn that others follow."""
    asked = {"role": "user", "content": _PROBE}
    answered = {"role": "assistant", "content": _ANSWER}
    try:
        before = render_turns(tokenizer, [asked], {}, generation_prompt=False)
        whole = render_turns(tokenizer, [asked, answered, asked], {}, generation_prompt=False)
    except UnusableRow:
        return ""
    header = whole[len(before) :].partition(_ANSWER)[0]
    return header if whole.startswith(before) and len(header) < len(whole) - len(before) else ""
