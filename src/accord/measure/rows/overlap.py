"""Texts of evaluation sets that occur in rows, by n-grams of words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from accord.measure.rows.words import Hashes, Words, combine, hash_words, n_grams

N = 8
LEAST_SHARE = 0.5  # of a text's 8-grams that a row has to hold,
LEAST_GRAMS = 5  # and at least as many, or all: shared turns of phrase are no overlap
_LEAST_WORDS = 4  # of a text that counts wherever it occurs; a shorter one has to be the whole row


@dataclass(frozen=True, slots=True)
class EvaluationTexts:
    """The n-grams of evaluation prompts, by their length n: `hashes` [G] in order, and the index
    of the prompt that each belongs to. `needed` [T] is the number that a row has to hold."""

    grams: dict[int, tuple[Hashes, NDArray[np.int64]]] = field(default_factory=dict)
    needed: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))


def evaluation_texts(texts: Sequence[str]) -> EvaluationTexts:
    """What to look for. Half of a text's different 8-grams have to occur in a row (as in Tülu 3's
    decontamination, Lambert et al. 2024, §3.2); a text of up to 12 words has to occur whole."""
    words = hash_words(texts)
    counts = words.counts()
    needed = np.ones(len(texts), np.int64)
    by_length: dict[int, tuple[Hashes, NDArray[np.int64]]] = {}
    for n in np.unique(np.minimum(counts, N)).tolist():
        if n == 0:
            continue
        grams, starts = n_grams(words, n)
        owner = np.repeat(np.arange(len(texts)), np.diff(starts))
        of_length = np.minimum(counts, N)[owner] == n
        _, first = np.unique(combine(grams, owner.astype(np.uint64)), return_index=True)
        first = first[of_length[first]]
        if n == N:
            distinct = np.bincount(owner[first], minlength=len(texts))
            half = np.ceil(LEAST_SHARE * distinct).astype(np.int64)
            needed = np.where(counts >= N, np.minimum(distinct, np.maximum(half, LEAST_GRAMS)), 1)
        order = first[np.argsort(grams[first], kind="stable")]
        by_length[n] = (grams[order], owner[order])
    return EvaluationTexts(by_length, needed)


def overlaps(words: Words, evaluation: EvaluationTexts) -> list[tuple[int, int]]:
    """The texts of `words` that hold an evaluation text, each with the first that it holds."""
    counts = words.counts()
    matches: dict[int, int] = {}
    for n, (hashes, owners) in evaluation.grams.items():
        grams, starts = n_grams(words, n)
        text = np.repeat(np.arange(len(counts)), np.diff(starts))
        if n < _LEAST_WORDS:
            whole = counts[text] == n
            grams, text = grams[whole], text[whole]
        low = np.searchsorted(hashes, grams, side="left")
        high = np.searchsorted(hashes, grams, side="right")
        hits = np.flatnonzero(high > low)
        if not len(hits):
            continue
        repeats = high[hits] - low[hits]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        at = np.repeat(low[hits], repeats) + within
        found_in, owner = np.repeat(text[hits], repeats), owners[at]
        # Each n-gram of an evaluation text counts a single time in a row.
        distinct = np.unique(np.stack([found_in, owner, at], axis=1), axis=0)
        pairs, number = np.unique(distinct[:, :2], axis=0, return_counts=True)
        for row, item in pairs[number >= evaluation.needed[pairs[:, 1]]].tolist():
            matches[row] = min(item, matches.get(row, item))
    return sorted(matches.items())
