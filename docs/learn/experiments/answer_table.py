"""The embedded world as a table, for experiments that need no network and take seconds.

To each of P prompts the world's demonstrators write M answers, which stand for all that can be
said. A policy is a distribution over these M answers, and every expectation an exact sum. The
uniform distribution is what perfect supervised fine-tuning on the demonstrations would reach.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from accord.measure.statistics import Interval, mean_interval
from accord.world.annotators import simulated_preference
from accord.world.build import distinct_tasks
from accord.world.demonstrations import demonstrate
from accord.world.language import split_words
from accord.world.reward import true_reward


@dataclass(frozen=True)
class AnswerTable:
    """`rewards` (P, M) are true rewards in [0, 1], `features` (P, M, D) describe the words."""

    rewards: Tensor
    features: Tensor


def answer_table(prompts: int, answers: int, seed: int, *, words: int = 0) -> AnswerTable:
    """A table of a seed; with `words`, features are whether each of so many frequent words is in
    the answer, its length, and the share of its words that are in the prompt, all standardised."""
    rng = random.Random(seed)
    tasks = distinct_tasks(rng, prompts, "train_prompts")
    texts = [[demonstrate(task, rng) for _ in range(answers)] for task in tasks]
    rewards = torch.tensor(
        [[true_reward(t.prompt, y) for y in row] for t, row in zip(tasks, texts, strict=True)]
    )
    if not words:
        return AnswerTable(rewards, rewards.new_zeros(prompts, answers, 0))
    split = [[split_words(y) for y in row] for row in texts]
    counts = Counter(word for row in split for y in row for word in set(y))
    frequent = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]
    rows = []
    for task, row in zip(tasks, split, strict=True):
        asked = set(split_words(task.text))
        for y in row:
            overlap = sum(word in asked for word in y) / max(1, len(y))
            rows.append([float(word in y) for word in frequent[:words]] + [len(y), overlap])
    features = torch.tensor(rows)
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-6)
    return AnswerTable(rewards, features.view(prompts, answers, -1))


def judged_pairs(
    rewards: Tensor, pairs: int, *, noise: float = 0.1, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Indices of chosen and rejected answers, each (P, pairs): of every prompt so many pairs
    without a common answer, each judged once by a simulated annotator."""
    rng = random.Random(seed)
    rows = []
    for row in rewards.tolist():
        drawn = rng.sample(range(len(row)), 2 * pairs)
        for a, b in zip(drawn[::2], drawn[1::2], strict=True):
            ranks = simulated_preference((row[a], row[b]), noise=noise, rng=rng)
            rows.append((a, b) if ranks[0] == 0 else (b, a))
    both = torch.tensor(rows).view(len(rewards), pairs, 2)
    return both[..., 0], both[..., 1]


def expected(policy: Tensor, values: Tensor) -> float:
    """Mean over prompts of the expectation of values (P, M) under a policy (P, M)."""
    return float((policy * values).sum(1).mean())


def kl(policy: Tensor, other: Tensor) -> float:
    """Mean over prompts of KL(policy‖other), in nats; both (P, M)."""
    ratio = (policy / other).clamp(min=1e-30).log()
    return float((policy * ratio).sum(1).mean())


def shown(values: Sequence[float], digits: int = 3) -> str:
    """The mean of one value per seed, with the half-width of its 95% interval (Student's t)."""
    interval = mean_interval(values)
    half = "" if interval.high is None else f" ± {interval.high - interval.mean:.{digits}f}"
    return f"{interval.mean:.{digits}f}{half}"


def half_width(interval: Interval) -> float:
    """What is after the ± of an interval that is as wide on both sides."""
    return (interval.high or interval.mean) - interval.mean
