"""Whether the model that is shown first wins more often, at equal strength."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import special

from accord.errors import WorkError
from accord.measure.ratings.style import fit_style
from accord.measure.ratings.table import BattleTable
from accord.measure.statistics import Interval, normal_quantile


def position_effect(table: BattleTable, *, confidence: float = 0.95) -> Interval | None:
    """How often the first of two equally strong models wins, ties half: σ(γ) with
    logit P(a over b) = θ_a − θ_b + γ, with its sandwich interval; ½ is no effect.

    None where no two models met in both orders, as strength and position are one then, or where no
    finite estimate exists.
    """
    models = len(table.names)
    orders = set(np.unique(table.a * models + table.b).tolist())
    if not any(b * models + a in orders for a, b in (divmod(o, models) for o in orders)):
        return None
    ones = np.ones((len(table), 1))
    try:
        fit = fit_style(replace(table, style=ones, style_names=("position",)))
    except WorkError:
        return None
    gamma, error = float(fit.gamma[0]), float(np.sqrt(max(0.0, fit.covariance[-1, -1])))
    half = normal_quantile(confidence) * error
    return Interval(*(float(special.expit(gamma + shift)) for shift in (0.0, -half, half)))
