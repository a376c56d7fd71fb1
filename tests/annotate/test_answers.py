"""What the page may send, and what it becomes."""

from __future__ import annotations

from typing import Any

import pytest

from accord.annotate.answers import is_correct, read_answer
from accord.errors import RequestError
from accord.settings.annotate import AnnotateSettings
from tests.annotate.desks import body

PAIRS = AnnotateSettings(tags=["wrong"])
RANKINGS = AnnotateSettings(task="rankings")
LABELS = AnnotateSettings(task="labels")


def test_answers_that_are_read() -> None:
    assert read_answer(body(outcome="both_bad"), PAIRS, 2).ranks == (0, 0)
    assert read_answer(body(ranks=[2, 0, 0]), RANKINGS, 3).ranks == (2, 0, 0)
    assert read_answer(body(ranks=[1]), LABELS, 1).ranks == (1,)
    assert read_answer(body(action="skip", reason="Too long"), PAIRS, 2).reason == "Too long"
    # What no database stores is replaced; time that no clock shows is left out.
    for seconds in (float("nan"), float("inf"), 10**400, True, "3"):
        odd = read_answer(body(comment="a\x00\ud800", seconds=seconds), PAIRS, 2)
        assert (odd.comment, odd.seconds) == ("a\ufffd?", None)
    assert read_answer(body(seconds=-1), PAIRS, 2).seconds == 0.0


@pytest.mark.parametrize(
    ("settings", "size", "values"),
    [
        (PAIRS, 2, {"outcome": "a"}),
        (PAIRS, 2, {"outcome": None}),
        (PAIRS, 2, {"outcome": ["left"]}),
        (PAIRS, 2, {"action": "delete"}),
        (PAIRS, 2, {"strength": 4}),
        (PAIRS, 2, {"outcome": "tie", "strength": 1}),
        (AnnotateSettings(strength=False), 2, {"strength": 1}),
        (PAIRS, 2, {"tags": ["other"]}),
        (PAIRS, 2, {"tags": "wrong"}),
        (PAIRS, 2, {"view": "upside down"}),
        (PAIRS, 2, {"comment": "x" * 10_001}),
        (PAIRS, 2, {"comment": 3}),
        (PAIRS, 2, {"revises": True}),
        (PAIRS, 2, {"key": "short"}),
        (PAIRS, 2, {"key": "\ud800" * 32}),  # what no database stores
        (PAIRS, 2, {"key": "\0" * 32}),
        (PAIRS, 2, {"key": "x" * 65}),
        (RANKINGS, 3, {"ranks": [0, 1]}),
        (RANKINGS, 3, {"ranks": [0, 1, 3]}),
        (RANKINGS, 3, {"ranks": [1, 1, 2]}),
        (RANKINGS, 3, {"ranks": [0, 0, 1]}),
        (RANKINGS, 3, {"ranks": [0, True, 2]}),
        (LABELS, 1, {"ranks": [2]}),
    ],
)
def test_answers_that_are_refused(
    settings: AnnotateSettings, size: int, values: dict[str, Any]
) -> None:
    sent = {**body(), "outcome": "left"} | values
    if "ranks" in values:
        del sent["outcome"]
    with pytest.raises(RequestError):
        read_answer(sent, settings, size)


@pytest.mark.parametrize(
    ("ranks", "expected", "correct"),
    [
        ((0, 1), (0, 1), True),
        ((0, 0), (0, 1), False),
        ((0, 1), (0, 0), False),
        ((0, 1, 2), (0, 1, 1), True),  # the expected ranks leave the order of the last two open
        ((0, 2, 1), (0, 1, 1), True),
        ((1, 0, 2), (0, 1, 1), False),
        ((1,), (0,), False),
    ],
)
def test_answers_to_gold_items(
    ranks: tuple[int, ...], expected: tuple[int, ...], correct: bool
) -> None:
    assert is_correct(ranks, expected) is correct
