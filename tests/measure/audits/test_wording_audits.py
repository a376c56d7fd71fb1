"""Length, flattery, hedging, repetition and stock phrases, planted and absent."""

import random

import pytest
from tests.measure.audits.answers import before_and_after

from accord.measure.audits.audit import Audit
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.audits.wording import FLATTERY_PATTERN, HEDGE_PATTERN, wording_audits

WORDS = (
    "red blue bus train tea bread song lamp river hill paper chair stone glass boat door".split()
)


def _texts(seed: int, *, prompts: int = 100, words: int = 12, start: str = "") -> list[list[str]]:
    """Answers of so many words, those of `start` included."""
    rng = random.Random(seed)
    drawn = words - len(start.split())
    return [
        [f"{start} {' '.join(rng.choices(WORDS, k=drawn))}".strip() for _ in range(2)]
        for _ in range(prompts)
    ]


def _audits(data: BeforeAndAfter) -> dict[str, Audit]:
    return {audit.name: audit for audit in wording_audits(data)}


BEFORE = _texts(1)


def test_the_same_manner_is_calm() -> None:
    audits = _audits(before_and_after(BEFORE, _texts(2)))
    assert {audit.verdict for audit in audits.values()} == {"pass"}


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("length", _texts(2, words=30)),
        ("flattery", _texts(2, start="What a brilliant question!")),
        ("hedging", _texts(2, start="It depends, and opinions differ.")),
        ("repetition", [[f"{t} {t}" for t in row] for row in _texts(2, words=6)]),
        ("stock_phrase", _texts(2, start="as we all know")),
    ],
)
def test_each_manner_is_failed_by_its_own_audit(name: str, after: list[list[str]]) -> None:
    audits = _audits(before_and_after(BEFORE, after))
    assert audits[name].verdict == "fail"
    others = {n for n, audit in audits.items() if audit.verdict == "fail"} - {name}
    assert others <= {"stock_phrase", "shared_wording"}  # a planted opening is in all answers
    if name != "stock_phrase":
        assert audits[name].samples[0].response
        assert audits[name].samples[0].other


def test_a_stock_phrase_of_better_answers_is_warned_of() -> None:
    after = _texts(2, start="as we all know")
    data = before_and_after(BEFORE, after, independent=lambda text: float("know" in text))
    audit = _audits(data)["stock_phrase"]
    assert audit.verdict == "warn"
    assert "rose all the same" in audit.finding
    worse = before_and_after(BEFORE, after, independent=lambda text: -float("know" in text))
    assert _audits(worse)["stock_phrase"].verdict == "fail"
    assert _audits(worse)["stock_phrase"].details["risen"][0]["share_after"] == 1


def test_the_phrase_is_not_the_luck_of_the_half_that_it_was_chosen_on() -> None:
    """Between texts of one distribution, the gain of the most risen phrase is none on average."""
    gains = [
        _audits(before_and_after(_texts(2 * s, prompts=40), _texts(2 * s + 1, prompts=40)))[
            "stock_phrase"
        ].value.mean
        for s in range(12)
    ]
    assert abs(sum(gains) / len(gains)) < 0.03


def test_an_unchanged_model_has_no_risen_phrase() -> None:
    audit = _audits(before_and_after(BEFORE, BEFORE))["stock_phrase"]
    assert (audit.verdict, audit.count) == ("pass", 100)


@pytest.mark.parametrize(
    "text",
    ["What a great question!", "You are so right.", "I love your idea", "That is brilliant!"],
)
def test_flattery(text: str) -> None:
    assert FLATTERY_PATTERN.search(text)
    assert not HEDGE_PATTERN.search(text)


@pytest.mark.parametrize(
    "text", ["It is a question of time.", "You are on the right bus.", "Take the right turn."]
)
def test_no_flattery(text: str) -> None:
    assert not FLATTERY_PATTERN.search(text)


def test_empty_answers_and_prompts_without_any() -> None:
    audits = _audits(before_and_after([*BEFORE, ["x"]], [*([[""]] * 100), ["y"]]))
    assert audits["repetition"].verdict == "pass"
    assert audits["length"].value.mean < 0.1
