"""Labels that are likely wrong: pairs that a model of the others' labels disagrees with.

The model is a logistic regression on the words that only one of two responses holds, and on their
difference in length and markup. It is fitted to other prompts than those that it judges
(cross-validated), as in confident learning (Northcutt, Jiang and Chuang 2021), and calibrated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, sparse, special

from accord.measure.rows.words import Hashes, Words
from accord.measure.statistics import Floats, Interval, proportion_interval

WORDS = 2**16  # hashed words
DENSE = 2  # further features: length and markup
FOLDS = 5
UNLIKELY = 0.1  # a label of at most this probability is likely wrong
LEAST_PAIRS = 500  # with fewer, words say too little of any label
_FITTED = 50_000  # rows that the models are fitted to, at most
_PENALTIES = (0.3, 3.0, 30.0)
_LARGEST_SLOPE = 5.0


@dataclass(frozen=True, slots=True)
class PairFeatures:
    """Features of N pairs: the words of only one response, `index` [M] with `sign` [M] (1 the
    chosen's, −1 the rejected's), the number of each pair's `counts` [N], and `dense` [N, 2]."""

    index: NDArray[np.uint16]
    sign: NDArray[np.int8]
    counts: NDArray[np.int64]
    dense: NDArray[np.float32]

    def matrix(self) -> Any:
        """The features as a sparse matrix [N, 65538]."""
        ends = np.concatenate([[0], np.cumsum(self.counts)])
        signs = self.sign.astype(np.float64)
        words = sparse.csr_array((signs, self.index, ends), shape=(len(self.counts), WORDS))
        # A pair of long responses differs in more words: each pair has the same weight.
        scale = 1 / np.sqrt(np.maximum(self.counts, 1))
        return sparse.csr_array(sparse.hstack([sparse.diags_array(scale) @ words, self.dense]))


def pair_features(words: Words, chosen: Any, rejected: Any, dense: Any) -> PairFeatures:
    """The features of pairs of texts of `words`, by the texts' indices [N], [N]."""
    keys: list[Hashes] = []
    signs: list[NDArray[np.int8]] = []
    for texts, sign in ((chosen, 1), (rejected, -1)):
        texts = np.asarray(texts, np.int64)
        counts = words.counts()[texts]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        hashes = words.hashes[np.repeat(words.starts[:-1][texts], counts) + within]
        pair = np.repeat(np.arange(len(texts)), counts).astype(np.uint64)
        unique = np.unique(pair << np.uint64(16) | hashes >> np.uint64(48))
        keys.append(unique)
        signs.append(np.full(len(unique), sign, np.int8))
    both, all_signs = np.concatenate(keys), np.concatenate(signs)
    only, first, number = np.unique(both, return_index=True, return_counts=True)
    first, only = first[number == 1], only[number == 1]
    return PairFeatures(
        (only & np.uint64(0xFFFF)).astype(np.uint16),
        all_signs[first],
        np.bincount((only >> np.uint64(16)).astype(np.int64), minlength=len(chosen)),
        np.asarray(dense, np.float32).reshape(len(chosen), DENSE),
    )


@dataclass(frozen=True, slots=True)
class LabelNoise:
    """`probability` [N] of each pair's label by the models that did not see its prompt, and how
    often they agree with the labels."""

    probability: Floats
    agreement: Interval

    @property
    def informative(self) -> bool:
        """Whether the models do better than chance; if not, they say nothing of any label."""
        return (self.agreement.low or 0) > 0.5

    def unlikely(self) -> NDArray[np.int64]:
        """The pairs whose label is likely wrong."""
        if not self.informative:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.probability <= UNLIKELY)


def label_noise(
    folds: NDArray[np.int64], read: Callable[[], Iterator[tuple[NDArray[np.int64], PairFeatures]]]
) -> LabelNoise:
    """Judge each pair by models of the pairs of other folds.

    `folds` [N] is each pair's, by its prompt. `read()` gives the features of all pairs in pieces,
    each with the indices of its pairs. At most 50,000 pairs, evenly spread, are fitted to.
    """
    step = max(1, -(-len(folds) // _FITTED))
    sample, fold_of = [], []
    for at, features in read():
        chosen = np.flatnonzero(at % step == 0)
        sample.append(features.matrix()[chosen])
        fold_of.append(folds[at[chosen]])
    matrix, fold = sparse.csr_array(sparse.vstack(sample)), np.concatenate(fold_of)
    best: tuple[float, list[Floats], float] | None = None
    for penalty in _PENALTIES:
        weights = [_fit(matrix[np.flatnonzero(fold != k)], penalty) for k in range(FOLDS)]
        margins = _margins(matrix, fold, weights)
        slope, loss = _calibrate(margins)
        if best is None or loss < best[0]:
            best = loss, weights, slope
    assert best is not None
    _, weights, slope = best
    margins = np.empty(len(folds))
    for at, features in read():
        margins[at] = _margins(features.matrix(), folds[at], weights)
    right = float((margins > 0).sum() + 0.5 * (margins == 0).sum())
    return LabelNoise(special.expit(slope * margins), proportion_interval(right, len(margins)))


def _fit(matrix: Any, penalty: float) -> Floats:
    """Weights w that minimise Σ −log σ(w·x) + penalty·|w|²/2, the chosen being the positive side.

    There is no constant term: to swap the responses is to change the sign.
    """

    def loss(weights: Floats) -> tuple[float, Floats]:
        margins = matrix @ weights
        value = -float(special.log_expit(margins).sum()) + penalty / 2 * float(weights @ weights)
        return value, penalty * weights - matrix.T @ special.expit(-margins)

    start = np.zeros(matrix.shape[1])
    result = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 60})
    solution: Floats = result.x
    return solution


def _margins(matrix: Any, folds: NDArray[np.int64], weights: list[Floats]) -> Floats:
    """Each pair's margin by the weights that were not fitted to its fold."""
    margins: Floats = np.choose(folds, [matrix @ w for w in weights])
    return margins


def _calibrate(margins: Floats) -> tuple[float, float]:
    """The slope a that minimises the mean of −log σ(a·margin), and that mean (Platt 1999)."""
    result = optimize.minimize_scalar(
        lambda slope: -float(special.log_expit(slope * margins).mean()),
        bounds=(0.0, _LARGEST_SLOPE),
        method="bounded",
    )
    return float(result.x), float(result.fun)
