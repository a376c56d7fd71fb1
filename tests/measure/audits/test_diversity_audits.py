"""Mode collapse: one answer to all, alike answers, and a single answer to each prompt."""

import random

import pytest
from tests.measure.audits.answers import before_and_after

from accord.measure.audits.audit import Audit
from accord.measure.audits.diversity import diversity_audits
from accord.measure.audits.responses import BeforeAndAfter

WORDS = (
    "red blue bus train tea bread song lamp river hill paper chair stone glass boat door".split()
)
REFUSAL = "I'm sorry, but I can't help with that."


def _answer(rng: random.Random, words: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def _varied(seed: int, prompts: int = 100, k: int = 4) -> list[list[str]]:
    rng = random.Random(seed)
    return [[_answer(rng) for _ in range(k)] for _ in range(prompts)]


def _audits(data: BeforeAndAfter) -> dict[str, Audit]:
    return {audit.name: audit for audit in diversity_audits(data)}


def _verdicts(data: BeforeAndAfter) -> dict[str, str]:
    return {name: audit.verdict for name, audit in _audits(data).items()}


def test_a_model_that_stays_diverse_is_calm() -> None:
    assert set(_verdicts(before_and_after(_varied(1), _varied(2))).values()) == {"pass"}


def test_one_answer_to_all_prompts_fails_everything() -> None:
    audits = _audits(before_and_after(_varied(1), [["The answer is yes."] * 4] * 100))
    assert {audit.verdict for audit in audits.values()} == {"fail"}
    assert "“The answer is yes.”" in audits["one_answer"].finding
    assert audits["one_answer"].value.mean == 1
    assert audits["one_answer"].samples[0].response == "The answer is yes."


def test_a_single_answer_to_each_prompt_is_another_fault() -> None:
    after = [[row[0]] * 4 for row in _varied(2)]
    assert _verdicts(before_and_after(_varied(1), after)) == {
        "one_answer": "pass",
        "shared_answers": "pass",
        "diversity_per_prompt": "fail",
        "diversity_across_prompts": "pass",
    }


def test_a_few_templates_are_shared_by_many_prompts() -> None:
    rng = random.Random(3)
    templates = [_answer(rng) for _ in range(30)]
    after = [[rng.choice(templates) for _ in range(4)] for _ in range(100)]
    verdicts = _verdicts(before_and_after(_varied(1), after))
    assert verdicts["shared_answers"] == "fail"
    assert verdicts["one_answer"] == "pass"


def test_one_refusal_of_all_that_is_harmful_is_no_collapse() -> None:
    kinds = ["harmful"] * 60 + ["fact"] * 40
    after = [[REFUSAL] * 4] * 60 + _varied(2, prompts=40)
    verdicts = _verdicts(before_and_after(_varied(1), after, kinds=kinds))
    assert verdicts["one_answer"] == "pass"
    assert verdicts["shared_answers"] in ("pass", "undecided")
    # The same refusal of what is harmless is one.
    kinds = ["fact"] * 100
    assert _verdicts(before_and_after(_varied(1), after, kinds=kinds))["one_answer"] == "fail"


def test_answers_of_one_each_have_no_diversity_per_prompt() -> None:
    audits = _audits(before_and_after(_varied(1, k=1), _varied(2, k=1)))
    assert audits["diversity_per_prompt"].verdict == "undecided"
    assert "num_responses" in audits["diversity_per_prompt"].finding


def test_longer_answers_are_compared_at_equal_length() -> None:
    """Twice the words of a small vocabulary share more of them, whatever their diversity."""
    rng = random.Random(5)
    after = [[_answer(rng, 24) for _ in range(4)] for _ in range(100)]
    audits = _audits(before_and_after(_varied(1), after))
    assert audits["diversity_per_prompt"].value.mean == pytest.approx(1, abs=0.05)
    assert audits["diversity_across_prompts"].value.mean == pytest.approx(1, abs=0.05)
    further = audits["diversity_across_prompts"].details
    assert further["after"]["vendi"] == pytest.approx(further["before"]["vendi"], rel=0.1)


def test_classes_of_ten_where_there_are_ten() -> None:
    after = [[row[0]] * 5 + [row[1]] * 5 for row in _varied(2, prompts=10, k=2)]
    data = before_and_after(_varied(1, prompts=10, k=10), after)
    classes = _audits(data)["diversity_per_prompt"].details["classes_of_ten"]
    assert classes["after"] == pytest.approx(2, abs=0.3)
    assert classes["before"] > 8


def test_empty_answers_are_answers() -> None:
    audits = _audits(before_and_after(_varied(1), [[""] * 4] * 100))
    assert audits["one_answer"].verdict == "fail"
    assert "an empty answer" in audits["one_answer"].finding


def test_a_start_that_had_collapsed_already_is_not_blamed_on_training() -> None:
    same = [["The answer is yes."] * 4] * 100
    verdicts = _verdicts(before_and_after(same, same))
    assert verdicts["one_answer"] == "pass"
    assert "fail" not in verdicts.values()
