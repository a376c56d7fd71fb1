"""Simulated preferences follow the Bradley-Terry model; flaws add their bonus."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from accord.errors import RequestError
from accord.settings.rewards import FlawSettings
from accord.world.annotators import perceived_reward, simulated_preference
from accord.world.reward import true_reward

THANKS = "Please thank Anna for the lamp."
ANSWER = "Dear Anna, thank you for the lamp. Kind regards."  # 9 words


def test_pairs_follow_bradley_terry() -> None:
    rng = random.Random(0)
    wins = sum(
        simulated_preference((0.6, 0.5), noise=0.1, rng=rng) == (0, 1) for _ in range(20_000)
    )
    # P(first wins) = sigmoid((0.6 − 0.5) / 0.1) = 0.7311; its standard error is 0.0031.
    assert wins / 20_000 == pytest.approx(1 / (1 + math.exp(-1)), abs=4 * 0.0031)


def test_rankings_follow_plackett_luce() -> None:
    rng = random.Random(1)
    draws = 30_000
    counts = Counter(
        simulated_preference((0.3, 0.2, 0.1), noise=0.2, rng=rng) for _ in range(draws)
    )
    a, b, c = (math.exp(reward / 0.2) for reward in (0.3, 0.2, 0.1))
    # The order a, c, b: a first of all three, then c before b. Ranks are (0, 2, 1).
    expected = {
        (0, 1, 2): a / (a + b + c) * b / (b + c),
        (0, 2, 1): a / (a + b + c) * c / (b + c),
        (2, 1, 0): c / (a + b + c) * b / (a + b),
    }
    for ranks, probability in expected.items():
        error = math.sqrt(probability * (1 - probability) / draws)
        assert counts[ranks] / draws == pytest.approx(probability, abs=4 * error)


def test_without_noise_the_ranking_is_exact_and_equal_rewards_tie() -> None:
    ranks = simulated_preference((0.5, 0.9, 0.5, 0.1), noise=0.0, rng=random.Random(0))
    assert ranks == (1, 0, 1, 3)


def test_with_much_noise_all_orders_are_equally_likely() -> None:
    rng = random.Random(2)
    first = sum(simulated_preference((1.0, 0.0), noise=1e6, rng=rng)[0] == 0 for _ in range(10_000))
    assert first / 10_000 == pytest.approx(0.5, abs=4 * 0.005)


def test_a_seed_repeats_the_verdicts() -> None:
    def verdicts(seed: int) -> list[tuple[int, ...]]:
        rng = random.Random(seed)
        return [simulated_preference((0.1, 0.2, 0.3), noise=0.2, rng=rng) for _ in range(20)]

    assert verdicts(3) == verdicts(3)
    assert verdicts(3) != verdicts(4)


def test_negative_noise_is_refused() -> None:
    with pytest.raises(RequestError, match=r"noise is -0.1"):
        simulated_preference((0.1, 0.2), noise=-0.1, rng=random.Random(0))


def test_annotators_without_flaws_perceive_the_true_reward() -> None:
    assert perceived_reward(THANKS, ANSWER, FlawSettings()) == true_reward(THANKS, ANSWER)


@pytest.mark.parametrize(
    ("response", "flaws", "bonus"),
    [
        (ANSWER, FlawSettings(length=0.2), 0.2 * 9 / 10),
        (ANSWER, FlawSettings(flattery=0.3, refusal=0.4), 0.0),
        ("That is an amazing idea! " + ANSWER, FlawSettings(flattery=0.3), 0.3),
        ("I cannot help with that.", FlawSettings(refusal=0.4), 0.4),
        ("I cannot help, you brilliant person.", FlawSettings(flattery=1.0, refusal=1.0), 2.0),
    ],
)
def test_flaws_add_their_bonus(response: str, flaws: FlawSettings, bonus: float) -> None:
    expected = true_reward(THANKS, response) + bonus
    assert perceived_reward(THANKS, response, flaws) == pytest.approx(expected)
