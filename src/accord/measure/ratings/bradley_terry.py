"""The Bradley-Terry model: P(i beats j) = σ(θ_i − θ_j), by exact maximum likelihood.

Throughout, `scores[..., i, j]` is the score of i against j (1 for a win, one half for a tie).
Leading dimensions are separate data sets, fitted in one batch, which makes the bootstrap fast.
The cost depends on the number of models alone, not on the number of battles.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special
from scipy.sparse import csgraph, csr_array

from accord.errors import WorkError
from accord.measure.statistics import Floats

Labels = NDArray[np.intp]
MAX_NEWTON_STEPS = 200
MAX_HALVINGS = 40
STEP_TOLERANCE = 1e-9  # of a strength; 2e-7 of an Elo point
GAIN_TOLERANCE = 1e-15  # of the log-likelihood: the rounding error of double precision


def components(scores: Floats) -> Labels:
    """The strongly connected component of each model, in the graph with an edge from i to j if i
    scored against j. [..., models, models] -> [..., models].

    The maximum-likelihood estimate exists if and only if there is one component (Ford 1957): no
    split of the models into two groups leaves one group without a point against the other.
    """
    edges = (scores > 0).reshape(-1, *scores.shape[-2:])
    common = _strong_components(np.logical_and.reduce(edges, axis=0))
    if common.max(initial=0) == 0:  # the edges that all data sets share connect every data set
        return np.zeros(scores.shape[:-1], dtype=np.intp)
    return np.stack([_strong_components(graph) for graph in edges]).reshape(scores.shape[:-1])


def fit_strengths(scores: Floats, labels: Labels, start: Floats | None = None) -> Floats:
    """Strengths in natural-log units. [..., models, models], [..., models] -> [..., models].

    They have the mean of `start` within each component, else 0; battles across components carry no
    information on finite differences (in the limit of the likelihood their probability is 1) and
    are left out.
    Newton's method on the concave log-likelihood Σ s_ij·log σ(θ_i − θ_j), each step halved until
    the likelihood does not fall, from `start` [models] or from equal strengths. Raises WorkError
    where it does not converge.
    """
    batch, models = scores.shape[:-2], scores.shape[-1]
    same = labels[..., :, None] == labels[..., None, :]
    inside = np.where(same, scores, 0.0).reshape(-1, models, models)
    block = same.reshape(-1, models, models).astype(np.float64)
    total = inside + inside.swapaxes(-1, -2)
    theta = np.zeros(inside.shape[:2]) if start is None else np.tile(start, (len(inside), 1))
    value = _log_likelihood(inside, theta)
    for _ in range(MAX_NEWTON_STEPS):
        gradient, hessian = _derivatives(inside, total, theta)
        # The Hessian is singular along a shift of a whole component; `block` penalises that shift.
        scale = np.trace(hessian, axis1=1, axis2=2)[:, None, None] / models
        regularised = hessian + np.where(scale > 0, scale, 1.0) * block
        step = np.linalg.solve(regularised, gradient[..., None])[..., 0]
        gain = (gradient * step).sum(axis=1)
        theta, value = _damped_step(inside, theta, value, step)
        small = np.abs(step).max(axis=1) < STEP_TOLERANCE
        if (small | (gain < GAIN_TOLERANCE * np.abs(value))).all():
            return theta.reshape(*batch, models)
    raise WorkError(
        f"The Bradley-Terry fit did not converge in {MAX_NEWTON_STEPS} Newton steps; the counts "
        "are too lopsided for double precision. Set a prior."
    )


def relative_to(strengths: Floats, scores: Floats, labels: Labels, anchors: Labels) -> Floats:
    """Each model's strength less the mean of the anchors', for one data set. [models] -> [models].

    +inf where the estimate lies above the anchors without limit, −inf where below, NaN where the
    battles do not determine it.
    """
    if labels.max(initial=0) == 0:
        return strengths - strengths[anchors].mean()
    reach = _reachable(scores, labels)
    scored = reach[np.ix_(labels, labels[anchors])]  # [models, anchors]
    conceded = reach[np.ix_(labels[anchors], labels)].T
    same, above, below = scored & conceded, scored & ~conceded, conceded & ~scored
    finite = strengths - strengths[anchors].mean()
    up = (same | above).all(axis=1) & above.any(axis=1)
    down = (same | below).all(axis=1) & below.any(axis=1)
    unbounded = np.where(up, np.inf, np.where(down, -np.inf, np.nan))
    return np.where(same.all(axis=1), finite, unbounded)


def _strong_components(edges: NDArray[np.bool_]) -> Labels:
    _, labels = csgraph.connected_components(csr_array(edges), directed=True, connection="strong")
    return labels.astype(np.intp)


def _reachable(scores: Floats, labels: Labels) -> NDArray[np.bool_]:
    """`[c, d]`: component c scored against d or one that reaches d; true on the diagonal."""
    groups = int(labels.max()) + 1
    reach = np.eye(groups, dtype=np.bool_)
    winner, loser = np.nonzero(scores > 0)
    reach[labels[winner], labels[loser]] = True
    for _ in range(groups.bit_length()):  # each squaring doubles the length of the paths
        reach = (reach.astype(np.float64) @ reach) > 0
    return reach


def _log_likelihood(scores: Floats, theta: Floats) -> Floats:
    return (scores * special.log_expit(theta[:, :, None] - theta[:, None, :])).sum(axis=(1, 2))


def _derivatives(scores: Floats, total: Floats, theta: Floats) -> tuple[Floats, Floats]:
    p = special.expit(theta[:, :, None] - theta[:, None, :])
    return (scores - total * p).sum(axis=2), laplacian(total * p * (1 - p))


def _damped_step(
    scores: Floats, theta: Floats, value: Floats, step: Floats
) -> tuple[Floats, Floats]:
    """The strengths and log-likelihoods after the step, halved for every data set whose likelihood
    would fall."""
    slack = 1e-12 * np.abs(value)  # the rounding error of a sum over many battles
    size = np.ones_like(value)
    for _ in range(MAX_HALVINGS):
        moved = theta + size[:, None] * step
        after = _log_likelihood(scores, moved)
        worse = after < value - slack
        if not worse.any():
            break
        size = np.where(worse, size / 2, size)
    return moved, after


def laplacian(weights: Floats) -> Floats:
    """Σ w_ij·(e_i − e_j)(e_i − e_j)ᵀ over pairs, from a symmetric weight matrix [..., m, m]."""
    out = -weights
    diagonal = np.arange(weights.shape[-1])
    out[..., diagonal, diagonal] += weights.sum(axis=-1)
    return out
