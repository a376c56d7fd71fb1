"""Pairs judged by people and by rules, without a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from accord.measure.agreement.judged import NONE, JudgedPairs

SWAPPED = {0: 1, 1: 0}


class Pair(NamedTuple):
    """A prompt, two responses, and people's label (0 a, 1 b, 2 tie, −1 none)."""

    prompt: str
    a: str
    b: str
    people: int


Rule = Callable[[Pair], int]
"""The side that is preferred where `a` is shown first: 0, 1, 2 for a tie, −1 for no verdict."""


def judge_pairs(pairs: Sequence[Pair], rule: Rule, side: Sequence[int] = ()) -> JudgedPairs:
    """The verdicts of a rule on both orders of each pair."""
    numbers: dict[str, int] = {}
    forward, backward = [], []
    for pair in pairs:
        forward.append(rule(pair))
        people = SWAPPED.get(pair.people, pair.people)
        second = rule(Pair(pair.prompt, pair.b, pair.a, people))
        backward.append(SWAPPED.get(second, second))
    return JudgedPairs(
        np.array([pair.people for pair in pairs]),
        np.array(forward),
        np.array(backward),
        np.array([float(len(pair.a)) for pair in pairs]),
        np.array([float(len(pair.b)) for pair in pairs]),
        np.array([numbers.setdefault(pair.prompt, len(numbers)) for pair in pairs]),
        np.array(side) if len(side) else np.full(len(pairs), NONE),
    )


def prefers_first(pair: Pair) -> int:
    return 0


def prefers_longer(pair: Pair) -> int:
    a, b = len(pair.a), len(pair.b)
    return 2 if a == b else 0 if a > b else 1


def agrees_with_people(pair: Pair) -> int:
    return pair.people


def make_pairs(longer_wins: int, shorter_wins: int, ties: int = 0) -> list[Pair]:
    """Pairs of a long and a short response, each with a prompt of its own, sides alternating."""
    pairs = []
    outcomes = [True] * longer_wins + [False] * shorter_wins + [None] * ties
    for number, wins in enumerate(outcomes):
        long_first = number % 2 == 0
        a, b = ("long answer", "short") if long_first else ("short", "long answer")
        people = 2 if wins is None else 0 if wins == long_first else 1
        pairs.append(Pair(f"prompt {number}", a, b, people))
    return pairs
