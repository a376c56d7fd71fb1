"""Rules that score a response's text. The text is a model's, so it may hold anything at any length.

What the rendered prompt already wrote of the answer (`PromptResponse.opened`, such as `<think>`)
counts as written for rules on an answer's form: `format` and `regex`. `contains` sees what was
sampled; `length`, `repetition` and `answer` see the answer alone, without its reasoning.

A rule is a function from the text to a number. Its cost grows with the text's length and does not
depend on the text's content; a pattern that takes too long is refused. `RULES`, at the end, maps
the settings class of each rule to the function that makes its scores: a new rule is added there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NoReturn, TypeVar

import regex

from accord.compare.rewards.reward import PromptResponse, Scorer, SourceContext
from accord.compare.texts import replace_surrogates, shorten
from accord.errors import RewardError
from accord.records import prompt_text
from accord.settings.rewards import (
    AnswerSource,
    ContainsSource,
    FormatSource,
    LengthSource,
    RegexSource,
    RepetitionSource,
    SourceSettings,
)

Rule = Callable[[str], float]
S = TypeVar("S", bound=SourceSettings)

MAX_SECONDS = 5.0  # of a search in one response; an ordinary pattern takes milliseconds
MAX_NUMBER_LENGTH = 400  # characters; no answer is longer

_NUMBER = re.compile(r"(?<![0-9.])-?[0-9][0-9,]*(?:\.[0-9]+)?")


def length_rule(source: LengthSource, count: Callable[[str], int]) -> Rule:
    """−penalty for each word or token (as `count` counts them) outside of the limits."""

    def score(text: str) -> float:
        length, excess = count(text), 0
        if source.at_least is not None:
            excess = max(excess, source.at_least - length)
        if source.at_most is not None:
            excess = max(excess, length - source.at_most)
        return -source.penalty * excess

    return score


def count_words(text: str) -> int:
    """The number of words in a text, which blanks separate."""
    return len(text.split())


def length_scores(source: LengthSource, context: SourceContext) -> Scorer:
    """`length_rule` of words, or of the tokens of the source's tokenizer."""
    if source.tokenizer is None:
        return _score_texts(length_rule(source, count_words))
    tokenizer = context.load_tokenizer(source.tokenizer)

    def count_tokens(text: str) -> int:
        encoding = tokenizer(replace_surrogates(text), add_special_tokens=False, verbose=False)
        return len(encoding["input_ids"])

    return _score_texts(length_rule(source, count_tokens))


def regex_rule(source: RegexSource) -> Rule:
    """1 where the pattern is found in the text, or with `match` false where it is not; else 0.

    A text over `max_characters` scores 0 either way, so no length hides what must not be there.
    Raises RewardError where a search takes longer than MAX_SECONDS: some patterns, such as (a+)+b,
    take time that doubles with each letter.
    """
    compiled = regex.compile(source.pattern)

    def score(text: str) -> float:
        if len(text) > source.max_characters:
            return 0.0
        try:
            is_match = compiled.search(text, timeout=MAX_SECONDS) is not None
        except TimeoutError as error:
            raise RewardError(
                f"The pattern {source.pattern!r} of the reward `{source.title}` took over "
                f"{MAX_SECONDS:g} s on a response of {len(text):,} characters. Write it without "
                f"one repetition inside of another, or lower `max_characters`."
            ) from error
        return float(is_match == source.match)

    return score


def regex_scores(source: RegexSource, _: SourceContext) -> Scorer:
    """`regex_rule` of the text, and of the answer with what the prompt opened: the pattern is found
    where either has it."""
    rule = regex_rule(source)
    either = max if source.match else min

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        return [
            either(map(rule, dict.fromkeys((row.response, row.opened + row.response))))
            for row in rows
        ]

    return scores


def format_rule(source: FormatSource) -> Rule:
    """1 where the whole text is in the form, else 0."""
    if source.form == "json":
        return lambda text: float(_is_json(text, source.keys))
    return lambda text: float(_is_tagged(text, source.tags))


def format_scores(source: FormatSource, _: SourceContext) -> Scorer:
    """`format_rule` of the answer with what the prompt opened; of the text alone where that is no
    part of the form."""
    rule, tags = format_rule(source), [f"<{tag}>" for tag in source.tags]

    def score(row: PromptResponse) -> float:
        is_part = source.form == "tags" and any(tag in row.opened for tag in tags)
        alone = 0.0 if is_part else rule(row.response)
        return max(alone, rule(row.opened + row.response)) if row.opened else alone

    return lambda rows: [score(row) for row in rows]


