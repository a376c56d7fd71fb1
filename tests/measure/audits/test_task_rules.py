"""Whether an answer to a task is right, by each rule."""

from __future__ import annotations

import pytest

from accord.measure.audits import task_rules
from accord.measure.audits.task_rules import check_accepted, chosen_letter, is_right
from accord.settings.audit import TaskRule


@pytest.mark.parametrize(
    ("rule", "answer", "accepted", "right"),
    [
        ("exact", "  paris.\n", "Paris", True),
        ("exact", "New   York", "new york", True),
        ("exact", "It is Paris", "Paris", False),
        ("exact", "...", "", False),
        ("contains", "It is PARIS, of course", "Paris", True),
        ("contains", "Parisian food", "Paris", False),
        ("contains", "the parish of Paris", "Paris", True),  # a later place counts too
        ("contains", "I know", "no", False),
        ("contains", "14", "4", False),
        ("contains", "x=4", "4", True),
        ("contains", "答案是巴黎。", "巴黎", True),  # written without blanks
        ("contains", "C++ is it", "c++", True),
        ("number", "First 3, then it is 1,234.50", "1234.5", True),
        ("number", "It is 18, not 19", "18", False),  # the last number is the answer
        ("number", "18.0 dollars", "5 + 13 = <<5+13=18>>18\n#### 18", True),
        ("number", "none", "18", False),
        ("regex", "on 4 July 1776", r"\b(4|four) July\b", True),
        ("regex", "ON 4 JULY", r"July", False),  # the pattern says whether case counts
        ("regex", "ON 4 JULY", r"(?i)July", True),
        ("choice", "(b)", "B", True),
        ("choice", "The answer is C.", "(b)", False),
    ],
)
def test_rules(rule: TaskRule, answer: str, accepted: str, right: bool) -> None:
    assert is_right(rule, answer, [accepted]) is right
    assert is_right(rule, answer, ["another that is not given 99", accepted]) is right


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("b.", "B"),
        ("**(C)**", "C"),
        ("Option D", "D"),
        (r"$\boxed{A}$", "A"),
        (r"\boxed{\text{E}}", "E"),
        ("B. Paris is the capital", "B"),
        ("(a) It floats, as (b) would not", "A"),
        ("The answer is B, because A is too small.", "B"),
        ("The correct answer is **B**.", "B"),
        ("Answer: A\nNo, the answer is (D).", "D"),
        ("The answer is A", "A"),
        ("It must be (C), I think.", "C"),
        ("The answer is option C.", "C"),
        ("A dog is a mammal", None),
        ("I think so", None),
        ("The answer is a dog", None),
        ("The answer is I think unclear", None),
        ("Either (A) or (B)", None),
        ("The answer isn't clear", None),
        ("Both", None),
        ("", None),
    ],
)
def test_the_letter_of_a_choice(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


@pytest.mark.parametrize(
    ("rule", "accepted", "fault"),
    [
        ("exact", " ", "an empty answer"),
        ("choice", "B", None),
        ("choice", "(b)", None),
        ("choice", "B) ", None),
        ("choice", "Paris", "no letter"),
        ("number", "-1,234.5", None),
        ("number", "#### 7", None),
        ("number", "1/2", "not one number"),
        ("number", "seven", "not one number"),
        ("regex", "(a", "no regular expression"),
        ("regex", "(a)", None),
        ("contains", "(a", None),
    ],
)
def test_answers_that_nothing_can_be_compared_with(
    rule: TaskRule, accepted: str, fault: str | None
) -> None:
    found = check_accepted(rule, accepted)
    assert found is None if fault is None else fault in (found or "")


def test_an_expression_that_takes_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_rules, "MAX_SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        is_right("regex", "a" * 40 + "c", [r"(a|a|aa)+$"])
