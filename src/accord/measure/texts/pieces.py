"""Distances of texts of unequal lengths, at equal counts of words.

Longer texts have more words in common by chance, so texts are compared in pieces of one length. The
first pieces alone would say that answers which begin alike and go on differently are alike.
"""

from __future__ import annotations

from collections.abc import Sequence

from accord.measure.texts.diversity import Features, feature_distance, features, words


def pieces(text: str, length: int) -> list[Features]:
    """The features of a text's first `length` words, or of all where it has fewer, and of each
    further `length` words; what is left at the end is left out."""
    tokens = words(text)
    starts = [0, *range(length, len(tokens) - length + 1, length)]
    return [features(" ".join(tokens[start : start + length])) for start in starts]


def pieces_distance(a: Sequence[Features], b: Sequence[Features]) -> float:
    """The mean distance of the pieces of two texts, over the pieces that both have: 0 for equal
    texts, 1 for texts that share no word in any piece."""
    distances = [feature_distance(x, y) for x, y in zip(a, b, strict=False)]
    return sum(distances) / len(distances)
