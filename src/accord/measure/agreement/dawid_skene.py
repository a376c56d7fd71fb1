"""The quality of annotators and the likely true values of items, without known answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from accord.errors import DataError
from accord.measure.agreement.ratings import CodedRatings, Codes
from accord.measure.statistics import Floats

FLOOR = 1e-10  # the smallest expected count, so that no value is impossible for anyone


@dataclass(frozen=True, slots=True)
class DawidSkene:
    """A fitted model of I items, R raters and V values.

    `posteriors` [I, V] is the probability of each true value of an item, `confusion` [R, V, V]
    the probability that a rater gives value w (last) to an item whose true value is v, and
    `prevalence` [V] the share of each true value. `accuracy` [R] is the probability that a rater
    gives the true value, Σ_v prevalence_v · confusion_vv; `ratings` [R] are the numbers of each.
    The rows are those of `items`, `raters` and `values`. `log_likelihood` is that of the ratings.
    """

    items: tuple[Any, ...]
    raters: tuple[Any, ...]
    values: tuple[Any, ...]
    posteriors: Floats
    confusion: Floats
    prevalence: Floats
    accuracy: Floats
    ratings: Codes
    log_likelihood: float
    iterations: int
    converged: bool

    def labels(self) -> list[Any]:
        """The likeliest value of each item, the first of equals."""
        return [self.values[i] for i in self.posteriors.argmax(axis=1).tolist()]


def dawid_skene(
    ratings: CodedRatings, *, max_iterations: int = 1000, tolerance: float = 1e-7
) -> DawidSkene:
    """Maximum likelihood by expectation-maximisation (Dawid and Skene 1979).

    It starts from the share of each value among an item's ratings (their section 3), so it has no
    random numbers. Each iteration computes the prevalence and confusion matrices (eq. 2.3, 2.4)
    from the posteriors, and the posteriors (eq. 2.5) from these. It has converged when no
    posterior changes by more than `tolerance`: the likelihood is flat long before that.

    The model takes raters as independent given the true value. With fewer than three raters an
    item, or raters who are wrong more often than right, what it calls true may not be. Raises
    DataError where there are no ratings.
    """
    count, categories = len(ratings), len(ratings.values)
    if not count:
        raise DataError("There are no ratings to estimate the quality of annotators from.")
    shape = (len(ratings.items), len(ratings.raters) * categories)
    given = ratings.rater * categories + ratings.value
    by_item = csr_array((np.ones(count), (ratings.item, given)), shape=shape)
    shares = csr_array(
        (np.ones(count), (ratings.item, ratings.value)), shape=(shape[0], categories)
    )
    posteriors = np.asarray(shares.todense(), dtype=np.float64)
    posteriors /= posteriors.sum(axis=1, keepdims=True)
    log_likelihood, converged = -np.inf, False
    iteration = 0
    while iteration < max_iterations and not converged:
        iteration += 1
        prevalence, confusion = _maximise(by_item, posteriors, len(ratings.raters))
        updated, log_likelihood = _expect(by_item, prevalence, confusion)
        converged = bool(np.abs(updated - posteriors).max() <= tolerance)
        posteriors = updated
    prevalence, confusion = _maximise(by_item, posteriors, len(ratings.raters))
    return DawidSkene(
        ratings.items,
        ratings.raters,
        ratings.values,
        posteriors,
        confusion,
        prevalence,
        np.einsum("v,rvv->r", prevalence, confusion),
        np.bincount(ratings.rater, minlength=len(ratings.raters)),
        log_likelihood,
        iteration,
        converged,
    )


def _maximise(by_item: csr_array, posteriors: Floats, raters: int) -> tuple[Floats, Floats]:
    """Prevalence [V] and confusion matrices [R, V, V] from the posteriors."""
    categories = posteriors.shape[1]
    expected = np.asarray(by_item.T @ posteriors).reshape(raters, categories, categories)
    counts = np.maximum(expected.transpose(0, 2, 1), FLOOR)  # [rater, true, given]
    return posteriors.mean(axis=0), counts / counts.sum(axis=2, keepdims=True)


def _expect(by_item: csr_array, prevalence: Floats, confusion: Floats) -> tuple[Floats, float]:
    """Posteriors [I, V], and the log-likelihood of all ratings."""
    categories = len(prevalence)
    logs = np.log(confusion).transpose(0, 2, 1).reshape(-1, categories)
    joint = np.log(np.maximum(prevalence, FLOOR)) + by_item @ logs
    highest = joint.max(axis=1, keepdims=True)
    scaled = np.exp(joint - highest)
    totals = scaled.sum(axis=1, keepdims=True)
    return scaled / totals, float((highest + np.log(totals)).sum())
