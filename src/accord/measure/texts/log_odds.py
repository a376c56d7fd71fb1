"""Words and phrases that one set of texts uses more than another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from accord.measure.texts.diversity import ngrams, words

PRIOR_TOKENS = 1000.0
"""The prior counts as much text as this many n-grams of the two sets together."""
MIN_TEXTS = 3
"""A phrase that fewer of the texts hold is left out."""


@dataclass(frozen=True, slots=True)
class RisenPhrase:
    """A word or phrase, its z-score, and the shares of texts before and after that hold it."""

    phrase: str
    z: float
    share_before: float
    share_after: float


def risen_phrases(
    before: Sequence[str],
    after: Sequence[str],
    *,
    shortest: int = 1,
    longest: int = 4,
    limit: int = 10,
) -> list[RisenPhrase]:
    """The phrases of `shortest` to `longest` words whose use rose most, the highest z first.

    z is the log-odds ratio with an informative Dirichlet prior over its standard error (Monroe,
    Colaresi and Quinn 2008, eq. 16, 20 and 22), the prior being the two sets together. Of phrases
    within each other that the same share of texts holds, the longest is retained. z takes the words
    as independent, so it ranks phrases and proves nothing of one.
    """
    if not before or not after:
        return []
    ranked: list[RisenPhrase] = []
    for n in range(shortest, longest + 1):
        ranked += _of_length(before, after, n)
    ranked.sort(key=lambda phrase: (-phrase.z, -len(phrase.phrase), phrase.phrase))
    retained: list[RisenPhrase] = []
    for phrase in ranked:
        if len(retained) == limit:
            break
        if not any(_same(phrase, other) for other in retained):
            retained = [other for other in retained if not _same(other, phrase)]
            retained.append(phrase)
    return retained


def log_odds(
    y: float, n: float, y_other: float, n_other: float, prior: float, total: float
) -> float:
    """The z-score of one word: counts y of n and y_other of n_other, its prior count, and that of
    all words."""
    odds = (y + prior) / (n + total - y - prior)
    other = (y_other + prior) / (n_other + total - y_other - prior)
    return math.log(odds / other) / math.sqrt(1 / (y + prior) + 1 / (y_other + prior))


def _of_length(before: Sequence[str], after: Sequence[str], n: int) -> list[RisenPhrase]:
    counts: list[Counter[tuple[str, ...]]] = []
    holding: list[Counter[tuple[str, ...]]] = []
    for texts in (before, after):
        grams = [ngrams(words(text), n) for text in texts]
        counts.append(Counter(gram for text in grams for gram in text))
        holding.append(Counter(gram for text in grams for gram in set(text)))
    sizes = [sum(counter.values()) for counter in counts]
    both = counts[0] + counts[1]
    if not all(sizes) or len(both) < 2:
        return []
    scale = PRIOR_TOKENS / sum(sizes)
    return [
        RisenPhrase(
            " ".join(gram),
            log_odds(
                counts[1][gram],
                sizes[1],
                counts[0][gram],
                sizes[0],
                scale * both[gram],
                PRIOR_TOKENS,
            ),
            holding[0][gram] / len(before),
            holding[1][gram] / len(after),
        )
        for gram, texts in holding[1].items()
        if texts >= MIN_TEXTS and texts / len(after) > holding[0][gram] / len(before)
    ]


def _same(phrase: RisenPhrase, other: RisenPhrase) -> bool:
    """Whether a phrase is a part of another one that rose with it."""
    part, whole = f" {phrase.phrase} ", f" {other.phrase} "
    return part in whole and phrase.share_after < 1.25 * other.share_after
