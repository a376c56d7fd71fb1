"""Ties by Rao and Kupper, and by Davidson: against closed forms and a likelihood written out."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import optimize

from accord.errors import WorkError
from accord.measure.ratings.battles import Counts
from accord.measure.ratings.rate import rate_models
from accord.measure.ratings.tie_models import TERMS, TieRule, fit_with_ties, outcome_scores
from accord.measure.statistics import Floats

RULES: list[TieRule] = ["rao_kupper", "davidson"]


def rao_kupper(difference: float, eta: float) -> tuple[float, float, float]:
    """The probabilities of a win, a loss and a tie, as in the paper: π_i/(π_i + θ·π_j)."""
    nu, pi = math.exp(eta), math.exp(difference)
    win, loss = pi / (pi + nu), 1 / (1 + nu * pi)
    return win, loss, 1 - win - loss


def davidson(difference: float, tie: float) -> tuple[float, float, float]:
    """As in the paper: π_i : π_j : ν·√(π_i·π_j)."""
    pi = math.exp(difference)
    weights = pi, 1.0, math.exp(tie) * math.sqrt(pi)
    return weights[0] / sum(weights), weights[1] / sum(weights), weights[2] / sum(weights)


PROBABILITIES: dict[TieRule, Callable[[float, float], tuple[float, float, float]]] = {
    "rao_kupper": rao_kupper,
    "davidson": davidson,
}


def two_models(wins: int, losses: int, ties: int) -> tuple[Floats, Floats]:
    return np.array([[0.0, wins], [losses, 0.0]]), np.array([[0.0, ties], [ties, 0.0]])


def matrices(seed: int, models: int) -> tuple[Floats, Floats]:
    """Wins and ties of every two models."""
    rng = np.random.default_rng(seed)
    wins, ties = (
        rng.integers(1, 9, (models, models)),
        np.triu(rng.integers(0, 6, (models, models)), 1),
    )
    np.fill_diagonal(wins, 0)
    return wins.astype(float), (ties + ties.T).astype(float)


def log_likelihood(rule: TieRule, point: Floats, wins: Floats, ties: Floats) -> float:
    *theta, parameter = point.tolist()
    total = 0.0
    for i in range(len(theta)):
        for j in range(i + 1, len(theta)):
            win, loss, tie = PROBABILITIES[rule](theta[i] - theta[j], parameter)
            total += wins[i, j] * math.log(win) + wins[j, i] * math.log(loss)
            total += ties[i, j] * math.log(tie)
    return total


def test_two_models_have_closed_forms() -> None:
    wins, losses, ties = 30, 10, 20
    one = np.zeros(2, dtype=np.intp)
    theta, tie = fit_with_ties(*two_models(wins, losses, ties), one, "davidson")
    assert theta[0] - theta[1] == pytest.approx(math.log(wins / losses))
    assert float(tie) == pytest.approx(math.log(ties / math.sqrt(wins * losses)))
    theta, eta = fit_with_ties(*two_models(wins, losses, ties), one, "rao_kupper")
    win, loss = (math.log(share / (1 - share)) for share in (wins / 60, losses / 60))
    assert theta[0] - theta[1] == pytest.approx((win - loss) / 2)
    assert float(eta) == pytest.approx(-(win + loss) / 2)


@pytest.mark.parametrize("rule", RULES)
def test_the_fit_is_the_maximum_of_the_likelihood(rule: TieRule) -> None:
    sets = [matrices(seed, 5) for seed in range(3)]
    wins, ties = (np.stack(each) for each in zip(*sets, strict=True))
    theta, parameter = fit_with_ties(wins, ties, np.zeros((3, 5), dtype=np.intp), rule)
    assert theta.sum(axis=1) == pytest.approx(0, abs=1e-9)
    for i in range(3):
        point = np.append(theta[i], parameter[i])
        gradient = optimize.approx_fprime(
            point, lambda p, i=i: log_likelihood(rule, p, wins[i], ties[i]), 1e-6
        )
        assert np.abs(gradient).max() < 1e-3
        best = log_likelihood(rule, point, wins[i], ties[i])
        rng = np.random.default_rng(i)
        for _ in range(20):
            moved = point + rng.normal(0, 0.05, 6)
            assert log_likelihood(rule, moved, wins[i], ties[i]) < best


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("difference", [-1.3, 0.0, 0.7])
def test_the_scores_of_outcomes_are_derivatives(rule: TieRule, difference: float) -> None:
    parameter = 0.4
    by_difference, by_parameter = outcome_scores(rule, np.array([difference]), parameter)
    for outcome in range(3):
        at = optimize.approx_fprime(
            np.array([difference, parameter]),
            lambda point, o=outcome: math.log(PROBABILITIES[rule](*point.tolist())[o]),
            1e-7,
        )
        assert float(by_difference[outcome][0]) == pytest.approx(at[0], abs=1e-5)
        assert float(by_parameter[outcome][0]) == pytest.approx(at[1], abs=1e-5)


def counts_of(seed: int, models: int, battles: int, rule: TieRule, parameter: float) -> Counts:
    rng = np.random.default_rng(seed)
    counts: dict[tuple[str, str, str], int] = {}
    for i in range(models):
        for j in range(i + 1, models):
            shares = PROBABILITIES[rule](0.5 * (j - i), parameter)
            for outcome, n in zip(("a", "b", "tie"), rng.multinomial(battles, shares), strict=True):
                counts[f"m{i}", f"m{j}", outcome] = int(n)
    return counts  # type: ignore[return-value]


@pytest.mark.parametrize("rule", RULES)
def test_intervals_of_the_bootstrap_and_the_sandwich_agree(rule: TieRule) -> None:
    counts = counts_of(0, 4, 2000, rule, 0.6)
    drawn = rate_models(counts, ties=rule, bootstrap=2000)
    sandwich = rate_models(counts, ties=rule, bootstrap=0)
    assert drawn.tie_parameter == sandwich.tie_parameter == pytest.approx(0.6, abs=0.08)
    assert drawn.ties == rule
    for a, b in zip(drawn.models, sandwich.models, strict=True):
        assert a.rating == b.rating
        assert None not in (a.low, a.high, b.low, b.high)
        assert a.high - a.low == pytest.approx(b.high - b.low, rel=0.1)  # type: ignore[operator]
    order = [model.model for model in drawn.models]
    assert order == ["m0", "m1", "m2", "m3"]
    gaps = [a.rating - b.rating for a, b in zip(drawn.models, drawn.models[1:], strict=False)]
    assert gaps == pytest.approx([0.5 * 400 / math.log(10)] * 3, abs=15)
    assert rate_models(counts).tie_parameter is None


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "counts", [{("a", "b", "a"): 3, ("a", "b", "b"): 2}, {("a", "b", "tie"): 4}]
)
def test_without_ties_or_with_nothing_else_there_is_nothing_to_estimate(
    rule: TieRule, counts: Counts
) -> None:
    with pytest.raises(WorkError, match="Use `ties=half`"):
        rate_models(counts, ties=rule)


@pytest.mark.parametrize("rule", RULES)
def test_the_terms_of_a_pair_are_its_likelihood_and_derivatives(rule: TieRule) -> None:
    wins, ties = two_models(7, 4, 5)

    def value(point: Floats) -> float:
        win, loss, tie = PROBABILITIES[rule](*point.tolist())
        return 7 * math.log(win) + 4 * math.log(loss) + 5 * math.log(tie)

    point = np.array([0.8, 0.6])
    difference = np.array([[0.0, 0.8], [-0.8, 0.0]])
    terms = TERMS[rule](difference, np.full((2, 2), 0.6), wins, ties)
    gradient = optimize.approx_fprime(point, value, 1e-6)
    hessian = optimize.approx_fprime(point, lambda p: optimize.approx_fprime(p, value, 1e-5), 1e-5)
    assert float(terms.value[0, 1]) == pytest.approx(value(point))
    assert [float(terms.slope[0, 1]), float(terms.parameter_slope[0, 1])] == pytest.approx(
        gradient, abs=1e-3
    )
    second = [terms.curvature[0, 1], terms.mixed[0, 1], terms.parameter_curvature[0, 1]]
    expected = [-hessian[0, 0], -hessian[0, 1], -hessian[1, 1]]
    assert [float(each) for each in second] == pytest.approx(expected, abs=2e-2)


@pytest.mark.parametrize("rule", RULES)
def test_a_prior_makes_ratings_with_ties_finite(rule: TieRule) -> None:
    counts: Counts = {("a", "b", "a"): 9, ("b", "c", "a"): 9, ("a", "c", "tie"): 3}
    ratings = rate_models(counts, ties=rule, prior=1.0, bootstrap=50)
    assert [model.model for model in ratings.models] == ["a", "b", "c"]
    assert ratings.finite
    closer = rate_models(counts, ties=rule, prior=9.0, bootstrap=0)
    assert closer.models[0].rating < ratings.models[0].rating
