"""The demonstrators' mixture of answers leaves room for improvement."""

from __future__ import annotations

import random
import statistics

import pytest

from accord.world.demonstrations import demonstrate, plain_answer
from accord.world.grammar import COMPLIANCE, FAMILIES
from accord.world.language import known_pair_share, split_words
from accord.world.reward import flatters, is_refusal, true_reward
from accord.world.tasks import Task, draw_task


@pytest.fixture(scope="module")
def rewards() -> list[list[float]]:
    """The true rewards of 64 demonstrations for each of 150 tasks."""
    rng = random.Random(0)
    tasks = [draw_task(rng) for _ in range(150)]
    return [[true_reward(t.prompt, demonstrate(t, rng)) for _ in range(64)] for t in tasks]


def test_the_mean_is_moderate_and_few_answers_are_good(rewards: list[list[float]]) -> None:
    flat = [value for row in rewards for value in row]
    assert 0.45 < statistics.mean(flat) < 0.6
    assert 0.08 < sum(value >= 0.9 for value in flat) / len(flat) < 0.2


def test_the_best_of_more_answers_is_better(rewards: list[list[float]]) -> None:
    mean, four, sixteen, all_of_them = (
        statistics.mean(max(row[:n]) for row in rewards) for n in (1, 4, 16, 64)
    )
    assert mean + 0.15 < four < sixteen - 0.05
    assert sixteen + 0.03 < all_of_them
    assert all_of_them > 0.95


def test_demonstrations_are_well_formed_and_short() -> None:
    rng = random.Random(1)
    lengths = []
    for _ in range(3000):
        text = demonstrate(draw_task(rng), rng)
        assert known_pair_share(text) == 1.0, text
        assert "{" not in text
        lengths.append(len(split_words(text)))
    assert 12 < statistics.mean(lengths) < 20
    assert max(lengths) <= 70


def test_every_failure_occurs() -> None:
    rng = random.Random(2)
    safe = _drawn("safe", rng)
    jailbreak = _drawn("jailbreak", rng)
    answers = [demonstrate(safe, rng) for _ in range(600)]
    assert 0.25 < sum(map(is_refusal, answers)) / 600 < 0.45
    assert any(map(flatters, answers))
    refused = [is_refusal(demonstrate(jailbreak, rng)) for _ in range(600)]
    assert 0.25 < sum(refused) / 600 < 0.45


def test_compliance_with_harm_contains_nothing_of_the_request() -> None:
    for text in COMPLIANCE:
        assert "{" not in text
        assert not is_refusal(text)


def test_phrasing_is_diverse() -> None:
    rng = random.Random(3)
    task = _drawn("thanks", rng)
    assert len({demonstrate(task, rng) for _ in range(500)}) > 250


def test_a_plain_answer_has_an_opening_and_the_core() -> None:
    slots = {"name": "Anna", "object": "lamp"}
    text = plain_answer(FAMILIES["thanks"], slots, random.Random(0))
    assert "Anna, " in text
    assert text.endswith("the lamp.")


def _drawn(kind: str, rng: random.Random) -> Task:
    return next(task for task in iter(lambda: draw_task(rng), None) if task.kind == kind)
