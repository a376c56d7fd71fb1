"""Rates of red-teaming: corrected for the grader's errors, and at N attempts.

A grader that errs in one of two hundred texts "breaks" 39% of prompts within a hundred attempts
each. So a rate is given raw, and corrected with the grader's own error and its uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special

from accord.measure.statistics import (
    NO_DATA,
    Floats,
    Interval,
    clustered_interval,
    clustered_proportion,
)

Counts = NDArray[np.int64]
DRAWS = 20_000
LEAST_YOUDEN = 0.05
"""Sensitivity + specificity − 1 below which a grader says too little to correct by it."""


@dataclass(frozen=True, slots=True)
class GraderError:
    """How often a grader was right where the truth is known: `hits` of `positives` cases that have
    the property, and `rejections` of `negatives` that don't.

    Raises ValueError for counts that are none, or without a case of either kind.
    """

    hits: int
    positives: int
    rejections: int
    negatives: int

    def __post_init__(self) -> None:
        for right, cases in ((self.hits, self.positives), (self.rejections, self.negatives)):
            if not 0 <= right <= cases or cases < 1:
                raise ValueError(f"a grader can't be right in {right} of {cases} cases")

    @property
    def sensitivity(self) -> float:
        return self.hits / self.positives

    @property
    def specificity(self) -> float:
        return self.rejections / self.negatives

    def of_the_opposite(self) -> GraderError:
        """The same grader as one of the opposite property: complying is not refusing."""
        return GraderError(self.rejections, self.negatives, self.hits, self.positives)


@dataclass(frozen=True, slots=True)
class CorrectedShare:
    """A share as graded, and the true share that it suggests; `is_clipped` where that lay outside
    of 0 to 1 and is given as the nearer end: the errors alone explain all, or more than all."""

    raw: Interval
    corrected: Interval
    is_clipped: bool


def rogan_gladen(observed: float, sensitivity: float, specificity: float) -> float:
    """The true share behind an observed one: (p + specificity − 1)/(sensitivity + specificity − 1)
    (Rogan and Gladen 1978), not clipped. Raises ValueError for a grader no better than chance."""
    youden = sensitivity + specificity - 1
    if youden < LEAST_YOUDEN:
        raise ValueError(
            f"a grader with sensitivity {sensitivity:.3g} and specificity {specificity:.3g} is "
            "hardly better than chance, and no rate can be corrected by it"
        )
    return (observed + specificity - 1) / youden


def corrected_share(
    values_by_prompt: Sequence[ArrayLike],
    error: GraderError,
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> CorrectedShare:
    """The share of values (0 or 1) by prompt, raw and corrected.

    The corrected interval carries the uncertainty of all three rates: each is drawn from its Beta
    posterior with Jeffreys' prior, the observed one with as many trials as would have its variance
    by prompts (Korn and Graubard 1998), and the quantiles of the corrected draws are its bounds,
    clipped to [0, 1]. The posterior of Jeffreys' prior covers about as often as it promises near 0
    too (Brown, Cai and DasGupta 2001). A clipped share suggests that the grader errs less often on
    these texts than on those where it was measured; its interval then reaches as far as the raw
    one. Raises ValueError for a grader no better than chance.
    """
    raw = clustered_proportion(values_by_prompt, confidence=confidence)
    if not math.isfinite(raw.mean):
        return CorrectedShare(NO_DATA, NO_DATA, False)
    estimate = rogan_gladen(raw.mean, error.sensitivity, error.specificity)
    is_clipped = not 0 <= estimate <= 1
    trials = _effective_trials(values_by_prompt, raw.mean)
    mean = min(1.0, max(0.0, estimate))
    if trials is None:
        return CorrectedShare(raw, Interval(mean), is_clipped)
    rng = np.random.default_rng(seed)

    def draw(right: float, cases: float) -> Floats:
        return rng.beta(right + 0.5, cases - right + 0.5, DRAWS)

    observed = draw(raw.mean * trials, trials)
    sensitivity = draw(error.hits, error.positives)
    specificity = draw(error.rejections, error.negatives)
    youden = np.maximum(sensitivity + specificity - 1, LEAST_YOUDEN)
    drawn = np.clip((observed + specificity - 1) / youden, 0, 1)
    tail = (1 - confidence) / 2
    low, high = (float(bound) for bound in np.quantile(drawn, [tail, 1 - tail]))
    if is_clipped:  # the grader errs less here than where it was measured
        low, high = min(low, raw.low or 0.0), max(high, raw.high or 0.0)
    return CorrectedShare(raw, Interval(mean, min(low, mean), max(high, mean)), is_clipped)


def _effective_trials(values_by_prompt: Sequence[ArrayLike], mean: float) -> float | None:
    """The number of independent trials with the variance of a share clustered by prompt; None for
    one prompt with several values, whose spread over prompts is not known."""
    prompts = [np.atleast_1d(np.asarray(values)) for values in values_by_prompt]
    sizes = [values.size for values in prompts if values.size]
    count, groups = sum(sizes), len(sizes)
    if count == groups or mean in (0.0, 1.0):
        return float(groups)
    if groups == 1:
        return None
    interval = clustered_interval([values for values in prompts if values.size])
    assert interval.high is not None
    error = (interval.high - interval.mean) / float(special.stdtrit(groups - 1, 0.975))
    if error == 0:
        return float(count)
    return max(1.0, min(float(count), mean * (1 - mean) / error**2))


def success_within(alpha: float, beta: float, attempts: ArrayLike) -> Floats:
    """The chance that one of N attempts at a prompt succeeds, over prompts whose chances at a
    single one are beta(α, β): 1 − Γ(α+β)Γ(β+N) / (Γ(β)Γ(α+β+N)) (Hughes et al. 2024)."""
    n = np.asarray(attempts, dtype=np.float64)
    log_none = (
        special.gammaln(alpha + beta)
        + special.gammaln(beta + n)
        - special.gammaln(beta)
        - special.gammaln(alpha + beta + n)
    )
    return np.asarray(-np.expm1(log_none))


def unbiased_success_within(
    successes: Sequence[int], trials: Sequence[int], attempts: int
) -> float | None:
    """The mean over prompts of 1 − C(K−s, N)/C(K, N) for s successes in K attempts: the unbiased
    estimate of success within N (Chen et al. 2021, eq. 1). None where a prompt has fewer than N."""
    if not trials or min(trials) < attempts:
        return None
    s, k = (np.asarray(values, dtype=np.float64) for values in (successes, trials))
    steps = np.arange(attempts)[:, None]
    none = np.prod(np.clip((k - s - steps) / (k - steps), 0, None), axis=0)
    return float(np.mean(1 - none))


@dataclass(frozen=True, slots=True)
class SuccessCurve:
    """Success within N attempts, by a beta distribution of the prompts' chances.

    `alpha` and `beta` are its parameters. `is_pooled` is True where the prompts don't differ by
    more than chance explains, so the fit is one chance for all.
    """

    alpha: float
    beta: float
    at: dict[int, Interval]
    is_pooled: bool


LARGEST = 1e4  # of α + β: prompts with hardly any difference
SMALLEST = 1e-3
Rates = tuple[float, float]


def fit_success(
    successes: Sequence[int],
    trials: Sequence[int],
    at: Sequence[int],
    *,
    error: GraderError | None = None,
    resamples: int = 100,
    confidence: float = 0.95,
    seed: int = 0,
) -> SuccessCurve | None:
    """Success within each of `at` attempts, from s successes in K attempts for each prompt.

    α and β maximise the likelihood of the beta-binomial (Skellam 1948); intervals are percentiles
    of a bootstrap over prompts. With `error`, that of a grader of success, the graded successes are
    those of T true ones, of which it sees a share, and of the K − T failures, of which it mistakes
    a share; the likelihood sums over T, and each bootstrap draws the two shares again. So N
    attempts don't multiply the grader's error.

    None where no prompt was attempted more than once (the chance of an attempt can't be
    distinguished from the difficulty of its prompt), or where no or every attempt succeeded: the
    likelihood then has no maximum. Raises ValueError for a grader no better than chance.
    """
    s, k = (np.asarray(values, dtype=np.int64) for values in (successes, trials))
    if len(s) < 2 or k.max(initial=0) < 2 or s.sum() in (0, k.sum()):
        return None
    rates = (1.0, 1.0)
    if error is not None:
        rates = (error.sensitivity, error.specificity)
        rogan_gladen(0.5, *rates)  # refuses a grader no better than chance
    share = min(0.98, max(0.02, float(s.sum() / k.sum())))
    starts = [np.array([special.logit(share), math.log(size)]) for size in (1.0, 30.0)]
    fitted = _fit(s, k, rates, starts)
    alpha, beta = _parameters(fitted)
    values = success_within(alpha, beta, at)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        rows = rng.integers(0, len(s), len(s))
        if error is not None:
            rates = (
                rng.beta(error.hits + 0.5, error.positives - error.hits + 0.5),
                rng.beta(error.rejections + 0.5, error.negatives - error.rejections + 0.5),
            )
        drawn.append(_resampled(s[rows], k[rows], at, rates, fitted))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.array(drawn), [tail, 1 - tail], axis=0)
    intervals = {
        n: Interval(float(v), min(float(v), float(a)), max(float(v), float(b)))
        for n, v, a, b in zip(at, values, low, high, strict=True)
    }
    return SuccessCurve(alpha, beta, intervals, alpha + beta > 0.9 * LARGEST)


def _resampled(s: Counts, k: Counts, at: Sequence[int], rates: Rates, start: Floats) -> Floats:
    if s.sum() in (0, k.sum()):
        return np.full(len(at), float(s.sum() > 0))
    return success_within(*_parameters(_fit(s, k, rates, [start])), at)


def _fit(s: Counts, k: Counts, rates: Rates, starts: Sequence[Floats]) -> Floats:
    """The logit of the mean and the log of α + β of the largest likelihood, with α + β between
    `SMALLEST` and `LARGEST`."""
    pairs, counts = np.unique(np.stack([s, k]), axis=1, return_counts=True)
    trials = pairs[1][:, None]
    true = np.minimum(np.arange(trials.max() + 1), trials)
    graded = np.zeros(true.shape)
    for row, (successes, attempts) in zip(graded, pairs.T, strict=True):
        row[: attempts + 1] = _graded_given_true(int(successes), int(attempts), rates)
    log_choose = -np.log(trials + 1) - special.betaln(true + 1, trials - true + 1)

    def loss(x: Floats) -> float:
        a, b = _parameters(x)
        log_p = log_choose + special.betaln(true + a, trials - true + b) - special.betaln(a, b)
        likelihood = (graded * np.exp(log_p)).sum(axis=1)
        return -float(counts @ np.log(np.maximum(likelihood, 1e-300)))

    bounds = [(-12.0, 12.0), (math.log(SMALLEST), math.log(LARGEST))]
    fits = [optimize.minimize(loss, x, bounds=bounds, method="L-BFGS-B") for x in starts]
    best: Floats = min(fits, key=lambda fit: float(fit.fun)).x
    return best


def _parameters(x: Floats) -> tuple[float, float]:
    """α and β."""
    mean, size = float(special.expit(x[0])), math.exp(float(x[1]))
    return size * mean, size * (1 - mean)


def _graded_given_true(graded: int, trials: int, rates: Rates) -> Floats:
    """The chance of `graded` successes by a grader, for each number 0 to `trials` of true ones."""
    sensitivity, specificity = rates
    if rates == (1.0, 1.0):
        return np.eye(trials + 1)[graded]
    seen = np.arange(graded + 1)
    chances = np.zeros(trials + 1)
    for true in range(trials + 1):
        of_true = _binomial(seen, true, sensitivity)
        of_false = _binomial(graded - seen, trials - true, 1 - specificity)
        chances[true] = float(of_true @ of_false)
    return chances


def _binomial(successes: NDArray[np.int64], trials: int, chance: float) -> Floats:
    within = successes <= trials
    k = np.where(within, successes, 0)
    log_p = (
        -np.log(trials + 1)
        - special.betaln(k + 1, trials - k + 1)
        + special.xlogy(k, chance)
        + special.xlog1py(trials - k, -chance)
    )
    return np.where(within, np.exp(log_p), 0.0)
