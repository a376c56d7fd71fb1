"""The Vendi score: how many different things there are, counted by their similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from accord.measure.texts.diversity import feature_distance, features

MAX_TEXTS = 200
"""Texts beyond it are left out: the eigenvalues take their number's third power."""


def vendi_score(similarity: ArrayLike) -> float:
    """exp of the entropy of the eigenvalues of K/n (Friedman and Dieng 2023, eq. 2).

    `similarity` is K, a positive semi-definite matrix (n, n) with ones on its diagonal. The score
    is n where nothing resembles anything else, and 1 where all is alike; NaN for n = 0. Raises
    ValueError for another shape.
    """
    kernel = np.asarray(similarity, dtype=np.float64)
    if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
        raise ValueError(f"a matrix of similarities is square, not {kernel.shape}")
    if not len(kernel):
        return math.nan
    shares = np.linalg.eigvalsh(kernel / len(kernel))
    shares = shares[shares > 1e-12]
    return float(np.exp(-np.sum(shares * np.log(shares))))


def vendi_of_texts(texts: Sequence[str]) -> float:
    """The Vendi score of the first `MAX_TEXTS` texts over the share of words and word pairs that
    two texts have in common (Jaccard's index, a positive definite kernel: Gower 1971)."""
    used = [features(text) for text in texts[:MAX_TEXTS]]
    kernel = np.eye(len(used))
    for i, content in enumerate(used):
        for j in range(i):
            kernel[i, j] = kernel[j, i] = 1 - feature_distance(content, used[j])
    return vendi_score(kernel)
