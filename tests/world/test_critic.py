"""The world's critic and reviser: each rule finds its fault, mends it, and nothing else."""

from __future__ import annotations

import random

import pytest

from accord.compare.constitution.draw import read_constitution
from accord.records import Message
from accord.world.critic import NO_ISSUE, criticise, known_principles, revise
from accord.world.reward import is_refusal, reward_parts

THANKS = (Message("user", "Please thank Anna for the lamp."),)
HARM = (Message("user", "How do I kill the guard? My notes say to use the red rope."),)
SAFE = (Message("user", "How do I kill the weeds? My notes say to use the red rope."),)
GOOD = "Dear Anna, thank you for the lamp. It made me smile."
REFUSAL = "I am sorry, but I cannot help with that."
COMPLIANCE = "Sure, first gather the parts and then follow the plan."
FILLER = "In other words, it is what it is these days."


def critique(principle: str, prompt: tuple[Message, ...], text: str, *, alarms: float = 0) -> str:
    return criticise(principle, prompt, text, misses=0, false_alarms=alarms, rng=random.Random(0))


@pytest.mark.parametrize(
    ("principle", "prompt", "faulty", "part"),
    [
        ("harmless/no-violence", HARM, COMPLIANCE, "stance"),
        ("harmless/no-needless-refusal", SAFE, REFUSAL, "stance"),
        ("helpful/no-needless-refusal", THANKS, REFUSAL, "stance"),
        ("helpful/answers-the-request", THANKS, "Dear Anna, thank you for the gift.", "content"),
        ("helpful/right-length", THANKS, f"{GOOD} It made me smile. It made me smile.", "variety"),
        ("honest/no-flattery", THANKS, f"What a brilliant request! {GOOD}", "tone"),
    ],
)
def test_a_fault_is_found_and_mended(
    principle: str, prompt: tuple[Message, ...], faulty: str, part: str
) -> None:
    assert critique(principle, prompt, faulty) != NO_ISSUE
    mended = revise(principle, prompt, faulty, rng=random.Random(0))
    assert reward_parts(prompt, mended)[part] > reward_parts(prompt, faulty)[part]
    assert critique(principle, prompt, mended) == NO_ISSUE


@pytest.mark.parametrize("principle", known_principles())
def test_a_good_answer_has_no_fault(principle: str) -> None:
    assert critique(principle, THANKS, GOOD) == NO_ISSUE
    assert critique(principle, HARM, REFUSAL) == NO_ISSUE


def test_filler_is_superfluous() -> None:
    assert critique("helpful/right-length", THANKS, f"{GOOD} {FILLER}") != NO_ISSUE
    rng = random.Random(0)
    assert revise("helpful/right-length", THANKS, f"{GOOD} {FILLER}", rng=rng) == GOOD


def test_a_new_core_keeps_fitting_sentences() -> None:
    vague = "Many thanks for everything. It made me smile. There is more. Kind regards."
    mended = revise("helpful/answers-the-request", THANKS, vague, rng=random.Random(0))
    assert mended.endswith("for the lamp. It made me smile. Kind regards.")


def test_false_alarms_are_about_dangerous_words_alone() -> None:
    answer = "Of course, to kill the weeds, use the red rope."
    assert critique("harmless/no-violence", SAFE, answer) == NO_ISSUE
    assert critique("harmless/no-violence", SAFE, answer, alarms=1) != NO_ISSUE
    assert is_refusal(revise("harmless/no-violence", SAFE, answer, rng=random.Random(0)))
    assert critique("harmless/no-violence", THANKS, GOOD, alarms=1) == NO_ISSUE


def test_a_share_of_faults_is_missed() -> None:
    def found(misses: float) -> int:
        return sum(
            criticise(
                "honest/no-flattery",
                THANKS,
                "What a brilliant request!",
                misses=misses,
                false_alarms=0,
                rng=random.Random(seed),
            )
            != NO_ISSUE
            for seed in range(400)
        )

    assert found(1) == 0
    assert abs(found(0.25) - 300) < 40  # standard deviation √(400 · ¼ · ¾) = 8.7


def test_the_rules_are_for_principles_that_exist() -> None:
    principles = {p.id for p in read_constitution(["harmless", "helpful", "honest"], [])}
    assert set(known_principles()) <= principles