def _is_json(text: str, keys: list[str]) -> bool:
    """Whether a text is JSON, of an object with these keys if any are named.

    NaN and Infinity are not JSON, though Python reads them; nor is text nested too deeply to parse.
    """
    try:
        value = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(value, dict) and all(key in value for key in keys))


def _reject_constant(constant: str) -> NoReturn:
    raise ValueError(constant)


def _is_tagged(text: str, tags: list[str]) -> bool:
    """Whether a text is `<a>…</a><b>…</b>` for the tags in order, each once, blanks between."""
    rest = text.strip()
    for tag in tags:
        opening, closing = f"<{tag}>", f"</{tag}>"
        if text.count(opening) != 1 or text.count(closing) != 1 or not rest.startswith(opening):
            return False
        _, _, rest = rest.partition(closing)
        rest = rest.lstrip()
    return not rest


def repetition_rule(source: RepetitionSource) -> Rule:
    """Minus the share of n-grams that are repeats: −(1 − distinct / all), 0 without n-grams."""
    n = source.ngram

    def score(text: str) -> float:
        units = text.split() if source.unit == "words" else text
        count = len(units) - n + 1
        if count < 1:
            return 0.0
        distinct = {tuple(units[i : i + n]) for i in range(count)}
        return len(distinct) / count - 1

    return score


def contains_rule(source: ContainsSource) -> Rule:
    """1 where the text is in the response, or with `match` false where it is not; else 0."""
    pattern = source.text if source.case_sensitive else source.text.casefold()

    def score(text: str) -> float:
        is_match = pattern in (text if source.case_sensitive else text.casefold())
        return float(is_match == source.match)

    return score


def answer_rule(source: AnswerSource) -> Callable[[str, str], float]:
    """1 where a response gives the answer, else 0; `compare` says how they are compared.

    The rule takes the response and the answer.
    """

    def normalise(text: str) -> str:
        line = " ".join(text.split())
        return line if source.case_sensitive else line.casefold()

    def score(response: str, answer: str) -> float:
        if source.compare == "number":
            number = last_number(response)
            return float(number is not None and number == last_number(answer))
        if source.compare == "contains":
            return float(normalise(answer) in normalise(response))
        return float(normalise(answer) == normalise(response))

    return score


def answer_scores(source: AnswerSource, _: SourceContext) -> Scorer:
    """`answer_rule` with the answer in each prompt's row. Raises RewardError where it has none."""
    rule = answer_rule(source)

    def scores(rows: Sequence[PromptResponse]) -> list[float]:
        return [rule(row.answer, read_answer(source, row)) for row in rows]

    return scores


def read_answer(source: AnswerSource, row: PromptResponse) -> str:
    """The answer in a prompt's row: text, or a number in digits. Raises RewardError."""
    answer = row.meta.get(source.column)
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        answer = ""
    what = "a number" if source.compare == "number" else "text or a number"
    usable = last_number(str(answer)) is not None if what == "a number" else str(answer).strip()
    if not usable:
        columns = ", ".join(f"`{column}`" for column in row.meta) or "none"
        raise RewardError(
            f"The reward `{source.title}` needs an answer in the column `{source.column}`, and the "
            f"row of the prompt {shorten(repr(prompt_text(row.prompt)))} has none ({what}). "
            f"Its other columns: {columns}. Add the column to the prompts, or name another in "
            f"`column`."
        )
    return str(answer)


def last_number(text: str) -> Decimal | None:
    """The last number that a text writes in digits, such as 1,234.5; None where there is none.

    The answers of GSM8K (Cobbe et al. 2021) end in such a number.
    """
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    if last is None or len(last[0]) > MAX_NUMBER_LENGTH:
        return None
    return Decimal(last[0].replace(",", ""))


def _score_texts(rule: Rule) -> Scorer:
    return lambda rows: [rule(row.answer) for row in rows]


def _text_scores(make_rule: Callable[[S], Rule]) -> Callable[[S, SourceContext], Scorer]:
    """The scores of a rule that reads the answer alone."""
    return lambda source, context: _score_texts(make_rule(source))


def contains_scores(source: ContainsSource, _: SourceContext) -> Scorer:
    """`contains_rule` of what was sampled."""
    rule = contains_rule(source)
    return lambda rows: [rule(row.response) for row in rows]


RULES: dict[type[SourceSettings], Callable[[Any, SourceContext], Scorer]] = {
    LengthSource: length_scores,
    RegexSource: regex_scores,
    FormatSource: format_scores,
    RepetitionSource: _text_scores(repetition_rule),
    ContainsSource: contains_scores,
    AnswerSource: answer_scores,
}
