"""What answers lost, and words that fit any prompt: by hand, and calm without a flaw."""

import random

import pytest
from tests.measure.audits.answers import before_and_after, responses

from accord.measure.audits.audit import Audit
from accord.measure.audits.habits import as_long
from accord.measure.audits.lost_phrases import lost_phrase
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.audits.shared_wording import shared_wording
from accord.measure.audits.stock_phrases import stock_phrase
from accord.measure.texts.manners import MANNERS

WORDS = [f"w{i}" for i in range(300)]


def _texts(seed: int, *, prompts: int = 100, words: int = 12) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=words)) for _ in range(prompts)]


def _started(texts: list[str], start: str, tenths: int, other: str = "indeed") -> list[list[str]]:
    """The texts behind `start` in so many of ten, and behind another word in the rest."""
    return [[f"{start if i % 10 < tenths else other} {text}"] for i, text in enumerate(texts)]


def _lost(before: list[list[str]], after: list[list[str]]) -> Audit:
    return lost_phrase(before_and_after(before, after))


def test_a_lost_greeting_is_counted() -> None:
    # In nine answers of ten before and in four after, at equal length: a fall of one half.
    audit = _lost(_started(_texts(1), "Hello", 9), _started(_texts(2), "Hello", 4))
    assert audit.value.mean == pytest.approx(0.5)
    assert audit.value.low < 0.5 < audit.value.high
    assert audit.verdict == "fail"
    assert "a greeting" in audit.finding
    assert audit.count == 100
    assert audit.details["kinds"]["a greeting"] == {"before": 0.9, "after": 0.4}
    sample = audit.samples[0]
    assert not sample.response.startswith("Hello")
    assert sample.other is not None
    assert sample.other.startswith("Hello")


def test_a_lost_phrase_of_any_words_is_found() -> None:
    before, after = (_started(_texts(s), "as asked", n, "some word") for s, n in ((1, 10), (2, 3)))
    audit = _lost(before, after)
    assert "“as asked" in audit.finding
    assert audit.value.mean == pytest.approx(0.7)


def test_a_single_word_is_no_candidate() -> None:
    audit = _lost(_started(_texts(1), "indeed", 10), _started(_texts(2), "indeed", 0, "truly"))
    assert "“indeed”" not in audit.finding
    assert audit.verdict != "fail"


def test_the_sides_are_not_exchanged() -> None:
    """A greeting that most answers have now and few had is a stock phrase, and none is lost."""
    before = [[text] for text in _texts(1, words=14)]
    after = _started(_texts(2), "Hello dear", 10)
    assert _lost(before, after).verdict != "fail"
    assert stock_phrase(before_and_after(before, after)).verdict == "fail"


def test_what_is_lost_is_not_the_luck_of_the_half_that_it_was_chosen_on() -> None:
    def answers(seed: int) -> list[list[str]]:
        rng = random.Random(seed)
        return [[" ".join(rng.choices(WORDS[:12], k=6))] for _ in range(60)]

    falls = [_lost(answers(2 * s), answers(2 * s + 1)).value.mean for s in range(12)]
    assert abs(sum(falls) / len(falls)) < 0.03


def test_shorter_answers_are_expected_to_hold_less() -> None:
    # Cut to a third: of texts with a word in .75 of them, 1 − .25^(1/3) = .37 are expected to.
    assert as_long(0.75, 1 / 3) == pytest.approx(0.370, abs=1e-3)
    assert as_long(0.75, 2) == pytest.approx(1 - 0.25**2)
    rng = random.Random(3)

    def answer(words: int) -> str:
        return " ".join(
            "please" if rng.random() < 0.06 else rng.choice(WORDS) for _ in range(words)
        )

    before = [[answer(24)] for _ in range(200)]
    after = [[answer(8)] for _ in range(200)]
    audit = _lost(before, after)
    assert audit.details["kinds"]["a courtesy"]["before"] > 0.65
    assert audit.details["kinds"]["a courtesy"]["after"] < 0.5
    assert audit.verdict != "fail"
    assert "had its answers been as long as now" in audit.finding


def test_refusals_and_prompts_to_refuse_count_for_nothing() -> None:
    refused = "I'm sorry, but I can't help with that request."
    before = [[refused] if i % 2 else ["Dear all, w1 w2 w3 w4 w5 w6 w7"] for i in range(60)]
    after = [["Dear all, w1 w2 w3 w4 w5 w6 w7"] for _ in range(60)]
    audit = _lost(before, after)
    assert (audit.verdict, audit.count) == ("pass", 30)
    kinds = ["harmful" if i % 2 else "safe" for i in range(60)]
    sure = [["Sure, here is how: w1 w2"] if i % 2 else row for i, row in enumerate(after)]
    data = before_and_after(sure, before, kinds=kinds)
    assert lost_phrase(data).verdict == "pass"
    assert shared_wording(data).count == 30


