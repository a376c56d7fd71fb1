"""Whether an answer to a task is right: one rule for each kind of task.

A response is a model's, so it may hold anything. Blanks and case never count, except in a regular
expression, which says itself what counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import regex

from accord.compare.rewards.rules import last_number
from accord.settings.audit import TaskRule

MAX_SECONDS = 5.0  # of a search in one answer; an ordinary pattern takes milliseconds

_LETTER = r"[(\[{]?\s*([A-Za-z])\s*[)\]}]?"
_MARKS = re.compile(r"[*_`$]|\\(?:boxed|text(?:bf)?)\s*(?=\{)")
# What introduces a choice, in the forms that models use: "the answer is (B)", "Answer: B".
_STATED = re.compile(
    rf"\b(?i:answer|choice|option)\b(?i:\s+(?:is|would\s+be|must\s+be))?\s*[:=]?\s*"
    rf"(?i:(?:option|choice)\s+)?{_LETTER}(?![\w'’])"
)
_WHOLE = re.compile(rf"\s*(?i:(?:option|choice)\s+)?{_LETTER}\s*[.:,;!]?\s*")
_FIRST = re.compile(r"\s*(?:[(\[]([A-Za-z])[)\]]|([A-Za-z])\s*[).:\]])(?=\s)")
_BRACKETED = re.compile(r"[(\[{]\s*([A-Za-z])\s*[)\]}]")


def is_right(rule: TaskRule, answer: str, accepted: Sequence[str]) -> bool:
    """Whether an answer, without its reasoning, is one of those that are accepted.

    Raises TimeoutError where an expression of the rule `regex` takes over MAX_SECONDS on it.
    """
    return any(_RULES[rule](answer, each) for each in accepted)


def check_accepted(rule: TaskRule, accepted: str) -> str | None:
    """Why no answer could be compared with this one under the rule; None where one could."""
    if not accepted.strip():
        return "an empty answer"
    if rule == "choice" and not re.fullmatch(r"\s*[(\[]?\s*[A-Za-z]\s*[)\]]?[.:]?\s*", accepted):
        return "the answer is no letter of a choice"
    if rule == "number" and _number(accepted) is None:
        return "the answer is not one number"
    if rule == "regex":
        try:
            regex.compile(accepted)
        except (regex.error, RecursionError, OverflowError):
            return "the answer is no regular expression"
    return None


def chosen_letter(answer: str) -> str | None:
    """The letter that an answer to a multiple choice chooses, in upper case; None where it is not
    clear.

    The answer is the letter alone; or names it behind "answer" or "option", the last time if
    several times; or begins with it and a mark (`B. Paris`, `(B) Paris`); or holds one letter in
    brackets and no other. A letter within a sentence ("A dog", "I think") is no choice.
    """
    text = _MARKS.sub("", answer)
    whole = _WHOLE.fullmatch(text)
    if whole:
        return whole[1].upper()
    stated = [m[1] for m in _STATED.finditer(text) if _is_a_choice(m, text)]
    if stated:
        return stated[-1].upper()
    first = _FIRST.match(text)
    if first:
        return (first[1] or first[2]).upper()
    bracketed = {letter.upper() for letter in _BRACKETED.findall(text)}
    return bracketed.pop() if len(bracketed) == 1 else None


def _is_a_choice(match: re.Match[str], text: str) -> bool:
    """Whether a letter behind "answer" is no word: `a` and `I` are words where one follows."""
    letter, rest = match[1], text[match.end() :]
    if match[0].rstrip()[-1] in ")]}":
        return True
    return letter.isupper() and (letter not in "AI" or not re.match(r"[ \t]+[a-z]", rest))


def _exact(answer: str, accepted: str) -> bool:
    return _plain(answer) == _plain(accepted)


def _plain(text: str) -> str:
    """A text on one line, without case and without the full stop at its end."""
    line = " ".join(text.split()).casefold()
    return line.removesuffix(".").rstrip() or line


def _contains(answer: str, accepted: str) -> bool:
    text, part = " ".join(answer.split()).casefold(), " ".join(accepted.split()).casefold()
    start = text.find(part)
    while start >= 0:
        end = start + len(part)
        if not _continues(text[start - 1 : start], part[0]) and not _continues(
            part[-1], text[end : end + 1]
        ):
            return True
        start = text.find(part, start + 1)
    return False


def _continues(left: str, right: str) -> bool:
    """Whether two neighbouring characters belong to one word, or to one number. Letters without
    case (Chinese, Thai, …) are written without blanks between words, so they never do."""
    if not left or not right:
        return False
    return (_is_cased(left) and _is_cased(right)) or (left.isdigit() and right.isdigit())


def _is_cased(character: str) -> bool:
    return character.lower() != character.upper()


def _choice(answer: str, accepted: str) -> bool:
    letters = [c for c in accepted if c.isalpha()]
    return chosen_letter(answer) == letters[0].upper()


def _number_rule(answer: str, accepted: str) -> bool:
    number = last_number(answer)
    return number is not None and number == last_number(_number(accepted) or "")


def _number(accepted: str) -> str | None:
    """The text of the one number of an accepted answer: behind `####`, where it is GSM8K's."""
    tail = accepted.rpartition("####")[2]
    numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", tail)
    return tail if len(numbers) == 1 and last_number(tail) is not None else None


def _regex(answer: str, pattern: str) -> bool:
    return regex.search(pattern, answer, timeout=MAX_SECONDS) is not None


_RULES: dict[TaskRule, Callable[[str, str], bool]] = {
    "exact": _exact,
    "contains": _contains,
    "choice": _choice,
    "number": _number_rule,
    "regex": _regex,
}
