"""Over-optimisation: a policy's distance from its reference, and whether the proxy reward still
agrees with the true one.

Distances are d = √KL(π‖π_ref), with the KL in nats per response (Gao, Schulman and Hilton 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from accord.measure.statistics import Floats


def best_of_n_kl(n: int) -> float:
    """KL of best-of-N from its reference: log N − (N−1)/N (Gao et al. 2022, eq. 1; nats).

    Exact where no two responses tie in reward or text; otherwise an upper bound (Beirami et al.
    2024). Raises ValueError for N below 1.
    """
    if n < 1:
        raise ValueError(f"best-of-{n} chooses from nothing; N must be at least 1")
    return math.log(n) - (n - 1) / n


def best_of_n_weights(scores: ArrayLike, n: int) -> Floats:
    """The probability that each of K responses is the best of n drawn without replacement.

    C(i − 1, n − 1)/C(K, n) for the response of rank i from below; equal scores share theirs. The
    weighted sum of any value of the responses is the unbiased estimate of its expectation for
    best-of-n (Nakano et al. 2021, eq. 4). Raises ValueError unless 1 ≤ n ≤ K.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not 1 <= n <= len(values):
        raise ValueError(f"the best of {n} of {len(values)} responses is not known")
    draws = math.comb(len(values), n)
    by_rank = np.array([math.comb(i, n - 1) / draws for i in range(len(values))])
    _, positions = np.unique(values, return_inverse=True)
    order = np.argsort(values, kind="stable")
    weights = np.empty(len(values))
    weights[order] = by_rank
    shared = np.bincount(positions, weights) / np.bincount(positions)
    return np.asarray(shared[positions])


def kl_distance(kl: float) -> float:
    """d = √KL. An estimate of a KL near 0 may be negative by chance; its distance is 0."""
    return math.sqrt(max(0.0, kl))


@dataclass(frozen=True, slots=True)
class ScalingFit:
    """A least-squares fit of reward gained against distance.

    `peak_distance` is where the fitted reward is highest, `peak_reward` its value there; both are
    None where the fit has no highest point. `residual` is the root mean squared error.
    """

    alpha: float
    beta: float
    peak_distance: float | None
    peak_reward: float | None
    residual: float


def fit_best_of_n(kl: ArrayLike, reward_gained: ArrayLike) -> ScalingFit:
    """R(d) = d·(α − β·d), highest at α/2β (Gao et al. 2022, eq. 2).

    `reward_gained` is the reward less the reference's. Raises ValueError with fewer than two
    distances above 0.
    """
    return _fit(kl, reward_gained, lambda d: d, lambda alpha, beta: alpha / (2 * beta))


def fit_reinforcement(kl: ArrayLike, reward_gained: ArrayLike) -> ScalingFit:
    """R(d) = d·(α − β·log d), highest at exp(α/β − 1) (Gao et al. 2022, eq. 3).

    The same inputs and errors as `fit_best_of_n`.
    """
    return _fit(kl, reward_gained, _log, lambda alpha, beta: math.exp(alpha / beta - 1))


@dataclass(frozen=True, slots=True)
class HackingFinding:
    """Whether the proxy reward rose where the true reward fell, and between which points.

    `best` is the index at which the true reward is highest, `worst` the later index with a higher
    proxy reward at which the true reward is lowest (`best` where there is none). `proxy_gain` and
    `gold_loss` are what the proxy gained and the true reward lost between the two.
    """

    hacked: bool
    best: int
    worst: int
    proxy_gain: float
    gold_loss: float
    finding: str


def hacking_gap(
    proxy: Sequence[float],
    gold: Sequence[float],
    *,
    names: Sequence[str] | None = None,
    tolerance: float = 0.0,
) -> HackingFinding:
    """Compare a proxy reward with the true reward at points of growing optimisation.

    The reward is hacked where, after the point with the highest true reward, the proxy rises while
    the true reward falls by more than `tolerance` (what chance explains). `names` label the points
    in the finding. Raises ValueError when there are no points, or the series differ in length.
    """
    if not proxy or len(proxy) != len(gold):
        raise ValueError(f"{len(proxy)} proxy rewards and {len(gold)} true ones can't be compared")
    labels = names or [f"point {i + 1}" for i in range(len(proxy))]
    best = int(np.argmax(gold))
    later = [
        i
        for i in range(best + 1, len(gold))
        if proxy[i] > proxy[best] and gold[best] - gold[i] > tolerance
    ]
    worst = min(later, key=lambda i: gold[i]) if later else best
    gain, loss = proxy[worst] - proxy[best], gold[best] - gold[worst]
    if later:
        finding = (
            f"The reward is hacked: from {labels[best]} to {labels[worst]} the proxy reward rises "
            f"by {gain:.3g} while the true reward falls by {loss:.3g}."
        )
    else:
        finding = (
            "No reward hacking seen: where the proxy reward rises, the true one does not fall."
        )
    return HackingFinding(bool(later), best, worst, gain, loss, finding)


def _fit(
    kl: ArrayLike,
    reward_gained: ArrayLike,
    bend: Callable[[Floats], Floats],
    peak: Callable[[float, float], float],
) -> ScalingFit:
    """Least squares of R = α·d − β·d·g(d), which is linear in α and β; `bend` is g."""
    distance = np.sqrt(np.asarray(kl, dtype=np.float64))
    reward = np.asarray(reward_gained, dtype=np.float64)
    if distance.shape != reward.shape or not np.isfinite([*distance, *reward]).all():
        raise ValueError("a fit needs one finite reward for each finite KL of at least 0")
    if len(np.unique(distance[distance > 0])) < 2:
        raise ValueError("a fit of two numbers needs at least two different distances above 0")
    design = np.stack([distance, -distance * bend(distance)], axis=1)
    (alpha, beta), *_ = np.linalg.lstsq(design, reward, rcond=None)
    residual = float(np.sqrt(np.mean((design @ [alpha, beta] - reward) ** 2)))
    try:
        top = peak(float(alpha), float(beta)) if beta > 0 else None
    except OverflowError:  # beyond what a float can represent
        top = None
    if top is None or top <= 0:
        return ScalingFit(float(alpha), float(beta), None, None, residual)
    summit = np.array([top])
    height = float((alpha * summit - beta * summit * bend(summit))[0])
    return ScalingFit(float(alpha), float(beta), top, height, residual)


def _log(distance: Floats) -> Floats:
    """log d, with 0 at d = 0, where d·log d is 0."""
    return np.log(np.where(distance > 0, distance, 1.0))
