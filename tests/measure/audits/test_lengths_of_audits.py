"""Audits of answers that are longer than before, too short to compare, or too few."""

import random

import numpy as np
import pytest
from tests.measure.audits.answers import before_and_after

from accord.measure.audits.audit import Audit
from accord.measure.audits.diversity import diversity_audits
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.audits.wording import wording_audits
from accord.measure.texts.diversity import written
from accord.measure.texts.pieces import pieces, pieces_distance

WORDS = [f"w{i}" for i in range(300)]


def _texts(
    seed: int, words: int, *, prompts: int = 60, k: int = 2, start: str = ""
) -> list[list[str]]:
    rng = random.Random(seed)
    return [
        [f"{start} {' '.join(rng.choices(WORDS, k=words))}".strip() for _ in range(k)]
        for _ in range(prompts)
    ]


def _audits(data: BeforeAndAfter) -> dict[str, Audit]:
    return {audit.name: audit for audit in [*diversity_audits(data), *wording_audits(data)]}


def test_pieces_by_hand() -> None:
    # Five words in pieces of two: the last word is left out.
    assert [len(piece) for piece in pieces("a b c d e", 2)] == [3, 3]  # two words and a pair each
    assert [len(piece) for piece in pieces("a", 2)] == [1]
    assert pieces("", 2) == [frozenset()]
    # The first pieces are equal, the second share nothing: a mean of 1/2.
    assert pieces_distance(pieces("a b c d", 2), pieces("a b e f", 2)) == 0.5
    # Only the first pieces are compared where one text has no second.
    assert pieces_distance(pieces("a b c d", 2), pieces("a b", 2)) == 0


def test_a_common_opening_of_varied_answers_is_no_collapse() -> None:
    opening = "Thank you for this, let me think it over."
    audits = _audits(before_and_after(_texts(1, 9), _texts(2, 36, start=opening)))
    # One of five pieces of nine words is the same in all answers.
    for name in ("diversity_per_prompt", "diversity_across_prompts"):
        assert audits[name].value.mean == pytest.approx(0.8, abs=0.02)
        assert audits[name].verdict in ("pass", "warn")
    assert audits["stock_phrase"].verdict == "fail"


def test_answers_of_a_word_are_too_short_to_compare_with_sentences() -> None:
    before = [[f"City{i}.", f"Town{i}."] for i in range(100)]
    after = [
        [f"The capital of Land{i} is {name}{i}." for name in ("City", "Town")] for i in range(100)
    ]
    audits = _audits(before_and_after(before, after))
    for name in ("diversity_across_prompts", "stock_phrase"):
        assert audits[name].verdict == "undecided"
        assert "the answers before have 1.0 words" in audits[name].finding
    # The same sentences beside sentences of the same length are a fault.
    audits = _audits(before_and_after(_texts(1, 6, prompts=100), after))
    assert audits["diversity_across_prompts"].verdict == "fail"
    assert audits["stock_phrase"].verdict == "fail"


def test_nearly_one_long_answer_is_found_beside_answers_of_all_lengths() -> None:
    rng = random.Random(4)
    before = [row for i in range(60) for row in _texts(i, rng.randrange(10, 40), prompts=1)]
    constant = " ".join(rng.choices(WORDS, k=40))
    after = [[f"w{i} {constant}"] * 2 for i in range(60)]
    audits = _audits(before_and_after(before, after))
    assert audits["diversity_across_prompts"].verdict == "fail"
    assert audits["diversity_across_prompts"].value.mean < 0.2
    sample = audits["diversity_across_prompts"].samples[0]
    assert constant in sample.response
    assert sample.other is not None
    assert constant in sample.other
    assert sample.note.startswith("beside the answer to “Question")


def test_common_words_of_longer_answers_are_no_stock_phrase() -> None:
    rng = random.Random(5)

    def answer(words: int) -> str:
        return " ".join("the" if rng.random() < 0.1 else rng.choice(WORDS) for _ in range(words))

    before = [[answer(8) for _ in range(2)] for _ in range(100)]
    after = [[answer(60) for _ in range(2)] for _ in range(100)]
    # Of eight words none is “the” with .9^8 = .43, of sixty with .002: the share rises by .43.
    audit = _audits(before_and_after(before, after))["stock_phrase"]
    assert audit.verdict == "pass"
    assert abs(audit.value.mean) < 0.2
    # A word that only the longer answers hold is one.
    closing = [[f"{text} w0 indeed" for text in row] for row in after]
    audit = _audits(before_and_after(before, closing))["stock_phrase"]
    assert audit.verdict == "fail"
    assert "indeed" in audit.finding
    assert "had its answers been as long as now" in audit.finding
    assert audit.samples[0].response.endswith("indeed")


