"""Style control: ratings at equal length and form of the responses.

logit P(a over b) = θ_a − θ_b + γ·x, where x is how the two responses differ (Chiang, Angelopoulos
et al. 2024, "Does style matter?"), ties counting half. γ is what style alone is worth; the
strengths are what is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.sparse import csr_array

from accord.errors import DataError, WorkError
from accord.measure.ratings.battles import OUTCOMES
from accord.measure.ratings.bradley_terry import (
    MAX_HALVINGS,
    MAX_NEWTON_STEPS,
    STEP_TOLERANCE,
    laplacian,
)
from accord.measure.ratings.elo import ELO_PER_NAT, SCORE
from accord.measure.ratings.table import BattleTable, Integers
from accord.measure.statistics import Floats, normal_quantile

PENALTY = 0.5  # of γ², as LMArena's


@dataclass(frozen=True, slots=True)
class StyleEffect:
    """What a standard deviation of a style's difference is worth, in Elo points, with its interval;
    and the odds ratio of winning."""

    name: str
    elo: float
    low: float
    high: float
    odds_ratio: float


@dataclass(frozen=True, slots=True)
class StyleFit:
    """Strengths [models] of mean 0 at equal style, γ [styles] by standard deviation, and the
    sandwich covariance of both [models + styles, models + styles]."""

    strengths: Floats
    gamma: Floats
    covariance: Floats

    def effects(self, names: tuple[str, ...], confidence: float) -> tuple[StyleEffect, ...]:
        """Each style's effect."""
        models = len(self.strengths)
        errors = np.sqrt(np.clip(np.diag(self.covariance)[models:], 0, None))
        half = normal_quantile(confidence) * errors
        return tuple(
            StyleEffect(
                name,
                float(ELO_PER_NAT * gamma),
                float(ELO_PER_NAT * (gamma - width)),
                float(ELO_PER_NAT * (gamma + width)),
                float(np.exp(gamma)),
            )
            for name, gamma, width in zip(names, self.gamma, half, strict=True)
        )


def relative_difference(a: Floats, b: Floats) -> Floats:
    """(a − b)/(a + b) of counts such as words [N]; 0 where both are 0."""
    total = a + b
    return np.divide(a - b, total, out=np.zeros(len(total)), where=total > 0)


def fit_style(table: BattleTable, *, penalty: float = PENALTY) -> StyleFit:
    """Strengths at equal style, by maximum likelihood with `penalty`/2·γ².

    Each style is divided by its standard deviation about 0, so that exchanging the sides changes
    nothing. Battles of one prompt may depend on each other in the covariance (Liang and Zeger
    1986). Raises DataError without a style, WorkError where no finite estimate exists.
    """
    if table.style is None:
        raise DataError("These battles have no style to control for.")
    models, styles = len(table.names), table.style.shape[1]
    scale = np.sqrt((table.style**2).mean(axis=0))
    x = table.style / np.where(scale > 0, scale, 1.0)
    y = np.array([SCORE[outcome] for outcome in OUTCOMES])[table.outcome]
    pair = table.a * models + table.b
    theta, gamma = np.zeros(models), np.zeros(styles)

    def logits(theta: Floats, gamma: Floats) -> Floats:
        return theta[table.a] - theta[table.b] + x @ gamma

    def value_at(z: Floats, gamma: Floats) -> float:
        return float((y * z + special.log_expit(-z)).sum() - penalty / 2 * gamma @ gamma)

    z = logits(theta, gamma)
    value = value_at(z, gamma)
    for _ in range(MAX_NEWTON_STEPS):
        p = special.expit(z)
        gradient, hessian = _system(table, x, pair, y - p, p * (1 - p), gamma, penalty)
        block = np.zeros_like(hessian)
        block[:models, :models] = np.trace(hessian[:models, :models]) / models**2
        try:
            step = np.linalg.solve(hessian + block, gradient)
        except np.linalg.LinAlgError:  # every outcome is certain
            break
        for _ in range(MAX_HALVINGS):
            moved = theta + step[:models], gamma + step[models:]
            z = logits(*moved)
            after = value_at(z, moved[1])
            if after >= value - 1e-12 * abs(value):
                break
            step = step / 2
        theta, gamma = moved
        value = after
        if np.abs(step).max() < STEP_TOLERANCE:
            theta = theta - theta.mean()
            return StyleFit(theta, gamma, _covariance(table, x, y - special.expit(z), hessian))
    raise WorkError(
        "The ratings at equal style have no finite estimate: a model won or lost every battle, or "
        "some never met the rest. Rate without style control, whose notes name these models."
    )


def _system(
    table: BattleTable,
    x: Floats,
    pair: Integers,
    residual: Floats,
    weight: Floats,
    gamma: Floats,
    penalty: float,
) -> tuple[Floats, Floats]:
    """The gradient and the negative Hessian by strengths and γ."""
    models, styles = len(table.names), x.shape[1]
    gradient = np.zeros(models + styles)
    hessian = np.zeros((models + styles, models + styles))
    gradient[:models] = _signed_sums(table, residual)
    gradient[models:] = x.T @ residual - penalty * gamma
    pairs = np.asarray(np.bincount(pair, weight, models**2), dtype=np.float64)
    pairs = pairs.reshape(models, models)
    hessian[:models, :models] = laplacian(pairs + pairs.T)
    for k in range(styles):
        cross = _signed_sums(table, weight * x[:, k])
        hessian[:models, models + k] = hessian[models + k, :models] = cross
    hessian[models:, models:] = (x * weight[:, None]).T @ x + penalty * np.eye(styles)
    return gradient, hessian


def _signed_sums(table: BattleTable, values: Floats) -> Floats:
    """The sum of values [N] of each model's battles, negative where it is the second."""
    models = len(table.names)
    first, second = (np.bincount(side, values, models) for side in (table.a, table.b))
    return np.asarray(first - second, dtype=np.float64)


def _covariance(table: BattleTable, x: Floats, residual: Floats, hessian: Floats) -> Floats:
    """H⁻¹·M·H⁻¹, where M sums the outer products of the prompts' (or battles') gradients."""
    models, rows = len(table.names), np.arange(len(table))
    values = np.concatenate([residual, -residual])
    index = (np.tile(rows, 2), np.concatenate([table.a, table.b]))
    strengths = csr_array((values, index), shape=(len(rows), models))
    styles = residual[:, None] * x
    factor = 1.0
    if table.prompt is not None:
        prompts = int(table.prompt.max()) + 1
        factor = prompts / max(1, prompts - 1)
        sums = csr_array((np.ones(len(rows)), (table.prompt, rows)), shape=(prompts, len(rows)))
        strengths, styles = csr_array(sums @ strengths), sums @ styles
    spread = np.zeros_like(hessian)
    spread[:models, :models] = (strengths.T @ strengths).todense()
    spread[:models, models:] = strengths.T @ styles
    spread[models:, :models] = spread[:models, models:].T
    spread[models:, models:] = styles.T @ styles
    inverse = np.linalg.pinv(hessian, hermitian=True)
    covariance: Floats = factor * inverse @ spread @ inverse
    return covariance
