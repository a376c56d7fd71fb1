"""Win rates at equal length, as AlpacaEval 2 gives them.

logit P(model over baseline on prompt i) = w_model + w_len·tanh(Δlen_i/std(Δlen)) + w_diff·d_i
(Dubois, Galambosi, Liang and Hashimoto 2024, "Length-controlled AlpacaEval", eq. 2). The rate is
the mean prediction over the prompts at Δlen = 0: how often the model would win if its answers were
as long as the baseline's.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from accord.measure.ratings.battles import OUTCOMES
from accord.measure.ratings.elo import SCORE
from accord.measure.ratings.table import BattleTable, Integers
from accord.measure.statistics import Floats, Interval, normal_quantile, proportion_interval

PENALTY = 0.5  # of the squared weight of length and of difficulty: half a pseudo-observation's pull
STEPS, TOLERANCE = 100, 1e-10
SCORES = np.array([SCORE[outcome] for outcome in OUTCOMES])


@dataclass(frozen=True, slots=True)
class LengthControlled:
    """A model against the baseline. `raw` is its mean score, `rate` that at equal length with its
    interval by prompt; `length_effect` is w_len, None where all pairs are equally long."""

    model: str
    baseline: str
    battles: int
    raw: float
    rate: Interval
    length_effect: float | None
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "rate": self.rate.to_json()}


def length_controlled_rates(
    table: BattleTable, baseline: str, *, confidence: float = 0.95
) -> tuple[LengthControlled, ...]:
    """Every other model that met the baseline. Needs a table with `lengths`.

    The difficulty d_i of a prompt is the logit of the mean score of the *other* models against the
    baseline on it, with one pseudo-battle of a half, about its mean; without prompts or without
    others there is none.
    """
    assert table.lengths is not None
    base = table.names.index(baseline)
    models = sorted({*table.a[table.b == base].tolist(), *table.b[table.a == base].tolist()})
    return tuple(_rate(table, model, base, confidence) for model in models)


def _rate(table: BattleTable, model: int, base: int, confidence: float) -> LengthControlled:
    assert table.lengths is not None
    rows = np.flatnonzero(
        ((table.a == model) & (table.b == base)) | ((table.a == base) & (table.b == model))
    )
    first = table.a[rows] == model
    y = SCORES[table.outcome[rows]]
    y = np.where(first, y, 1 - y)
    lengths = table.lengths[rows]
    difference = np.where(first, 1, -1) * (lengths[:, 0] - lengths[:, 1])
    names = table.names[model], table.names[base]
    raw, count = float(y.mean()), len(rows)
    prompts = np.arange(count) if table.prompt is None else table.prompt[rows]
    if y.min() == y.max() and raw in (0.0, 1.0):
        clusters = len(np.unique(prompts))
        exact = proportion_interval(raw * clusters, clusters, confidence=confidence)
        note = f"{'won' if raw else 'lost'} every battle: no length can explain a share of it"
        return LengthControlled(*names, count, raw, exact, None, note)
    spread = float(difference.std())
    columns = [np.ones(count)]
    if spread > 0:
        columns.append(np.tanh(difference / spread))
    difficulty = _difficulty(table, model, base, prompts)
    if difficulty is not None:
        columns.append(difficulty)
    design = np.stack(columns, axis=1)
    weights, covariance = fit_logistic(design, y, prompts)
    at_equal = design.copy()
    if spread > 0:
        at_equal[:, 1] = 0.0
    rate = _predict(at_equal, weights, covariance, confidence)
    effect = float(weights[1]) if spread > 0 else None
    note = "" if spread > 0 else "all answers differ by the same length: nothing to control for"
    return LengthControlled(*names, count, raw, rate, effect, note)


def fit_logistic(x: Floats, y: Floats, clusters: Integers) -> tuple[Floats, Floats]:
    """Weights [k] of a logistic regression of y in [0, 1] on x [N, k], whose first column is the
    constant, and their sandwich covariance by clusters. All but the constant are penalised."""
    penalty = np.full(x.shape[1], PENALTY)
    penalty[0] = 0.0
    weights = np.zeros(x.shape[1])

    def value_at(w: Floats) -> float:
        z = x @ w
        return float((y * z + special.log_expit(-z)).sum() - (penalty * w**2).sum() / 2)

    value = value_at(weights)
    for _ in range(STEPS):
        p = special.expit(x @ weights)
        gradient = x.T @ (y - p) - penalty * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        while (after := value_at(weights + step)) < value - 1e-12 * abs(value):
            step = step / 2
        weights, value = weights + step, after
        if np.abs(step).max() < TOLERANCE:
            break
    _, index = np.unique(clusters, return_inverse=True)
    groups = int(index.max()) + 1
    scores = np.zeros((groups, x.shape[1]))
    np.add.at(scores, index, x * (y - special.expit(x @ weights))[:, None])
    inverse = np.linalg.inv(hessian)
    spread = groups / max(1, groups - 1) * scores.T @ scores
    return weights, inverse @ spread @ inverse


def _predict(x: Floats, weights: Floats, covariance: Floats, confidence: float) -> Interval:
    """The mean of σ(x·w), with a normal interval of its logit by the delta method."""
    p = special.expit(x @ weights)
    mean = float(p.mean())
    slope = (x * (p * (1 - p))[:, None]).mean(axis=0) / (mean * (1 - mean))
    half = normal_quantile(confidence) * float(np.sqrt(max(0.0, slope @ covariance @ slope)))
    center = float(special.logit(mean))
    return Interval(mean, float(special.expit(center - half)), float(special.expit(center + half)))


def _difficulty(table: BattleTable, model: int, base: int, prompts: Integers) -> Floats | None:
    """d_i [rows] of the model's prompts from the other models' battles against the baseline."""
    if table.prompt is None:
        return None
    others = ((table.a == base) | (table.b == base)) & (table.a != model) & (table.b != model)
    if not others.any():
        return None
    scores = SCORES[table.outcome[others]]
    scores = np.where(table.b[others] == base, scores, 1 - scores)
    size = int(table.prompt.max()) + 1
    sums = np.bincount(table.prompt[others], scores, size) + 0.5
    counts = np.bincount(table.prompt[others], minlength=size) + 1.0
    difficulty: Floats = special.logit(sums / counts)[prompts]
    difficulty = difficulty - difficulty.mean()
    return difficulty if difficulty.std() > 0 else None
