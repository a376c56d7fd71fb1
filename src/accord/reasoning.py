"""A text's reasoning and its answer: what a model thinks before it answers is no answer.

A server without a reasoning parser, and a model that is sampled here, leave thoughts in the text.
The tags are those of public model cards and chat templates: DeepSeek-R1, QwQ and Qwen3 `<think>`,
Magistral `[THINK]`, gpt-oss `<|channel|>analysis` (OpenAI harmony), Kimi `◁think▷`, Cohere
`<|START_THINKING|>`, Seed-OSS `<seed:think>`, Sky-T1 `<|begin_of_thought|>`, MedGemma
`<unused94>thought`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_NAMES = (
    r"(?:\w+:)?(?:think|thinking|thoughts?|reasoning|reasoning_content|reflection|scratchpad|"
    r"analysis|rationale|inner_monologue|antthinking)"
)
_LONG_NAMES = r"_(?:of_)?(?:thought|thinking|think)"
_TAGS = re.compile(
    rf"(?P<close><\|?/\s*{_NAMES}\s*\|?>|<\|end{_LONG_NAMES}\|>|\[/think(?:ing)?\]|◁/think▷"
    r"|<unused95>)"
    rf"|(?P<open><\|?{_NAMES}(?:\s[^<>]{{0,80}})?\|?>|<\|(?:begin|start){_LONG_NAMES}\|>"
    r"|\[think(?:ing)?\]|◁think▷|<unused94>)"
    r"|(?P<other>\{|```)",
    re.IGNORECASE,
)
_OPEN_QUOTES, _CLOSE_QUOTES = "`\"'“‘«", "`\"'”’»"
_MARKS = "<[◁"  # one of them is in every tag
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,80}(?:<\|constrain\|>\w*)?<\|message\|>")
_BARE_ANALYSIS = re.compile(r"\s*analysis(?=[A-Z])")  # harmony whose special tokens were removed
_BARE_FINAL = "assistantfinal"


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A text in two parts. `answer` is None where the reasoning never ends: then there is none.

    A text without reasoning is its answer, as it is; an answer behind reasoning begins without the
    blanks between them. `reasoning` is "" where there is none.
    """

    answer: str | None
    reasoning: str = ""


Literal = Callable[[str, int], int | None]
"""Of a text and the index of a `{` or a fence of code: the end of the literal that begins there, in
which a tag begins nothing; None where none does."""


def split_reasoning(text: str, opened: str = "") -> Reasoned:
    """The reasoning and the answer of a model's text.

    `opened` is what the rendered prompt already wrote of the text, such as `<think>`. What stands
    between tags of thoughts is reasoning, and so is what precedes a closing tag without an opening
    one. A tag in quotation marks or in code is only spoken of. Reasoning may come several times.
    """
    return split_with(whole_text(text, opened), _skip_code)


def whole_text(text: str, opened: str = "") -> str:
    """The text behind what the prompt already wrote of it, where that begins reasoning: what a
    person reads, so that reasoning is known as such."""
    is_open = opened and split_with(opened, _skip_code).answer is None
    return opened + text if is_open else text


def answer_of(text: str, opened: str = "") -> str:
    """The answer of a model's text; empty where its reasoning never ends."""
    return split_reasoning(text, opened).answer or ""


def split_with(text: str, skip: Literal) -> Reasoned:
    """`split_reasoning` of a whole text, with a reader of its literals of one's own."""
    channel = _final_channel(text)
    if channel is not None:
        return channel
    if not any(mark in text for mark in _MARKS):
        return Reasoned(text)
    return _split_at_tags(text, skip)


def _final_channel(text: str) -> Reasoned | None:
    """The last `final` message of a text in harmony's channels; None for other texts."""
    channels = list(_CHANNEL.finditer(text))
    if channels:
        last = channels[-1]
        if last[1] != "final":
            return Reasoned(None, text)
        return Reasoned(text[last.end() :], text[: last.start()])
    if _BARE_ANALYSIS.match(text):
        reasoning, mark, answer = text.rpartition(_BARE_FINAL)
        return Reasoned(answer, reasoning) if mark else Reasoned(None, text)
    return None


def _split_at_tags(text: str, skip: Literal) -> Reasoned:
    outside: list[str] = []
    thoughts: list[str] = []
    end = 0  # of what has been read
    literal_end = 0
    thinks = reasoned = False
    for tag in _TAGS.finditer(text):
        if tag.start() < literal_end or _is_quoted(text, tag.start(), tag.end()):
            continue
        if tag["other"]:
            literal_end = literal_end if thinks else skip(text, tag.start()) or literal_end
        elif tag["close"]:
            if not thinks:  # the prompt opened it
                outside, thoughts = [], [*thoughts, *outside]
            thoughts.append(text[end : tag.start()])
            thinks, end, reasoned = False, tag.end(), True
        elif not thinks:
            outside.append(text[end : tag.start()])
            thinks, end, reasoned = True, tag.end(), True
    if not reasoned:
        return Reasoned(text)
    if thinks:
        return Reasoned(None, "\n".join([*thoughts, text[end:]]).strip())
    answer = "\n".join(part for part in (*outside, text[end:]) if part.strip())
    return Reasoned(answer.lstrip(), "\n".join(thoughts).strip())


def _is_quoted(text: str, start: int, end: int) -> bool:
    """Whether a tag stands in quotation marks, and is only spoken of: `"</think>"`. A mark that
    ends a quotation, as in `"no"</think>`, opens none."""
    before, after = text[max(0, start - 2) : start], text[end : end + 1]
    if not before or before[-1] not in _OPEN_QUOTES or after not in _CLOSE_QUOTES:
        return False
    return len(before) == 1 or before[0].isspace() or before[0] in "([{:,"


def _skip_code(text: str, start: int) -> int | None:
    """The end of the block of code that a fence begins, if it is closed."""
    if text[start] != "`":
        return None
    end = text.find("```", start + 3)
    return None if end < 0 else end + 3
