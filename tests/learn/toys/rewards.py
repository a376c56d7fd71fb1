"""Rewards that are functions of a response's text, written as numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any


def length_reward(
    prompts: Sequence[Any], texts: Sequence[str], finished: Sequence[bool] | None = None
) -> list[float]:
    """The number of tokens, modulo 4."""
    return [float(len(text.split()) % 4) for text in texts]


def digits_reward(
    prompts: Sequence[Any], texts: Sequence[str], finished: Sequence[bool] | None = None
) -> list[float]:
    """A hash of the tokens, in [0, 3): any two responses differ, all but surely."""
    rows = (enumerate(text.split(), 1) for text in texts)
    return [sum((int(t) * 0.37**i for i, t in tokens), 0.0) % 3 for tokens in rows]


class EqualReward:
    """`digits_reward`, but equal for all responses to some prompts."""

    def __init__(self, *equal_prompts: str) -> None:
        self.equal_prompts = equal_prompts

    def __call__(
        self, prompts: Sequence[Any], texts: Sequence[str], finished: Any = None
    ) -> list[float]:
        scores = digits_reward(prompts, texts)
        return [
            1.0 if prompt in self.equal_prompts else score
            for prompt, score in zip(prompts, scores, strict=True)
        ]


class InfiniteReward:
    """`length_reward`, but infinite in some calls, which are counted from 0."""

    def __init__(self, *infinite_calls: int) -> None:
        self.infinite_calls, self.num_calls = infinite_calls, 0

    def __call__(self, prompts: Any, texts: Sequence[str], finished: Any = None) -> list[float]:
        self.num_calls += 1
        if self.num_calls - 1 in self.infinite_calls:
            return [math.inf] * len(texts)
        return length_reward(prompts, texts)
