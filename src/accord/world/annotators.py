"""Simulated annotators: Bradley-Terry noise on a reward, and flaws planted in it."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence

from accord.errors import RequestError
from accord.records import Prompt, ranks_from_scores
from accord.settings.rewards import FlawSettings
from accord.world.language import split_words
from accord.world.reward import flatters, is_refusal, true_reward


def simulated_preference(
    rewards: Sequence[float], *, noise: float, rng: random.Random
) -> tuple[int, ...]:
    """The rank of each response (0 is best) by an annotator with this noise.

    A ranking is drawn from the Plackett-Luce model with logits reward / noise (Plackett 1975; of
    two responses the first wins with probability sigmoid((r_1 - r_2) / noise), Bradley and Terry
    1952), by sorting logits with Gumbel noise added (Yellott 1977). Without noise the ranking is
    exact, and equal rewards share a rank: the number of better responses.

    Raises RequestError when the noise is negative.
    """
    if noise < 0:
        raise RequestError(f"The annotators' noise is {noise}; it is a scale of at least 0.")
    if noise == 0:
        return ranks_from_scores(rewards)
    scores = [reward / noise + _gumbel(rng) for reward in rewards]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    ranks = [0] * len(scores)
    for rank, index in enumerate(order):
        ranks[index] = rank
    return tuple(ranks)


def perceived_reward(prompt: Prompt, response: str, flaws: FlawSettings) -> float:
    """The true reward with the planted flaws of the annotators, not clipped.

    = true reward + length · words / 10 + flattery · [it flatters] + refusal · [it refuses].
    Raises DataError when the world did not write the prompt.
    """
    return (
        true_reward(prompt, response)
        + flaws.length * len(split_words(response)) / 10
        + flaws.flattery * flatters(response)
        + flaws.refusal * is_refusal(response)
    )


def _gumbel(rng: random.Random) -> float:
    """A standard Gumbel variate: −log of a standard exponential one."""
    return -math.log(max(rng.expovariate(1.0), sys.float_info.min))
