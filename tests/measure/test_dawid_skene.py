"""Dawid-Skene: crowd-kit's estimates on a simulated crowd, and what must hold of any crowd."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from accord.errors import DataError
from accord.measure.agreement.dawid_skene import dawid_skene
from accord.measure.agreement.ratings import code_ratings
from tests.measure.agreement_data import crowd


def test_it_equals_crowd_kit_on_a_simulated_crowd() -> None:
    # crowd-kit 1.4: DawidSkene(n_iter=400, tol=-1).fit on the same ratings, 8 digits.
    ratings, _ = crowd()
    assert len(ratings) == 1579
    fitted = dawid_skene(ratings, tolerance=1e-12)
    assert fitted.converged
    assert fitted.prevalence == pytest.approx([0.29951394, 0.32702824, 0.37345782], abs=1e-6)
    posteriors = {
        0: [0.91392197, 0.06831672, 0.01776131],
        7: [0.99676794, 0.00172001, 0.00151205],
        31: [0.0540339, 0.15390951, 0.79205659],
    }
    for item, expected in posteriors.items():
        assert fitted.posteriors[fitted.items.index(item)] == pytest.approx(expected, abs=2e-6)
    confusion = {
        "r0": [
            [0.96280028, 0.01226638, 0.02493334],
            [0.03283691, 0.95310836, 0.01405473],
            [0.07498902, 0.04954511, 0.87546587],
        ],
        "r4": [
            [0.55306084, 0.23593845, 0.21100071],
            [0.18853865, 0.61417143, 0.19728992],
            [0.24498712, 0.25165163, 0.50336125],
        ],
    }
    for rater, rows in confusion.items():
        matrix = fitted.confusion[fitted.raters.index(rater)]
        assert matrix == pytest.approx(np.array(rows), abs=2e-6)


def test_it_ranks_the_raters_and_finds_more_true_classes_than_the_majority() -> None:
    ratings, truth = crowd()
    fitted = dawid_skene(ratings)
    accuracy = dict(zip(fitted.raters, fitted.accuracy, strict=True))
    assert sorted(accuracy, key=accuracy.__getitem__, reverse=True) == [
        "r0",
        "r1",
        "r2",
        "r3",
        "r4",
    ]
    right = sum(truth[i] == label for i, label in zip(fitted.items, fitted.labels(), strict=True))
    assert right == 375  # crowd-kit's number, of 399 items with a rating
    assert fitted.ratings.sum() == 1579


def test_rows_are_probabilities_and_the_result_is_the_same_each_time() -> None:
    ratings, _ = crowd()
    first, second = dawid_skene(ratings), dawid_skene(ratings)
    assert np.array_equal(first.posteriors, second.posteriors)
    assert first.posteriors.sum(axis=1) == pytest.approx(1.0)
    assert first.confusion.sum(axis=2) == pytest.approx(1.0)
    assert first.prevalence.sum() == pytest.approx(1.0)


def test_it_weighs_a_rater_who_is_always_wrong_as_information() -> None:
    # Three good raters and one who swaps the two values: its confusion matrix shows the swap.
    truth = [i % 2 for i in range(60)]
    rows = [(i, r, t) for i, t in enumerate(truth) for r in ("a", "b", "c")]
    rows += [(i, "swapped", 1 - t) for i, t in enumerate(truth)]
    fitted = dawid_skene(code_ratings(*zip(*rows, strict=True)))
    assert fitted.labels() == truth
    assert fitted.confusion[3] == pytest.approx(np.array([[0.0, 1.0], [1.0, 0.0]]), abs=1e-6)


def test_the_likelihood_never_falls() -> None:
    ratings, _ = crowd()
    steps = [
        dawid_skene(ratings, max_iterations=n, tolerance=0).log_likelihood for n in range(1, 12)
    ]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(steps))


def test_no_ratings_are_refused() -> None:
    with pytest.raises(DataError, match="no ratings"):
        dawid_skene(code_ratings([], [], []))


def test_one_value_is_what_every_item_has() -> None:
    fitted = dawid_skene(code_ratings([1, 2], ["a", "a"], ["x", "x"]))
    assert fitted.labels() == ["x", "x"]
    assert fitted.accuracy == pytest.approx([1.0])
