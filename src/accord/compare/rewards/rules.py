"""Rules that score a response's text. The text is a model's, so it may hold anything at any length.

Each is a function from the text to a number, of a cost that grows with the text's length and not
with what stands in it; a pattern that takes too long is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import NoReturn

import regex

from accord.errors import RewardError
from accord.settings.rewards import (
    AnswerSource,
    ContainsSource,
    FormatSource,
    LengthSource,
    RegexSource,
    RepetitionSource,
)

Rule = Callable[[str], float]
SECONDS = 5.0  # that a search may take in one response; an honest pattern takes milliseconds
LONGEST_NUMBER = 400  # characters; what is longer is no answer to anything

_NUMBER = re.compile(r"(?<![0-9.])-?[0-9][0-9,]*(?:\.[0-9]+)?")


def length_rule(source: LengthSource, count: Callable[[str], int]) -> Rule:
    """−penalty for each word or token (as `count` counts them) outside of the limits."""

    def score(text: str) -> float:
        length, over = count(text), 0
        if source.at_least is not None:
            over = max(over, source.at_least - length)
        if source.at_most is not None:
            over = max(over, length - source.at_most)
        return -source.penalty * over

    return score


def words_in(text: str) -> int:
    """How many words a text has: what stands between blanks."""
    return len(text.split())


def regex_rule(source: RegexSource) -> Rule:
    """1 where the pattern is found in the text, or with `match` false where it is not; else 0.

    A text over `max_characters` scores 0 either way: no length can hide what must not be there.
    Raises RewardError where a search takes longer than SECONDS: some patterns, such as (a+)+b, take
    time that doubles with each letter.
    """
    compiled = regex.compile(source.pattern)

    def score(text: str) -> float:
        if len(text) > source.max_characters:
            return 0.0
        try:
            found = compiled.search(text, timeout=SECONDS) is not None
        except TimeoutError as error:
            raise RewardError(
                f"The pattern {source.pattern!r} of the reward `{source.title}` took over "
                f"{SECONDS:g} s on a response of {len(text):,} characters. Write it without one "
                f"repetition inside of another, or lower `max_characters`."
            ) from error
        return float(found == source.match)

    return score


def format_rule(source: FormatSource) -> Rule:
    """1 where the whole text is in the form, else 0."""
    if source.form == "json":
        return lambda text: float(_is_json(text, source.keys))
    return lambda text: float(_is_tagged(text, source.tags))


def _is_json(text: str, keys: list[str]) -> bool:
    """Whether a text is JSON, of an object with these keys if any are named.

    NaN and Infinity are none, though Python reads them; nor is what nests too deeply to be read.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return not keys or (isinstance(value, dict) and all(key in value for key in keys))


def _refuse(constant: str) -> NoReturn:
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
    wanted = source.text if source.case_sensitive else source.text.casefold()

    def score(text: str) -> float:
        found = wanted in (text if source.case_sensitive else text.casefold())
        return float(found == source.match)

    return score


def answer_rule(source: AnswerSource) -> Callable[[str, str], float]:
    """1 where a response gives an answer, else 0, as `compare` says. (response, answer) → score."""

    def plain(text: str) -> str:
        line = " ".join(text.split())
        return line if source.case_sensitive else line.casefold()

    def score(response: str, answer: str) -> float:
        if source.compare == "number":
            given = last_number(response)
            return float(given is not None and given == last_number(answer))
        if source.compare == "contains":
            return float(plain(answer) in plain(response))
        return float(plain(answer) == plain(response))

    return score


def last_number(text: str) -> Decimal | None:
    """The last number that a text writes in digits, such as 1,234.5; None where there is none.

    GSM8K's answers (Cobbe et al. 2021) end in theirs.
    """
    found = None
    for match in _NUMBER.finditer(text):
        found = match
    if found is None or len(found[0]) > LONGEST_NUMBER:
        return None
    return Decimal(found[0].replace(",", ""))
