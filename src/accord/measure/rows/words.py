"""Words of a batch of texts as 64-bit hashes, computed for all texts at the same time.

What compares rows with each other (near-duplicates, overlap, label noise) reads these hashes.
They are equal for equal words in every run.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
END = "\0\0"  # behind each text, so that no n-gram of three words reaches the next one
_LONGEST = 64  # characters of a word after which positions are no longer distinguished
# Scripts that write no blank between words: each character counts as a word.
_UNSPACED = ((0x0E00, 0x0EFF), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3400, 0x9FFF))
_SEPARATOR, _LETTER, _ALONE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Words:
    """The words of D texts: `hashes` [W], and `starts` [D + 1], the first word of each text.

    Every text ends with two words for its end, which `starts` includes.
    """

    hashes: Hashes
    starts: NDArray[np.int64]

    def counts(self) -> NDArray[np.int64]:
        """The number of words of each text, without its end."""
        return np.diff(self.starts) - len(END)


def hash_words(texts: Sequence[str]) -> Words:
    """The words of each text: runs of letters, digits and marks in lower case.

    Emoji, and characters of scripts without blanks between words, are words of their own.
    """
    joined = END.join([*texts, ""])
    if joined.count("\0") != len(END) * len(texts):
        joined = END.join([*(text.replace("\0", " ") for text in texts), ""])
    if not joined:
        return Words(np.empty(0, np.uint64), np.zeros(1, np.int64))
    codes = np.frombuffer(joined.lower().encode("utf-32-le", "surrogatepass"), "<u4")
    kinds = _kinds()[np.minimum(codes, 0x1F000)]
    letter = kinds == _LETTER
    begins = kinds == _ALONE
    begins[0] |= letter[0]
    begins[1:] |= letter[1:] & ~letter[:-1]
    first = np.flatnonzero(begins)
    word = np.cumsum(begins) - 1
    offset = np.minimum(np.arange(len(codes)) - first[np.maximum(word, 0)], _LONGEST - 1)
    values = (codes.astype(np.uint64) + np.uint64(1)) * _powers()[np.maximum(offset, 0)]
    values[kinds == _SEPARATOR] = 0
    hashes = mix(np.add.reduceat(values, first))
    ends = np.flatnonzero(codes[first] == 0)[len(END) - 1 :: len(END)] + 1
    return Words(hashes, np.concatenate([[0], ends]).astype(np.int64))


def n_grams(words: Words, n: int) -> tuple[Hashes, NDArray[np.int64]]:
    """The hashes of all n-grams of words [G], and where each text's begin [D + 1].

    A text of W ≥ n words has W − n + 1; a shorter one has none.
    """
    counts = np.maximum(words.counts() - n + 1, 0)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    return _windows(words, np.repeat(words.starts[:-1], counts) + within, n), starts


def shingles(words: Words) -> tuple[Hashes, NDArray[np.int64]]:
    """Three words from each word on, which may reach into the text's end, and where each text's
    begin [D + 1]: a text of W words has W, so short texts can be compared too."""
    counts = words.counts()
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    within = np.arange(starts[-1]) - np.repeat(starts[:-1], counts)
    return _windows(words, np.repeat(words.starts[:-1], counts) + within, 3), starts


def mix(values: Hashes) -> Hashes:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit depends on every bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def combine(first: Hashes, second: Hashes) -> Hashes:
    """One hash of two, in their order."""
    return mix(first * np.uint64(0x9E3779B97F4A7C15) + mix(second + np.uint64(1)))


def _windows(words: Words, at: NDArray[np.int64], n: int) -> Hashes:
    value = np.zeros(len(at), np.uint64)
    for offset in range(n):
        value = value * np.uint64(0x9E3779B97F4A7C15) + words.hashes[at + offset]
    return mix(value)


@cache
def _kinds() -> NDArray[np.uint8]:
    """What each character is; the last entry stands for all from U+1F000 on, emoji and others."""
    kinds = np.zeros(0x1F001, np.uint8)
    for code in range(0x1F000):
        if unicodedata.category(chr(code))[0] in "LNM":
            kinds[code] = _LETTER
    for low, high in _UNSPACED:
        kinds[low : high + 1][kinds[low : high + 1] == _LETTER] = _ALONE
    kinds[0] = kinds[-1] = _ALONE
    return kinds


@cache
def _powers() -> Hashes:
    powers: Hashes = np.cumprod(np.full(_LONGEST, 0x100000001B3, np.uint64), dtype=np.uint64)
    return powers
