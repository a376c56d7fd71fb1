"""What is wrong with the text of one response, or of a prompt, by its form alone."""

from __future__ import annotations

import re

from accord.records import Prompt

_TEMPLATE_TOKEN = re.compile(
    r"<\|[A-Za-z_0-9▁ ]{2,40}\|>|<｜[^｜<>\n]{2,40}｜>|\[/?INST\]|<</?SYS>>"
    r"|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>|^\s*<s>|</s>\s*$"
)
_THOUGHT_TAG = re.compile(r"</?(?:think|thinking|thought|reasoning|scratchpad)>|◁/?think▷", re.I)
_TURN_MARK = re.compile(
    r"(?:^|\n)[ \t]*(?:\*\*)?(?:Human|User|Assistant|HUMAN|USER|ASSISTANT|AI)(?:\*\*)?:"
)
_LAST_TURN = re.compile(r"(?:^|\n)[ \t]*(?:Human|User|Assistant|HUMAN|USER|ASSISTANT):")
_BEGUN_ANSWER = re.compile(r"(?:Assistant|ASSISTANT):")
_MARKUP = re.compile(
    r"^[ \t]{0,3}#{1,6} |^[ \t]*[-*+•] |^[ \t]*\d{1,3}[.)] |\*\*[^*\n]+\*\*"
    r"|^[ \t]*```|^[ \t]*\|.*\|",
    re.MULTILINE,
)
_SENTENCE = re.compile(r"[.!?…。！？]['\"”’»)\]*_]*(?:\s|$)|[。！？]")
_OPEN_END = re.compile(r"(?:[^\W\d_]|[,;–-])$")  # an answer may end with a number
_NO_SENTENCE = re.compile(r"^\s*(?:[-*+•#|>]|\d{1,3}[.)])|https?://|^(?: {4}|\t)|[=;{}<>|\\]")
_LEAST_ECHO = 20  # characters of a question that count as repeated
_LEAST_CUT = 8  # words of a response that may be cut


def template_token(text: str) -> str:
    """The first token of a chat template that the text spells, such as `<|im_end|>`, or ""."""
    if "<" not in text and "[" not in text:
        return ""
    match = _TEMPLATE_TOKEN.search(text)
    return match[0].strip() if match else ""


def thought_tag(text: str) -> str:
    """The first tag of a thought in the text, such as `<think>`, or ""."""
    if "<" not in text and "◁" not in text:
        return ""
    match = _THOUGHT_TAG.search(text)
    return match[0] if match else ""


def turn_mark(text: str) -> str:
    """The first mark of a turn in a response, such as `Human:` at a line's beginning, or ""."""
    if ":" not in text:
        return ""
    match = _TURN_MARK.search(text)
    return match[0].strip() if match else ""


def ends_in_an_answer(prompt: Prompt) -> bool:
    """Whether the assistant has the last word of a prompt, as a turn or behind its mark in text."""
    if not isinstance(prompt, str):
        return bool(prompt) and prompt[-1].role == "assistant"
    if ":" not in prompt:
        return False
    *_, last = [None, *_LAST_TURN.finditer(prompt)]
    return (
        last is not None
        and _BEGUN_ANSWER.search(last[0]) is not None
        and len(prompt[last.end() :].split()) >= 3
    )


def count_markup(text: str) -> int:
    """The marks of Markdown in a text: headings, list items, bold runs, fences, table rows."""
    return sum(1 for _ in _MARKUP.finditer(text))


def question(prompt: Prompt) -> str:
    """What is asked: the last turn of the user, or a prompt of plain text."""
    if isinstance(prompt, str):
        return prompt
    return next((turn.content for turn in reversed(prompt) if turn.role == "user"), "")


def echoes(asked: str, response: str) -> bool:
    """Whether the response begins with the whole question, up to case and blanks."""
    asked, response = asked.strip(), response.lstrip()
    if len(asked) < _LEAST_ECHO or response[:8].casefold() != asked[:8].casefold():
        return False
    plain = " ".join(asked.split()).casefold()
    return " ".join(response[: 2 * len(asked) + 16].split()).casefold().startswith(plain)


def is_cut(text: str) -> bool:
    """Whether the text ends in the middle of a sentence or of a code block.

    A sentence is one where an earlier one ends with its mark: a list, code, a link or a text that
    writes no marks at all is not cut.
    """
    if text.count("```") % 2:
        return True
    end = text.rstrip()
    if not _OPEN_END.search(end) or not _SENTENCE.search(end):
        return False
    last_line = end.rsplit("\n", 1)[-1]
    return (
        len(end.split(None, _LEAST_CUT)) >= _LEAST_CUT
        and _NO_SENTENCE.search(last_line) is None
        and (len(last_line.split(None, 3)) > 3)
    )