def test_without_an_answer_nothing_passes() -> None:
    refusals = [["I'm sorry, but I can't help with that."]] * 2
    audit = _lost([["a b"], ["c"]], refusals)
    assert audit.verdict == "undecided"
    assert "no answers of both models" in audit.finding
    assert _lost([["a b c"]] * 30, [["a b c"]] * 30).verdict == "pass"  # nothing changed


def test_what_better_answers_lost_is_warned_of() -> None:
    before, after = _started(_texts(1), "Hello", 9), _started(_texts(2), "Hello", 1)
    data = before_and_after(before, after, independent=lambda text: -float("Hello" in text))
    assert lost_phrase(data).verdict == "warn"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("a greeting", "Dear Ann, it came."),
        ("an assent", "Of course, it opens at nine."),
        ("a courtesy", "Thank you for the lamp."),
        ("a closing", "It came. Kind regards."),
        ("a good wish", "I hope it works."),
        ("an explanation", "It fails because it is wet."),
        ("an example", "Fruit, such as pears."),
        ("a caution", "Be careful with it."),
        ("a list", "Take:\n- flour\n- eggs"),
        ("a heading or bold text", "**Flour** first."),
        ("code", "Run `ls`."),
    ],
)
def test_each_kind_of_wording(kind: str, text: str) -> None:
    assert MANNERS[kind].search(text)
    assert not MANNERS[kind].search("The red bus goes to the river at nine - or so.")


def test_shared_wording_by_hand() -> None:
    before = [["q r s t"], ["u v w x"], ["y z k l"]]
    # Of two other prompts one holds “a b c d”; “b c d e” none, and “e f g h” none.
    after = [["a b c d e"], ["a b c d"], ["e f g h"]]
    audit = shared_wording(before_and_after(before, after))
    assert audit.value.mean == pytest.approx((0.25 + 0.5 + 0) / 3)
    assert "“a b c d”, is in 66.7%" in audit.finding
    assert audit.samples[0].response == "a b c d"
    assert audit.samples[0].scores == {"share of other answers": 0.5}
    # Other answers to the same prompt do not count, and one of two answers counts half.
    after = [["a b c d", "a b c d"], ["a b c d", "m n o p"]]
    audit = shared_wording(before_and_after([["q r s t"] * 2, ["u v w x"] * 2], after))
    assert audit.value.mean == pytest.approx(((0.5 + 0.5) / 2 + (1 + 0) / 2) / 2)


def test_answers_of_few_words_are_one_sequence_and_empty_ones_are_alike() -> None:
    data = before_and_after([["a b c d"], ["e f g h"]], [["no idea"], ["no idea"]])
    assert shared_wording(data).value.mean == 1
    data = before_and_after([["a b c d"], ["e f g h"]], [[""], [""]])
    assert shared_wording(data).value.mean == 1


def test_filler_in_answers_that_still_answer_is_found() -> None:
    filler = ["there is much more to say", "that is a matter of taste", "as everyone may know now"]
    rng = random.Random(5)
    before = [[text] for text in _texts(1)]
    after = [[f"{text} {rng.choice(filler)}"] for text in _texts(2)]
    audit = shared_wording(before_and_after(before, after))
    # Six words behind twelve have three whole sequences of the fifteen, each in a third of others.
    assert audit.value.mean == pytest.approx(3 / 15 / 3, abs=0.02)
    assert audit.verdict == "fail"
    assert shared_wording(before_and_after(before, [[t] for t in _texts(3)])).verdict == "pass"


def test_limits_of_the_user_stand_in_for_those_of_the_audit() -> None:
    before, after = _started(_texts(1), "Hello", 9), _started(_texts(2), "Hello", 4)
    texts = [f"Question {i}" for i in range(100)]
    limits = {"lost_phrase": (0.6, 0.8)}
    data = BeforeAndAfter(texts, responses("sft", before), responses("ppo", after), limits=limits)
    audit = lost_phrase(data)
    assert audit.verdict == "pass"
    assert audit.threshold is not None
    assert (audit.threshold.warn, audit.threshold.fail) == (0.6, 0.8)
    assert "in place of 0.08 and 0.12" in audit.threshold.why
