"""How far answers lie from those that a reward model was trained on.

The Mahalanobis distance of a network's last hidden state is a plain detector of inputs unlike its
training data (Lee et al. 2018), and a reward model's scores mean least where it is large.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accord.errors import DataError
from accord.measure.audits.audit import Audit, AuditSample, Threshold, make_audit
from accord.measure.audits.document import format_value
from accord.measure.statistics import NO_DATA, Floats, Interval, clustered_proportion

QUANTILES = (0.95, 0.99)
LEAST = 40
"""Answers that are needed at least, to fit and again to measure quantiles."""
DISTANCE = Threshold(
    0.15,
    0.50,
    "5% of answers like those that it was trained on lie this far out; where half do, its scores "
    "are extrapolated for half of what the policy writes",
)


@dataclass(frozen=True)
class Spread:
    """The mean (D,) of hidden states, and the Cholesky factor (D, D) of their shrunk covariance;
    `shrinkage` is the weight of the spherical part."""

    mean: Floats
    factor: Floats
    shrinkage: float

    def distances(self, states: Floats) -> Floats:
        """The Mahalanobis distance √((x − μ)ᵀ Σ⁻¹ (x − μ)) of states (n, D)."""
        from scipy.linalg import solve_triangular

        whitened = solve_triangular(self.factor, (states - self.mean).T, lower=True)
        return np.asarray(np.sqrt(np.sum(whitened**2, axis=0)), dtype=np.float64)


def ledoit_wolf(states: Floats) -> tuple[Floats, float]:
    """The shrunk covariance (1 − ρ)·S + ρ·μI of states (n, D), and ρ (Ledoit and Wolf 2004).

    S is the covariance over n, μ = tr(S)/D. ρ = min(b², d²)/d² with d² = ‖S − μI‖²/D and
    b² = Σᵢ ‖xᵢxᵢᵀ − S‖²/(n²D), for xᵢ less their mean (eq. 14 and lemmas 3.2 to 3.4).
    """
    count, width = states.shape
    centred = states - states.mean(0)
    covariance = centred.T @ centred / count
    scale = float(np.trace(covariance)) / width
    apart = float(np.sum(covariance**2)) / width - scale**2
    # Σᵢ ‖xᵢxᵢᵀ − S‖² = Σᵢ ‖xᵢ‖⁴ − n‖S‖², without a matrix for each state
    fourth = float(np.sum(np.sum(centred**2, axis=1) ** 2))
    noise = (fourth - count * float(np.sum(covariance**2))) / (count**2 * width)
    shrinkage = 1.0 if apart <= 0 else max(0.0, min(1.0, noise / apart))
    shrunk = (1 - shrinkage) * covariance
    shrunk[np.diag_indices(width)] += shrinkage * scale
    return shrunk, shrinkage


def fit_spread(states: Floats) -> Spread:
    """Mean and shrunk covariance of the hidden states (n, D) of training answers.

    Raises DataError where all are the same.
    """
    covariance, shrinkage = ledoit_wolf(states)
    try:
        factor = np.asarray(np.linalg.cholesky(covariance), dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise DataError(
            f"The last hidden states of {len(states):,} training answers have no spread, so no "
            f"distance from them is known. Give the pairs that the reward model was trained on."
        ) from error
    return Spread(np.asarray(states.mean(0), dtype=np.float64), factor, shrinkage)


def distance_audit(
    spread: Spread,
    held_out: Floats,
    distances: Floats,
    prompts: Sequence[str],
    responses: Sequence[str],
    *,
    fitted: int,
    confidence: float = 0.95,
    details: Mapping[str, Any] | None = None,
) -> Audit:
    """The share of responses that lie beyond the 95% quantile of held-out training answers.

    `held_out` and `distances` are the distances of training answers that `spread` was not fitted
    to, and of the responses. A quantile is the ⌈q(n + 1)⌉-th smallest of n, as in split conformal
    prediction: of new answers of the same kind at least a share q lies below it.
    """
    limits = {q: conformal_quantile(held_out, q) for q in QUANTILES}
    values = {
        q: _share(distances > limit, prompts, confidence) if np.isfinite(limit) else NO_DATA
        for q, limit in limits.items()
    }
    value = values[QUANTILES[0]]
    farthest = np.argsort(-distances, kind="stable")[:5]
    beyond = int((distances > limits[QUANTILES[0]]).sum())
    far = f"Too few answers were left out ({len(held_out):,}) to know their 99% quantile."
    if np.isfinite(limits[QUANTILES[1]]):
        far = f"Beyond 99% of them: {format_value(values[QUANTILES[1]], 'share')}."
    return make_audit(
        "distance",
        group="distance from the training data",
        question="Do the policy's answers look like those that it was trained on?",
        finding=(
            f"{beyond:,} of {len(distances):,} responses lie farther out than 95% of training "
            f"answers that were left out of the fit: {format_value(value, 'share')}. {far}"
        ),
        value=value,
        threshold=DISTANCE,
        count=len(distances),
        cases="responses",
        unit="share",
        samples=[
            AuditSample(
                prompts[i],
                responses[i],
                note="among the farthest from the training data",
                scores={"distance": float(distances[i]), "95% quantile": limits[QUANTILES[0]]},
            )
            for i in farthest
            if distances[i] > limits[QUANTILES[0]]
        ],
        details={
            "beyond_99": values[QUANTILES[1]].to_json(),
            "quantile_95": limits[0.95],
            "quantile_99": limits[0.99] if np.isfinite(limits[0.99]) else None,
            "median_training": float(np.median(held_out)),
            "median_responses": float(np.median(distances)),
            "shrinkage": spread.shrinkage,
            "fitted": fitted,
            "left_out": len(held_out),
            **(details or {}),
        },
    )


def conformal_quantile(values: Floats, share: float) -> float:
    """The ⌈q(n + 1)⌉-th smallest of n values; infinity where there is none."""
    rank = int(np.ceil(share * (len(values) + 1) - 1e-9))
    return float("inf") if rank > len(values) else float(np.sort(values)[rank - 1])


def _share(beyond: NDArray[np.bool_], prompts: Sequence[str], confidence: float) -> Interval:
    of: dict[str, list[float]] = {}
    for prompt, is_beyond in zip(prompts, beyond, strict=True):
        of.setdefault(prompt, []).append(float(is_beyond))
    return clustered_proportion(list(of.values()), confidence=confidence)
