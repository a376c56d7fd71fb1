"""The embedded world as a table of texts, for experiments that need no network and take seconds.

As `answer_table`, with the answers themselves: to each prompt the world's demonstrators write M
answers, and a policy is a distribution over them. A log-linear policy, softmax of weights times
features, learns from one prompt what holds for others.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from accord.world.build import distinct_tasks
from accord.world.demonstrations import demonstrate
from accord.world.language import split_words
from accord.world.reward import true_reward
from accord.world.tasks import Task


@dataclass(frozen=True)
class TextTable:
    """Prompts and answers: `rewards` and `words` (P, M) are true rewards in [0, 1] and lengths,
    `features` (P, M, D) describe the words."""

    tasks: list[Task]
    texts: list[list[str]]
    rewards: Tensor
    words: Tensor
    features: Tensor


@cache
def text_table(
    prompts: int, answers: int, seed: int, *, features: int = 0, foreign: int = 0
) -> TextTable:
    """A table of a seed. Features are whether each of so many frequent words is in the answer, its
    length, and the share of its words that are in the prompt, standardised. `foreign` of the
    answers are demonstrators' answers to other prompts."""
    rng = random.Random(seed)
    tasks = distinct_tasks(rng, prompts, "train_prompts")
    texts = [
        [
            demonstrate(t if i < answers - foreign else rng.choice(tasks), rng)
            for i in range(answers)
        ]
        for t in tasks
    ]
    rewards = [
        [true_reward(t.prompt, text) for text in row] for t, row in zip(tasks, texts, strict=True)
    ]
    split = [[split_words(text) for text in row] for row in texts]
    lengths = torch.tensor([[float(len(words)) for words in row] for row in split])
    return TextTable(
        tasks, texts, torch.tensor(rewards), lengths, _features(tasks, split, features)
    )


def _features(tasks: Sequence[Task], split: list[list[list[str]]], count: int) -> Tensor:
    if not count:
        return torch.zeros(len(tasks), len(split[0]), 0)
    counts = Counter(word for row in split for words in row for word in set(words))
    frequent = [w for w, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))][:count]
    rows = []
    for task, row in zip(tasks, split, strict=True):
        asked = set(split_words(task.text))
        for words in row:
            overlap = sum(word in asked for word in words) / max(1, len(words))
            rows.append([float(w in words) for w in frequent] + [len(words), overlap])
    table = torch.tensor(rows)
    table = (table - table.mean(0)) / table.std(0).clamp(min=1e-6)
    return table.view(len(tasks), len(split[0]), -1)


def fit(loss: Callable[[Tensor], Tensor], start: Tensor, *, steps: int, rate: float) -> Tensor:
    """The weights that Adam reaches from `start` on a loss of the weights."""
    weights = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=rate)
    for _ in range(steps):
        optimiser.zero_grad()
        loss(weights).backward()
        optimiser.step()
    return weights.detach()


def draw_answers(policy: Tensor, count: int, seed: int) -> Tensor:
    """Indices (P, count) of answers drawn from a policy (P, M)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(policy, count, replacement=True, generator=generator)
