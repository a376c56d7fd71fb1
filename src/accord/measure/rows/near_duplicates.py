"""Near-duplicates by MinHash (Broder 1997): signatures of texts, and the pairs that are alike.

NumPy computes the signatures of a batch of rows in one go. datasketch and rensa take one text at a
time as Python sets of strings, which costs more than all other checks of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from accord.measure.rows.words import Hashes, mix

HASHES = 64
BAND = 4  # hashes of a band; texts that agree in one of the 16 bands are compared
SIMILAR = 0.7  # of the responses of two rows; of texts without responses
SIMILAR_PROMPTS = 0.4  # a short prompt shares no more with one that differs in one word
_NEIGHBOURS = 4  # rows of a bucket that each row is compared with, besides the bucket's first
_EMPTY = np.uint32(0xFFFFFFFF)
_CHUNK = 16_384
_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))

Signatures = NDArray[np.uint16]
_rng = np.random.Generator(np.random.PCG64(20180911))
_FACTORS = _rng.integers(0, 2**63, HASHES, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_SHIFTS = _rng.integers(0, 2**63, HASHES, dtype=np.uint64)


def minima(grams: Hashes, starts: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The least value of each of 64 hash functions over each text's n-grams, [D, 64].

    `starts` [D + 1] are where each text's n-grams begin. The functions are multiply-shift hashes
    (Dietzfelbinger et al. 1997). A text without n-grams has the greatest value everywhere.
    """
    signatures = np.full((len(starts) - 1, HASHES), _EMPTY, np.uint32)
    full = np.flatnonzero(np.diff(starts))
    if not len(full):
        return signatures
    at = starts[full]
    for k in range(HASHES):
        values = ((grams * _FACTORS[k] + _SHIFTS[k]) >> np.uint64(32)).astype(np.uint32)
        signatures[full, k] = np.minimum.reduceat(values, at)
    return signatures


def band_keys(signatures: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A hash of each band of each signature, [D, 16]: texts of similarity s agree in one with the
    probability 1 − (1 − s⁴)¹⁶, which is 0.99 at 0.7."""
    keys = []
    for band in range(HASHES // BAND):
        value = np.zeros(len(signatures), np.uint64)
        for k in range(band * BAND, (band + 1) * BAND):
            value = value * np.uint64(0x9E3779B97F4A7C15) + signatures[:, k].astype(np.uint64)
        keys.append((mix(value) >> np.uint64(32)).astype(np.uint32))
    return np.stack(keys, axis=1) if keys else np.empty((len(signatures), 0), np.uint32)


def similarity(first: Signatures, second: Signatures) -> NDArray[np.float64]:
    """The estimated Jaccard similarity of each pair of signatures [N, 64].

    Its standard error is √(s(1 − s)/64), 0.06 at 0.7.
    """
    equal: NDArray[np.float64] = (first == second).mean(axis=1)
    return equal


@dataclass(frozen=True, slots=True)
class NearDuplicates:
    """Rows [N] that are nearly equal to an earlier one, `like` [N], with their similarity [N]."""

    rows: NDArray[np.int64]
    like: NDArray[np.int64]
    similarity: NDArray[np.float64]


def near_duplicates(
    bands: Iterator[NDArray[np.uint32]],
    rows: NDArray[np.int64],
    read: Callable[[NDArray[np.int64]], tuple[Signatures, Signatures]],
) -> NearDuplicates:
    """The rows that are nearly equal to an earlier row, each with one such row.

    `bands` gives the keys of one band for all rows at a time, `rows` are the rows to compare, and
    `read` gives the signatures of the prompts and of the responses of rows. Two rows are nearly
    equal where the similarity of their responses is at least 0.7 and that of their prompts at
    least 0.4: short answers to one long prompt are not, nor is one answer to several questions.
    Rows without responses are nearly equal where their prompts' similarity is at least 0.7.
    """
    coded = np.empty(0, np.uint64)
    for keys in bands:
        coded = np.union1d(coded, _candidates(keys, rows))
    parts = []
    for start in range(0, len(coded), _CHUNK):
        chunk = coded[start : start + _CHUNK]
        earlier = (chunk >> np.uint64(32)).astype(np.int64)
        later = (chunk & np.uint64(0xFFFFFFFF)).astype(np.int64)
        one, two = read(earlier), read(later)
        prompts, responses = similarity(one[0], two[0]), similarity(one[1], two[1])
        without = (one[1] == _EMPTY.astype(np.uint16)).all(axis=1)
        estimate = np.where(without, prompts, responses)
        near = (estimate >= SIMILAR) & (prompts >= SIMILAR_PROMPTS)
        parts.append((later[near], earlier[near], estimate[near]))
    later, earlier, estimate = (np.concatenate(part) for part in zip(_NOTHING, *parts, strict=True))
    unique, index = np.unique(later, return_index=True)
    return NearDuplicates(unique, earlier[index], estimate[index])


def _candidates(keys: NDArray[np.uint32], rows: NDArray[np.int64]) -> Hashes:
    """Pairs of rows of one bucket, as earlier·2³² + later: each row with the bucket's first and
    with the rows next to it, so that a bucket of equal texts costs no more than its rows."""
    order = rows[np.argsort(keys[rows], kind="stable")].astype(np.uint64)
    sorted_keys = keys[order]
    begins = np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]])[: len(order)]
    first = np.flatnonzero(begins)[np.cumsum(begins) - 1]
    pairs = [(order[first] << np.uint64(32) | order)[~begins]]
    for step in range(1, _NEIGHBOURS + 1):
        near = sorted_keys[step:] == sorted_keys[:-step]
        pairs.append((order[:-step][near] << np.uint64(32)) | order[step:][near])
    return np.concatenate(pairs)
