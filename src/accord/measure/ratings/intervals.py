"""Intervals of ratings: a bootstrap of battles or of prompts, and the sandwich estimate."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from accord.measure.ratings.bradley_terry import (
    Labels,
    components,
    fit_strengths,
    laplacian,
    relative_to,
)
from accord.measure.ratings.elo import ELO_PER_NAT, to_elo
from accord.measure.ratings.resampling import LOST, TIES, WON, Units
from accord.measure.ratings.tie_models import TERMS, TieRule, fit_with_ties, outcome_scores
from accord.measure.statistics import Floats, normal_quantile


def bootstrap_ratings(
    units: Units,
    anchors: Labels,
    *,
    pseudo: Floats,
    rounds: int,
    seed: int,
    rule: TieRule = "half",
    start: Floats | None = None,
) -> tuple[Floats, int]:
    """Ratings [rounds, models] of drawn units, and how many rounds had no finite fit.

    Each round draws as many units as were given, battles (or prompts) and the pseudo-battles of
    `pseudo` [models, models] together, and adds the pseudo-battles again. The cost of a fit does
    not depend on the number of battles; `start` [models] are strengths to begin at. A rating is
    ±inf or NaN where its round determines none.
    """
    drawn, degenerate = [], 0
    for cell_counts in units.draw(rounds, seed):
        wins, ties = units.matrices(cell_counts)
        wins += pseudo
        scores = wins + ties / 2
        labels = components(scores)
        connected = labels.max(axis=1) == 0
        if rule == "half":
            strengths = fit_strengths(scores, labels, start if connected.all() else None)
        else:
            known = wins.any(axis=(1, 2)) & ties.any(axis=(1, 2))
            strengths = np.full(scores.shape[:2], np.nan)
            strengths[known], _ = fit_with_ties(wins[known], ties[known], labels[known], rule)
            connected &= known
        if connected.all():
            ratings = strengths - strengths[:, anchors].mean(axis=1, keepdims=True)
        else:
            ratings = np.stack(
                [
                    relative_to(*each, anchors)
                    for each in zip(strengths, scores, labels, strict=True)
                ]
            )
        drawn.append(to_elo(ratings))
        degenerate += int((~connected).sum())
    return np.concatenate(drawn), degenerate


def percentiles(drawn: Floats, confidence: float) -> tuple[Floats, Floats]:
    """The bounds at level `confidence` over rounds [rounds, models], as order statistics.

    A NaN, where a round determines no rating, widens the interval at both ends.
    """
    tail = (1 - confidence) / 2
    lows = np.where(np.isnan(drawn), -np.inf, drawn)
    highs = np.where(np.isnan(drawn), np.inf, drawn)
    return (
        np.quantile(lows, tail, axis=0, method="lower"),
        np.quantile(highs, 1 - tail, axis=0, method="higher"),
    )


def sandwich_covariance(
    units: Units, strengths: Floats, rule: TieRule = "half", parameter: float = 0.0
) -> Floats:
    """Covariance of the strengths [models, models], consistent even if the model is wrong (Huber
    1967; White 1982), and, where the units are prompts, if their battles depend on each other
    (Liang and Zeger 1986).

    H⁻¹·M·H⁻¹ with the curvature H of the log-likelihood and M = Σ s·sᵀ over the units, where s is
    the sum of the gradients of a unit's battles; of G prompts, M is multiplied by G/(G − 1).
    """
    sums = units.contents @ _cell_gradients(units, strengths, rule, parameter)
    spread = np.asarray((sums.T @ csr_array(sums.multiply(units.weight[:, None]))).todense())
    if units.clustered:
        spread *= len(units.weight) / max(1, len(units.weight) - 1)
    cell_counts = units.contents.T @ units.weight
    curvature = _curvature(units, cell_counts, strengths, rule, parameter)
    inverse = np.linalg.pinv(curvature, hermitian=True)
    return (inverse @ spread @ inverse)[:-1, :-1]


def sandwich_half_widths(covariance: Floats, anchors: Labels, confidence: float) -> Floats:
    """Half the width of each rating's normal interval, relative to the anchors' mean, in Elo."""
    contrast = np.eye(len(covariance))
    contrast[:, anchors] -= 1 / len(anchors)
    variance = np.einsum("ij,jk,ik->i", contrast, covariance, contrast)
    return normal_quantile(confidence) * ELO_PER_NAT * np.sqrt(np.clip(variance, 0, None))


def _cell_gradients(units: Units, strengths: Floats, rule: TieRule, parameter: float) -> csr_array:
    """The gradient of the log-probability of a battle in each cell, by the strengths and the
    parameter [cells, models + 1]."""
    difference = strengths[units.first] - strengths[units.second]
    by_difference, by_parameter = outcome_scores(rule, difference, parameter)
    kinds = [units.outcome == WON, units.outcome == LOST, TIES[units.outcome]]
    slope, slope_of_parameter = np.select(kinds, by_difference), np.select(kinds, by_parameter)
    cell = np.arange(len(difference))
    last = np.full(len(cell), units.models)
    return csr_array(
        (
            np.concatenate([slope, -slope, slope_of_parameter]),
            (np.tile(cell, 3), np.concatenate([units.first, units.second, last])),
        ),
        shape=(len(cell), units.models + 1),
    )


def _curvature(
    units: Units, cell_counts: Floats, strengths: Floats, rule: TieRule, parameter: float
) -> Floats:
    """The negative Hessian [models + 1, models + 1] by the strengths and the parameter."""
    wins, ties = units.matrices(cell_counts)
    difference = strengths[:, None] - strengths[None, :]
    hessian = np.zeros((units.models + 1, units.models + 1))
    if rule == "half":
        slopes, _ = outcome_scores("half", difference, parameter)
        hessian[:-1, :-1] = laplacian((wins + wins.T + ties) * slopes[0] * -slopes[1])
        return hessian
    terms = TERMS[rule](difference, np.full_like(difference, parameter), wins, ties)
    hessian[:-1, :-1] = laplacian(terms.curvature)
    hessian[:-1, -1] = hessian[-1, :-1] = terms.mixed.sum(axis=1)
    hessian[-1, -1] = terms.parameter_curvature.sum() / 2
    return hessian
