"""Diversity of texts, and mode collapse.

A token is a lower-cased word (what white space separates), or a character of a script that writes
without spaces: Chinese, Japanese, Thai, Lao, Khmer and Burmese.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Ngram = tuple[str, ...]
Features = frozenset[Ngram]
MAX_PAIRS = 20_000
COLLAPSED_SHARE = 0.5
"""One answer to at least this share of the prompts is a collapse."""


_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana, Han
    "\U00020000-\U0003ffff"  # Han, supplementary planes
)
_JOINED = re.compile(rf"[{_UNSPACED}\u3000-\u303f\uff00-\uff65]+")  # with their punctuation
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The tokens of a text."""
    lowered = text.lower()
    return lowered.split() if lowered.isascii() else _TOKEN.findall(lowered)


def written(tokens: Sequence[str]) -> str:
    """Tokens as text, without spaces between the characters of scripts that have none."""
    text = ""
    for left, token in zip(("", *tokens), tokens, strict=False):
        joins = not left or bool(_JOINED.fullmatch(left) and _JOINED.fullmatch(token))
        text += token if joins else f" {token}"
    return text


def ngrams(tokens: Sequence[str], n: int) -> list[Ngram]:
    """The n-grams of a text in order; none where it has fewer than n tokens."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct_n(texts: Sequence[str], n: int = 2, *, tokens: int | None = None) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016); NaN where there are none.

    It falls as the amount of text grows, so texts are comparable only at an equal count: `tokens`
    cuts the texts, in their order, after this total number of words.
    """
    grams = [gram for text in _truncate(texts, tokens) for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else math.nan


def expectation_adjusted_distinct(texts: Sequence[str], n: int = 1, *, vocabulary: int) -> float:
    """EAD = N / (V·(1 − ((V−1)/V)^C)) (Liu et al. 2022, eq. 2): the N distinct n-grams over the
    number expected of C draws from V equally likely ones. It does not shrink with length.

    NaN where there are no n-grams; `vocabulary` is V, the possible n-grams, at least 1.
    """
    if vocabulary < 1:
        raise ValueError(f"a vocabulary of {vocabulary} has nothing to draw from")
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    if not grams:
        return math.nan
    # 1 − (1 − 1/V)^C without losing the digits of a large V
    drawn = -math.expm1(len(grams) * math.log1p(-1 / vocabulary)) if vocabulary > 1 else 1.0
    return len(set(grams)) / (vocabulary * drawn)


def compression_ratio(texts: Sequence[str]) -> float:
    """Bytes over DEFLATE-compressed bytes of the texts, one per line; higher is more repetitive.

    Shaib et al. 2024 find it as informative as slower measures. NaN without text.
    """
    raw = "\n".join(texts).encode()
    return len(raw) / len(zlib.compress(raw, 9)) if raw else math.nan


def self_bleu(texts: Sequence[str], *, max_n: int = 4) -> float:
    """Mean BLEU of each text against all others (Zhu et al. 2018); 1 is no diversity at all.

    BLEU as by Papineni et al. 2002 with clipped counts and a brevity penalty; orders for which a
    text is too short are left out, and a text without a shared n-gram of some order scores 0.
    Linear in the amount of text. NaN with fewer than two texts that have words.
    """
    tokens = [split for text in texts if (split := words(text))]
    if len(tokens) < 2:
        return math.nan
    counts = [[Counter(ngrams(t, n)) for t in tokens] for n in range(1, max_n + 1)]
    leaders = [_two_highest(order) for order in counts]
    length_counts = Counter(len(t) for t in tokens)
    scores = []
    for i, length in enumerate(len(t) for t in tokens):
        precisions = []
        for order, top in zip(counts, leaders, strict=True):
            total = sum(order[i].values())
            if total:
                clipped = sum(min(c, _highest_elsewhere(top[g], i)) for g, c in order[i].items())
                precisions.append(clipped / total)
        penalty = _brevity_penalty(length, length_counts)
        scores.append(penalty * _geometric_mean(precisions))
    return sum(scores) / len(scores)


def duplicate_share(texts: Sequence[str]) -> float:
    """The share of texts that repeat an earlier one exactly (but for space at the ends).

    NaN without texts.
    """
    if not texts:
        return math.nan
    return 1 - len({text.strip() for text in texts}) / len(texts)


def pairwise_distance(a: str, b: str) -> float:
    """1 less the share of words and word pairs that two texts have in common (Jaccard 1912).

    0 for texts with the same words and pairs, 1 where they share none.
    """
    return feature_distance(features(a), features(b))


def features(text: str) -> Features:
    """The words and word pairs of a text, which `pairwise_distance` compares."""
    tokens = words(text)
    return frozenset(ngrams(tokens, 1) + ngrams(tokens, 2))


def feature_distance(a: Features, b: Features) -> float:
    """`pairwise_distance` of two texts from their features, for texts compared more than once."""
    union = len(a | b)
    return 1 - len(a & b) / union if union else 0.0


def diversity_per_prompt(texts_by_prompt: Sequence[Sequence[str]]) -> float:
    """Mean distance between responses to the same prompt, averaged over prompts; NaN where no
    prompt has two.

    One of the two diversities of Kirk et al. 2023: how many answers a model has to one question.
    Unlike distinct-n it does not depend on how many responses there are.
    """
    means = []
    for texts in texts_by_prompt:
        sets = [features(text) for text in texts]
        if len(sets) > 1:
            pairs = list(_pairs(len(sets)))
            means.append(sum(feature_distance(sets[i], sets[j]) for i, j in pairs) / len(pairs))
    return sum(means) / len(means) if means else math.nan


def diversity_across_prompts(texts_by_prompt: Sequence[Sequence[str]]) -> float:
    """Mean distance between the first responses to different prompts; NaN with fewer than two.

    The other diversity of Kirk et al. 2023: whether different questions get different answers.
    """
    sets = [features(texts[0]) for texts in texts_by_prompt if texts]
    pairs = list(_pairs(len(sets)))
    if not pairs:
        return math.nan
    return sum(feature_distance(sets[i], sets[j]) for i, j in pairs) / len(pairs)


@dataclass(frozen=True, slots=True)
class Collapse:
    """Whether a model gives one answer to everything. `answer` is the commonest answer, and `share`
    the share of the prompts that get it."""

    collapsed: bool
    share: float
    answer: str
    finding: str


def collapse(texts_by_prompt: Sequence[Sequence[str]]) -> Collapse:
    """Search for one answer to every prompt, by exact words in lower case.

    Each of K responses to a prompt counts 1/K. An empty answer counts as an answer.
    """
    weights: Counter[str] = Counter()
    for texts in texts_by_prompt:
        for text in texts:
            weights[" ".join(words(text))] += 1 / len(texts)  # type: ignore[assignment]
    prompts = sum(1 for texts in texts_by_prompt if texts)
    if not prompts:
        return Collapse(False, math.nan, "", "There are no answers.")
    answer, weight = max(weights.items(), key=lambda item: (item[1], item[0]))
    share = min(1.0, weight / prompts)
    quoted = f"“{answer[:80]}{'…' if len(answer) > 80 else ''}”" if answer else "nothing at all"
    if share >= COLLAPSED_SHARE and prompts > 1:
        finding = f"It has collapsed: {share:.0%} of its answers to {prompts} prompts are {quoted}."
        return Collapse(True, share, answer, finding)
    finding = f"No collapse: its commonest answer makes up {share:.0%} of {prompts} prompts."
    return Collapse(False, share, answer, finding)


def _truncate(texts: Sequence[str], limit: int | None) -> Iterator[list[str]]:
    left = limit
    for text in texts:
        tokens = words(text)
        yield tokens if left is None else tokens[:left]
        if left is not None:
            left = max(0, left - len(tokens))


def _pairs(count: int) -> Iterator[tuple[int, int]]:
    """All pairs, or a fixed sample of MAX_PAIRS of them where there are more."""
    total = count * (count - 1) // 2
    if total <= MAX_PAIRS:
        yield from combinations(range(count), 2)
        return
    rng = np.random.default_rng(0)
    for first, offset in zip(
        rng.integers(0, count, MAX_PAIRS).tolist(),
        rng.integers(1, count, MAX_PAIRS).tolist(),
        strict=True,
    ):
        yield first, (first + offset) % count


def _two_highest(counts: Sequence[Counter[Ngram]]) -> dict[Ngram, tuple[int, int, int]]:
    """For each n-gram: its highest count in a text, that text's index, and the highest count in the
    other texts."""
    top: dict[Ngram, tuple[int, int, int]] = {}
    for i, counter in enumerate(counts):
        for gram, count in counter.items():
            best, owner, second = top.get(gram, (0, -1, 0))
            if count > best:
                top[gram] = (count, i, best)
            elif count > second:
                top[gram] = (best, owner, count)
    return top


def _highest_elsewhere(leader: tuple[int, int, int], text: int) -> int:
    best, owner, second = leader
    return second if owner == text else best


def _brevity_penalty(length: int, length_counts: Counter[int]) -> float:
    """Against the other text closest in length; `length_counts` includes this text."""
    lengths = [n for n, count in length_counts.items() if n != length or count > 1]
    closest = min(lengths, key=lambda n: (abs(n - length), n))
    return 1.0 if length >= closest else math.exp(1 - closest / length)


def _geometric_mean(values: Sequence[float]) -> float:
    if not values or min(values) == 0:
        return 0.0
    return math.exp(sum(math.log(value) for value in values) / len(values))
