"""How many really different answers there are among several to one prompt, and how uneven words
are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from accord.measure.texts.diversity import Features, feature_distance, features, words

DRAWN = 10
SAME_CLASS = 0.5
"""Texts nearer than this (by `pairwise_distance`) to a class's first are of that class."""


def class_sizes(texts: Sequence[str]) -> list[int]:
    """The sizes of the classes of texts that resemble each other, in order of first appearance."""
    firsts: list[Features] = []
    sizes: list[int] = []
    for content in map(features, texts):
        for i, first in enumerate(firsts):
            if feature_distance(content, first) < SAME_CLASS:
                sizes[i] += 1
                break
        else:
            firsts.append(content)
            sizes.append(1)
    return sizes


def expected_classes(sizes: Sequence[int], drawn: int = DRAWN) -> float:
    """The expected number of classes among `drawn` texts, drawn without replacement: Σ over classes
    of 1 − C(n − nᵢ, m)/C(n, m) (Hurlbert 1971, eq. 4).

    NaN where there are fewer texts than are drawn: that number can't be known from fewer.
    """
    total = sum(sizes)
    if total < drawn:
        return math.nan
    all_draws = math.comb(total, drawn)
    return sum(1 - math.comb(total - size, drawn) / all_draws for size in sizes)


def word_entropy(texts: Sequence[str], *, tokens: int | None = None) -> float:
    """The entropy of the words' distribution in nats, over the first `tokens` words of all texts;
    NaN without words. It grows with the amount of text: compare equal amounts."""
    flat = [word for text in texts for word in words(text)][:tokens]
    counts = Counter(flat)
    return (
        math.nan
        if not flat
        else -sum(n / len(flat) * math.log(n / len(flat)) for n in counts.values())
    )
