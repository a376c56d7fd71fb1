"""Models of ties: what a tie says of two models, beside that it is half a win to each.

- Rao and Kupper (1967): i wins if it is better by more than a threshold, P = σ(Δ − η).
- Davidson (1970): win, loss and tie are as likely as e^{Δ/2} : e^{−Δ/2} : e^λ.

Δ = θ_i − θ_j. Both likelihoods are concave in the strengths and the parameter (η or λ), which are
fitted together by Newton's method. `wins[..., i, j]` counts how often i beat j; `ties` is symmetric
and has each tie in both entries of a pair. Leading dimensions are separate data sets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import special

from accord.errors import WorkError
from accord.measure.ratings.bradley_terry import (
    GAIN_TOLERANCE,
    MAX_HALVINGS,
    MAX_NEWTON_STEPS,
    STEP_TOLERANCE,
    Labels,
    laplacian,
)
from accord.measure.statistics import Floats

TieRule = Literal["half", "rao_kupper", "davidson"]


@dataclass(frozen=True, slots=True)
class LikelihoodTerms:
    """The log-likelihood of each pair and its derivatives by Δ and by the parameter; the second
    derivatives have the opposite sign. All [..., models, models]."""

    value: Floats
    slope: Floats
    curvature: Floats
    parameter_slope: Floats
    parameter_curvature: Floats
    mixed: Floats


def rao_kupper_terms(
    difference: Floats, eta: Floats, wins: Floats, ties: Floats
) -> LikelihoodTerms:
    """P(i beats j) = σ(Δ − η), P(tie) = (e^{2η} − 1)·σ(Δ − η)·σ(−Δ − η) (Rao and Kupper 1967)."""
    first, second = wins + ties, wins.swapaxes(-1, -2) + ties
    p, q = special.expit(difference - eta), special.expit(-difference - eta)
    spread_p, spread_q = first * p * (1 - p), second * q * (1 - q)
    decay = np.exp(-2 * eta)
    return LikelihoodTerms(
        first * special.log_expit(difference - eta)
        + second * special.log_expit(-difference - eta)
        + ties * np.log(np.expm1(2 * eta)),
        first * (1 - p) - second * (1 - q),
        spread_p + spread_q,
        -first * (1 - p) - second * (1 - q) + ties * 2 / (1 - decay),
        spread_p + spread_q + ties * 4 * decay / (1 - decay) ** 2,
        spread_q - spread_p,
    )


def davidson_terms(difference: Floats, tie: Floats, wins: Floats, ties: Floats) -> LikelihoodTerms:
    """Win, loss and tie as e^{Δ/2} : e^{−Δ/2} : e^λ (Davidson 1970, eq. 2.2 with ν = e^λ)."""
    lost = wins.swapaxes(-1, -2)
    battles = wins + lost + ties
    half = difference / 2
    total = np.logaddexp(np.logaddexp(half, -half), tie)
    win, loss, even = np.exp(half - total), np.exp(-half - total), np.exp(tie - total)
    mean = (win - loss) / 2
    return LikelihoodTerms(
        (wins - lost) * half + ties * tie - battles * total,
        (wins - lost) / 2 - battles * mean,
        battles * ((win + loss) / 4 - mean**2),
        ties - battles * even,
        battles * even * (1 - even),
        -battles * even * mean,
    )


TERMS: dict[TieRule, Callable[[Floats, Floats, Floats, Floats], LikelihoodTerms]] = {
    "rao_kupper": rao_kupper_terms,
    "davidson": davidson_terms,
}
START = {"rao_kupper": 0.5, "davidson": 0.0}


def fit_with_ties(
    wins: Floats, ties: Floats, labels: Labels, rule: TieRule
) -> tuple[Floats, Floats]:
    """Strengths [..., models] with mean 0 within each component, and the parameter [...].

    Battles across the strongly connected components `labels` of the scores are left out, as in
    `fit_strengths`. Raises WorkError where there is no tie, or nothing else, within the
    components: then the parameter has no finite estimate; and where the fit does not converge.
    """
    terms_of = TERMS[rule]
    batch, models = wins.shape[:-2], wins.shape[-1]
    same = labels[..., :, None] == labels[..., None, :]
    block = same.reshape(-1, models, models).astype(np.float64)
    wins = np.where(same, wins, 0.0).reshape(-1, models, models)
    ties = np.where(same, ties, 0.0).reshape(-1, models, models)
    if not (wins.any(axis=(1, 2)) & ties.any(axis=(1, 2))).all():
        raise WorkError(
            f"`ties={rule}` estimates how often models tie, and there is no tie, or nothing but "
            f"ties. Use `ties=half`."
        )
    theta, parameter = np.zeros(wins.shape[:2]), np.full(len(wins), START[rule])

    def terms_at(theta: Floats, parameter: Floats) -> LikelihoodTerms:
        difference = theta[:, :, None] - theta[:, None, :]
        with np.errstate(divide="ignore", invalid="ignore"):  # outside of the domain
            return terms_of(difference, parameter[:, None, None], wins, ties)

    terms = terms_at(theta, parameter)
    value = terms.value.sum(axis=(1, 2)) / 2
    for _ in range(MAX_NEWTON_STEPS):
        gradient, hessian = _system(terms, block)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        gain = (gradient * step).sum(axis=1)
        size = np.ones(len(wins))
        for _ in range(MAX_HALVINGS):
            moved = theta + size[:, None] * step[:, :-1]
            moved_parameter = parameter + size * step[:, -1]
            terms = terms_at(moved, moved_parameter)
            after = terms.value.sum(axis=(1, 2)) / 2
            worse = ~(after >= value - 1e-12 * np.abs(value))
            if not worse.any():
                break
            size = np.where(worse, size / 2, size)
        theta, parameter, value = moved, moved_parameter, after
        small = np.abs(step).max(axis=1) < STEP_TOLERANCE
        if (small | (gain < GAIN_TOLERANCE * np.abs(value))).all():
            return theta.reshape(*batch, models), parameter.reshape(batch)
    raise WorkError(
        f"The fit with `ties={rule}` did not converge in {MAX_NEWTON_STEPS} Newton steps; the "
        "counts are too lopsided for double precision. Use `ties=half` with a prior."
    )


def _system(terms: LikelihoodTerms, block: Floats) -> tuple[Floats, Floats]:
    """The gradient [sets, models + 1] and the negative Hessian, the parameter last.

    The Hessian is singular along a shift of a whole component; `block` penalises that shift.
    """
    models = block.shape[-1]
    gradient = np.empty((len(block), models + 1))
    hessian = np.empty((len(block), models + 1, models + 1))
    gradient[:, :-1] = terms.slope.sum(axis=2)
    gradient[:, -1] = terms.parameter_slope.sum(axis=(1, 2)) / 2
    curvature = laplacian(terms.curvature)
    scale = np.trace(curvature, axis1=1, axis2=2)[:, None, None] / models
    hessian[:, :-1, :-1] = curvature + np.where(scale > 0, scale, 1.0) * block
    hessian[:, :-1, -1] = hessian[:, -1, :-1] = terms.mixed.sum(axis=2)
    hessian[:, -1, -1] = terms.parameter_curvature.sum(axis=(1, 2)) / 2
    return gradient, hessian


def outcome_scores(
    rule: TieRule, difference: Floats, parameter: float
) -> tuple[tuple[Floats, Floats, Floats], tuple[Floats, Floats, Floats]]:
    """The derivative of the log-probability of a win, a loss and a tie by Δ, and by the parameter.

    With `half`, a tie is half a win and half a loss, and there is no parameter.
    """
    zero = np.zeros_like(difference)
    if rule == "half":
        p = special.expit(difference)
        return (1 - p, -p, 0.5 - p), (zero, zero, zero)
    if rule == "rao_kupper":
        p, q = special.expit(difference - parameter), special.expit(-difference - parameter)
        tie = zero + 2 / -np.expm1(-2 * parameter)
        return (1 - p, q - 1, q - p), (p - 1, q - 1, p + q - 2 + tie)
    half = difference / 2
    total = np.logaddexp(np.logaddexp(half, -half), parameter)
    win, loss, even = np.exp(half - total), np.exp(-half - total), np.exp(parameter - total)
    mean = (win - loss) / 2
    return (0.5 - mean, -0.5 - mean, -mean), (-even, -even, 1 - even)
