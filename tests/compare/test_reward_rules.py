"""Rules on the texts of models: values by hand, and hostile texts."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import Any

import pytest

from accord.compare.rewards import rules as reward_rules
from accord.compare.rewards.rules import (
    answer_rule,
    contains_rule,
    count_words,
    format_rule,
    last_number,
    length_rule,
    regex_rule,
    repetition_rule,
)
from accord.errors import RewardError
from accord.settings.rewards import (
    AnswerSource,
    ContainsSource,
    FormatSource,
    LengthSource,
    RegexSource,
    RepetitionSource,
)

HOSTILE = [
    "",
    "\x00",
    " \u2028\u0085\t ",
    "\ud800",  # a lone surrogate
    "<" * 5_000,
    "[" * 100_000,  # nested deeper than the stack
    "9" * 100_000,
    '{"a":' * 50_000,
    "ﬁ\u0301\u200b",
    "NaN",
    "-" * 10_000 + "." * 10_000,
    "a " * 50_000,
]


def rules() -> list[Any]:
    answer = answer_rule(AnswerSource(kind="answer"))
    number = answer_rule(AnswerSource(kind="answer", compare="number"))
    return [
        length_rule(LengthSource(kind="length", at_least=2, at_most=9), count_words),
        regex_rule(RegexSource(kind="regex", pattern=r"\w+\s*$")),
        format_rule(FormatSource(kind="format")),
        format_rule(FormatSource(kind="format", keys=["a"])),
        format_rule(FormatSource(kind="format", form="tags", tags=["a", "b"])),
        repetition_rule(RepetitionSource(kind="repetition")),
        repetition_rule(RepetitionSource(kind="repetition", unit="characters")),
        contains_rule(ContainsSource(kind="contains", text="a")),
        lambda text: answer(text, "4"),
        lambda text: number(text, "4"),
    ]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_has_a_score(text: str) -> None:
    for rule in rules():
        assert isinstance(rule(text), float)


def test_length_costs_beyond_its_limits_only() -> None:
    rule = length_rule(LengthSource(kind="length", at_least=2, at_most=3, penalty=0.5), count_words)
    assert [rule("w " * n) for n in range(6)] == [-1.0, -0.5, 0.0, 0.0, -0.5, -1.0]
    target = length_rule(LengthSource(kind="length", at_least=3, at_most=3, penalty=1.0), len)
    assert [target(text) for text in ("a", "abc", "abcde")] == [-2.0, 0.0, -2.0]


@pytest.mark.parametrize(
    ("pattern", "match", "text", "score"),
    [
        (r"^Dear \w+", True, "Dear Ann,", 1.0),
        (r"^Dear \w+", True, "Oh dear", 0.0),
        (r"(?i)as an ai", False, "As an AI I", 0.0),
        (r"(?i)as an ai", False, "I", 1.0),
        (r" end", True, "the end", 1.0),
        (r" end", True, "end", 0.0),
    ],
)
def test_a_pattern_must_or_must_not_be_found(
    pattern: str, match: bool, text: str, score: float
) -> None:
    assert regex_rule(RegexSource(kind="regex", pattern=pattern, match=match))(text) == score


@pytest.mark.parametrize("match", [True, False])
def test_a_long_text_hides_nothing_from_a_pattern(match: bool) -> None:
    source = RegexSource(kind="regex", pattern="bad|good", match=match, max_characters=20)
    assert regex_rule(source)("." * 17 + "bad!") == 0.0
    assert regex_rule(source)("." * 21) == 0.0


def test_a_catastrophic_pattern_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reward_rules, "MAX_SECONDS", 0.05)
    rule = regex_rule(RegexSource(kind="regex", pattern=r"^(a|aa)+$"))  # Fibonacci's many ways
    assert (rule("a" * 100), rule("ab")) == (1.0, 0.0)
    with pytest.raises(RewardError, match=r"took over 0.05 s on a response of 101 characters"):
        rule("a" * 100 + "b")


@pytest.mark.parametrize(
    ("text", "keys", "score"),
    [
        ('{"a": 1}', [], 1.0),
        (' [1, "x"]\n', [], 1.0),
        ("4", [], 1.0),
        ('{"a": 1}', ["a"], 1.0),
        ('{"b": 1}', ["a"], 0.0),
        ('["a"]', ["a"], 0.0),
        ('{"a": 1} and so on', [], 0.0),
        ("```json\n{}\n```", [], 0.0),
        ("{'a': 1}", [], 0.0),
        ("NaN", [], 0.0),
        ('{"a": Infinity}', [], 0.0),
        ("", [], 0.0),
    ],
)
def test_json(text: str, keys: list[str], score: float) -> None:
    assert format_rule(FormatSource(kind="format", keys=keys))(text) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a\nb</think>\n<answer>4</answer> ", 1.0),
        ("<think></think><answer></answer>", 1.0),
        ("<answer>4</answer><think>a</think>", 0.0),
        ("<think>a</think>", 0.0),
        ("<think>a</think> so <answer>4</answer>", 0.0),
        ("<think>a</think><answer>4</answer> done", 0.0),
        ("<think><answer>4</answer></think>", 0.0),
        ("<think>a</think><think>b</think><answer>4</answer>", 0.0),
        ("<think>a<answer></think>4</answer>", 0.0),
    ],
)
def test_tags(text: str, score: float) -> None:
    rule = format_rule(FormatSource(kind="format", form="tags", tags=["think", "answer"]))
    assert rule(text) == score


def test_repetition_is_the_share_of_grams_seen_before() -> None:
    # a b c | b c a | c a b | a b c: 3 of 4 triples are distinct.
    triples = repetition_rule(RepetitionSource(kind="repetition", ngram=3))
    assert triples("a b c a b c") == pytest.approx(-1 / 4)
    assert triples("a b") == 0.0
    assert triples("Sssssssss") == 0.0
    characters = repetition_rule(RepetitionSource(kind="repetition", ngram=2, unit="characters"))
    assert characters("aaaaa") == pytest.approx(-3 / 4)
    assert repetition_rule(RepetitionSource(kind="repetition", ngram=1))("a b a a") == -0.5


@pytest.mark.parametrize(
    ("match", "case_sensitive", "scores"),
    list(
        zip(
            *zip(*itertools.product((True, False), (True, False)), strict=True),
            [[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]],
            strict=True,
        )
    ),
)
def test_contains(match: bool, case_sensitive: bool, scores: list[float]) -> None:
    source = ContainsSource(kind="contains", text="Yes", match=match, case_sensitive=case_sensitive)
    assert [contains_rule(source)(text) for text in ("so Yes", "YES", "no")] == scores


@pytest.mark.parametrize(
    ("compare", "response", "answer", "score"),
    [
        ("exact", " New\n york ", "new York", 1.0),
        ("exact", "It is New York", "New York", 0.0),
        ("contains", "It is new  york.", "New York", 1.0),
        ("contains", "York", "New York", 0.0),
        ("number", "5 + 1,229.0 = 1,234.00.", "#### 1234", 1.0),
        ("number", "it is -3", "3", 0.0),
        ("number", "none", "3", 0.0),
        ("number", "1234 5", "1234", 0.0),
    ],
)
def test_answers(compare: Any, response: str, answer: str, score: float) -> None:
    assert answer_rule(AnswerSource(kind="answer", compare=compare))(response, answer) == score


def test_answers_with_capitals() -> None:
    rule = answer_rule(AnswerSource(kind="answer", case_sensitive=True))
    assert (rule("Ann", "Ann"), rule("ann", "Ann")) == (1.0, 0.0)


def test_the_last_number() -> None:
    numbers = {"5-3": 3, "x = -3.": -3, "1,234.50 kg": "1234.5", "v1.2.3": "1.2", "no": None}
    numbers |= {"²": None, "٣": None, "9" * 500: None}
    for text, number in numbers.items():
        assert last_number(text) == (None if number is None else Decimal(number)), text
