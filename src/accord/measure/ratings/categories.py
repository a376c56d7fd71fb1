"""Ratings by category of prompts, shrunk toward the overall ratings.

In category c the strengths are φ_c = θ + δ_c, with θ the overall ones and δ_c ~ N(0, τ²) for each
model: φ_c maximises ℓ_c(φ)/D − |φ − θ|²/(2τ²), a penalised Bradley-Terry likelihood. A model with
few battles in a category stays near its overall rating, and one with many is rated by these alone
(empirical Bayes: Efron and Morris 1975; of binary data Stiratelli, Laird and Ware 1984).

τ maximises the likelihood of all categories with δ integrated out by Laplace's approximation,
Σ_c ℓ_c(φ_c)/D − |δ_c|²/(2τ²) − ½·log|I + τ²·H_c/D|, where H_c is the curvature of ℓ_c. D is the
overall sandwich variance over that of independent battles, so that battles of one prompt do not
count as many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special
from scipy.optimize import minimize_scalar

from accord.errors import WorkError
from accord.measure.ratings.battles import outcome_matrices, score_matrix
from accord.measure.ratings.bradley_terry import laplacian
from accord.measure.ratings.elo import ELO_PER_NAT, to_elo
from accord.measure.ratings.table import BattleTable
from accord.measure.statistics import Floats, normal_quantile

FEW_BATTLES = 30  # of a model in a category: less than this is named
LEAST_TAU, MOST_TAU = 1e-3, 5.0  # in natural-log units: 0.2 and 870 Elo points
STEPS, HALVINGS, TOLERANCE = 100, 40, 1e-10


@dataclass(frozen=True, slots=True)
class CategoryRating:
    """A model in a category; `weight` is the share of its own battles in it, against the overall
    rating, in `rating`: 0 where it has none."""

    model: str
    rating: float
    low: float
    high: float
    battles: int
    weight: float


@dataclass(frozen=True, slots=True)
class CategoryRatings:
    """The models of one category, best first, and a note where it has few battles."""

    category: str
    battles: int
    models: tuple[CategoryRating, ...]
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def rate_categories(
    table: BattleTable,
    strengths: Floats,
    covariance: Floats,
    anchors: Sequence[int],
    *,
    design_effect: float = 1.0,
    tau: float | None = None,
    confidence: float = 0.95,
) -> tuple[tuple[CategoryRatings, ...], float]:
    """The ratings of each category, and τ in natural-log units; `tau` sets it.

    `strengths` [models] and their `covariance` are the overall ones. The interval has the variance
    of φ given θ, (H/D + I/τ²)⁻¹, and that of θ as far as φ rests on it (Prasad and Rao 1990).
    """
    scores = _scores(table)
    if tau is None:
        tau = fit_tau(list(scores.values()), strengths, design_effect)
    z = normal_quantile(confidence)
    contrast = np.eye(len(strengths))
    contrast[:, list(anchors)] -= 1 / len(anchors)
    rows = []
    for name, matrix in scores.items():
        phi, curvature = fit_shrunk(matrix / design_effect, strengths, tau)
        given = np.linalg.inv(curvature + np.eye(len(phi)) / tau**2)
        rest = given / tau**2  # what a change of θ moves φ by
        total = contrast @ (given + rest @ covariance @ rest.T) @ contrast.T
        half = z * ELO_PER_NAT * np.sqrt(np.clip(np.diag(total), 0, None))
        ratings = to_elo(contrast @ phi)
        battles = (matrix + matrix.T).sum(axis=1)
        weights = np.clip(1 - np.diag(rest), 0, 1)
        models = [
            CategoryRating(
                model,
                float(ratings[i]),
                float(ratings[i] - half[i]),
                float(ratings[i] + half[i]),
                int(battles[i]),
                float(weights[i]),
            )
            for i, model in enumerate(table.names)
        ]
        models.sort(key=lambda row: (-row.rating, row.model))
        few = [model.model for model in models if model.battles < FEW_BATTLES]
        note = ""
        if few:
            shown = ", ".join(few[:5]) + (f" and {len(few) - 5} more" if len(few) > 5 else "")
            note = (
                f"fewer than {FEW_BATTLES} battles of {shown}: these ratings are mostly the "
                f"overall ones"
            )
        rows.append(CategoryRatings(name, int(matrix.sum()), tuple(models), note))
    return tuple(rows), tau


def fit_shrunk(scores: Floats, center: Floats, tau: float) -> tuple[Floats, Floats]:
    """φ [models] and the curvature of ℓ there, by Newton's method; ℓ(φ) − |φ − center|²/(2τ²).

    Raises WorkError where it does not converge.
    """
    total = scores + scores.T
    phi = center.copy()

    def value_at(strengths: Floats) -> float:
        likelihood = (scores * special.log_expit(strengths[:, None] - strengths[None, :])).sum()
        return float(likelihood - ((strengths - center) ** 2).sum() / (2 * tau**2))

    value = value_at(phi)
    for _ in range(STEPS):
        p = special.expit(phi[:, None] - phi[None, :])
        curvature = laplacian(total * p * (1 - p))
        gradient = (scores - total * p).sum(axis=1) - (phi - center) / tau**2
        step = np.linalg.solve(curvature + np.eye(len(phi)) / tau**2, gradient)
        step -= step.mean()  # which is 0 but for rounding: the mean of φ is that of the center
        for _ in range(HALVINGS):
            after = value_at(phi + step)
            if after >= value - 1e-12 * abs(value):
                break
            step = step / 2
        phi, value = phi + step, after
        if np.abs(step).max() < TOLERANCE:
            return phi, curvature
    raise WorkError(
        f"The ratings of a category did not converge in {STEPS} steps. Leave `category` out, or "
        "join small categories."
    )


def fit_tau(scores: Sequence[Floats], center: Floats, design_effect: float = 1.0) -> float:
    """The τ that makes the categories' battles most likely, between LEAST_TAU and MOST_TAU."""

    def loss(log_tau: float) -> float:
        tau = float(np.exp(log_tau))
        value = 0.0
        for matrix in scores:
            phi, curvature = fit_shrunk(matrix / design_effect, center, tau)
            shift = phi - center
            logs = special.log_expit(phi[:, None] - phi[None, :])
            value += float((matrix / design_effect * logs).sum())
            value -= float(shift @ shift) / (2 * tau**2)
            value -= float(np.linalg.slogdet(np.eye(len(phi)) + tau**2 * curvature)[1]) / 2
        return -value

    bounds = (float(np.log(LEAST_TAU)), float(np.log(MOST_TAU)))
    best = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 0.01})
    return float(np.exp(best.x))


def _scores(table: BattleTable) -> Mapping[str, Floats]:
    """The scores [models, models] of each category that has battles."""
    assert table.category is not None
    scores = {}
    for number, name in enumerate(table.categories):
        rows = table.category == number
        if rows.any():
            counts = table.select(rows).counts()
            scores[name] = score_matrix(outcome_matrices(counts, table.names))
    return scores