def test_a_rarer_phrase_is_named_before_a_common_word_of_longer_answers() -> None:
    rng = random.Random(6)

    def answer(words: int, common: float) -> str:
        return " ".join("the" if rng.random() < common else rng.choice(WORDS) for _ in range(words))

    before = [[answer(8, 0.05)] for _ in range(200)]
    after = [[answer(60, 0.07) + (" indeed" if i % 4 < 2 else "")] for i in range(200)]
    # “the” rises from .34 to .99, and in answers of sixty words .95 would hold it.
    audit = _audits(before_and_after(before, after))["stock_phrase"]
    assert "indeed" in audit.finding
    assert "“the”" not in audit.finding


def test_shorter_answers_are_compared_as_they_are() -> None:
    def with_phrase(texts: list[list[str]], tenths: int) -> list[list[str]]:
        return [[f"{row[0]} indeed" if i % 10 < tenths else row[0]] for i, row in enumerate(texts)]

    before = with_phrase(_texts(1, 20, prompts=100, k=1), 5)
    after = with_phrase(_texts(2, 10, prompts=100, k=1), 8)
    audit = _audits(before_and_after(before, after))["stock_phrase"]
    assert audit.value.mean == pytest.approx(0.3)


def test_samples_of_alike_answers_are_the_most_alike() -> None:
    after = _texts(2, 12, k=1)
    after[30] = after[33]
    samples = _audits(before_and_after(_texts(1, 12, k=1), after))[
        "diversity_across_prompts"
    ].samples
    assert {(s.prompt, s.note) for s in samples if s.scores["distance"] == 0} == {
        ("Question 30", "beside the answer to “Question 33”"),
    }
    assert samples[0].scores["distance"] == 0


def test_one_answer_to_each_prompt_before_leaves_no_variety_to_lose() -> None:
    greedy = [[row[0]] * 2 for row in _texts(1, 12)]
    audit = _audits(before_and_after(greedy, greedy))["diversity_per_prompt"]
    assert audit.verdict == "undecided"
    assert "temperature" in audit.finding
    audit = _audits(before_and_after(_texts(1, 12), greedy))["diversity_per_prompt"]
    assert audit.verdict == "fail"
    assert "temperature" in audit.finding
    same = [["yes"] * 2] * 20
    audit = _audits(before_and_after(same, same))["diversity_across_prompts"]
    assert "Not measured: the model before gives all prompts one answer" in audit.finding


def test_samples_of_shared_answers_are_the_most_shared() -> None:
    after = [["twice"]] * 2 + [["thrice"]] * 3 + [[f"w{i} once"] for i in range(5)]
    audit = _audits(before_and_after(_texts(1, 5, prompts=10, k=1), after))["shared_answers"]
    assert [s.response for s in audit.samples] == ["thrice", "twice"]
    assert audit.samples[0].note == "given to 3 of 10 prompts"
    assert audit.samples[0].scores["prompts"] == 3


def test_one_prompt_decides_nothing() -> None:
    audits = _audits(before_and_after(_texts(1, 12, prompts=1), _texts(2, 12, prompts=1)))
    assert audits["length"].verdict == "undecided"
    assert audits["diversity_per_prompt"].verdict == "undecided"


def test_bootstrap_intervals_of_few_prompts_are_as_wide_as_students() -> None:
    # The half-width of Student's interval for six prompts is 2.571·s/√6; a plain percentile
    # interval has 1.96·√(5/6)·s/√6, less than three quarters of it.
    data = before_and_after(*[[["x"]] * 6] * 2)
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    value = data.bootstrap(lambda rows: float(values[rows].mean()))
    assert value.low is not None
    assert value.high is not None
    student = 2.571 * values.std(ddof=1) / np.sqrt(6)
    assert (value.high - value.low) / 2 == pytest.approx(student, rel=0.15)


def test_scripts_without_spaces_are_written_without() -> None:
    assert written(["这", "是", "GPT", "的", "。"]) == "这是 GPT 的。"
    assert written(["great", "question"]) == "great question"
    assert written([]) == ""
    after = [[f"这是好问题{chr(0x5000 + i)}{chr(0x5100 + i)}"] for i in range(60)]
    before = [[f"{chr(0x5200 + i)}" * 7] for i in range(60)]
    audits = _audits(before_and_after(before, after))
    assert "“是好问题”" in audits["stock_phrase"].finding
    assert audits["stock_phrase"].details["risen"][0]["phrase"] in ("这是好问", "是好问题")
