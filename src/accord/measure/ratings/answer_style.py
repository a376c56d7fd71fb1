"""What an answer looks like: its length, and the Markdown that it is formatted with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from accord.measure.statistics import Floats
from accord.reasoning import split_reasoning

STYLES = ("length", "headers", "lists", "bold")
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_HEADER = re.compile(r"^[ \t]{0,3}#{1,6} +\S", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


class AnswerStyle(NamedTuple):
    """Words, headers, list items and bold runs of an answer; characters, which is no style."""

    words: int
    headers: int
    lists: int
    bold: int
    characters: int


def answer_style(text: str) -> AnswerStyle:
    """The style of the answer in a text, without the model's reasoning; Markdown in a fence of code
    does not count. A text whose reasoning never ends has no answer: all is 0."""
    answer = split_reasoning(text).answer or ""
    plain = _CODE.sub("", answer) if "```" in answer else answer
    headers, items, bold = (len(p.findall(plain)) for p in (_HEADER, _ITEM, _BOLD))
    return AnswerStyle(len(answer.split()), headers, items, bold, len(answer))


def answer_styles(texts: Sequence[str]) -> Floats:
    """The styles [texts, 5]; a text that comes again is measured once."""
    known: dict[str, AnswerStyle] = {}
    for text in texts:
        if text not in known:
            known[text] = answer_style(text)
    return np.array([known[text] for text in texts], dtype=np.float64).reshape(len(texts), 5)
