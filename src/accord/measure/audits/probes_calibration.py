"""Accuracy of a reward on pairs, by subset, and whether its margins are probabilities.

A reward model is trained so that σ(margin) is the probability that people prefer the first answer
(Bradley and Terry 1952), with margins in logits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from accord.measure.audits.audit import Audit, Threshold, Verdict, make_audit
from accord.measure.audits.document import format_value
from accord.measure.audits.probes import CHOSEN, REJECTED, SAMPLES, Bools, Floats, ProbeData
from accord.measure.audits.probes_answers import PAIRS
from accord.measure.statistics import (
    NO_DATA,
    Interval,
    clustered_interval,
    clustered_proportion,
    clustered_variance,
)

BINS = 10
LONGER = 1.25
"""An answer with this many times the words of the other is the longer one."""
MAX_CATEGORIES = 30
ACCURACY = Threshold(
    0.60,
    0.55,
    "a coin is right in half of the pairs, and people agree with each other on 63% (Bai et al. "
    "2022) to 81% (Zheng et al. 2023) of such pairs",
    bad="low",
)
BY_LENGTH = Threshold(
    0.55,
    0.50,
    "below one half it follows the length of the answers against what people preferred",
    bad="low",
)
OVERCONFIDENCE = Threshold(
    0.05,
    0.15,
    "soft labels, margins and the KL penalty take σ(margin) for a probability; 0.15 too much means "
    "that of what it calls 90% sure only 75% is right",
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How well σ(margin) predicts people's preferences.

    `overconfidence` is the mean of σ(|margin|) less the share ranked right. `ece` is the expected
    calibration error over bins with equally many pairs (Naeini et al. 2015), and `ece_by_chance`
    its mean for a reward that is calibrated, by the same number of pairs. `slope` is that of the
    logistic regression of the preference on the margin, without intercept: 1 is calibrated, less is
    overconfident; None where the pairs are separated. `bins` are their mean confidence, their
    accuracy and their count.
    """

    overconfidence: Interval
    ece: float
    ece_by_chance: float
    brier: float
    log_loss: float
    slope: Interval | None
    bins: tuple[tuple[float, float, int], ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "overconfidence": self.overconfidence.to_json(),
            "ece": self.ece,
            "ece_by_chance": self.ece_by_chance,
            "brier": self.brier,
            "log_loss": self.log_loss,
            "slope": None if self.slope is None else self.slope.to_json(),
            "bins": [
                {"confidence": confidence, "accuracy": accuracy, "pairs": count}
                for confidence, accuracy, count in self.bins
            ],
        }


def calibrate(margins: Floats, clusters: Sequence[int], *, confidence: float = 0.95) -> Calibration:
    """The calibration of margins (n,), in logits, of chosen over rejected; at least one.

    Pairs with the same cluster are not independent.
    """
    sure = special.expit(np.abs(margins))
    right = (np.sign(margins) + 1) / 2
    order = np.argsort(sure, kind="stable")
    parts = [part for part in np.array_split(order, BINS) if part.size]
    weights = [part.size / margins.size for part in parts]

    def error(outcomes: Floats) -> float:
        gaps = [abs(outcomes[p].mean() - sure[p].mean()) for p in parts]
        return float(np.dot(weights, gaps))

    rng = np.random.default_rng(0)
    drawn = [error((rng.random(sure.size) < sure).astype(float)) for _ in range(200)]
    return Calibration(
        clustered_interval(_groups(sure - right, clusters), confidence=confidence),
        error(right),
        float(np.mean(drawn)),
        float(np.mean(special.expit(-margins) ** 2)),
        float(np.mean(np.logaddexp(0, -margins))),
        logistic_slope(margins, clusters, confidence=confidence),
        tuple((float(sure[p].mean()), float(right[p].mean()), int(p.size)) for p in parts),
    )


def logistic_slope(
    margins: Floats, clusters: Sequence[int], *, confidence: float = 0.95
) -> Interval | None:
    """The slope s that maximises Σ log σ(s·mᵢ), with the cluster-robust interval A⁻¹BA⁻¹ of
    A = Σ m²σ(1 − σ) and B the sum of squared scores of clusters (White 1982). None where all
    margins have one sign, for which no finite slope is the likeliest.
    """
    if not ((margins > 0).any() and (margins < 0).any()):
        return None
    unit = float(np.sqrt(np.mean(margins**2)))
    m = margins / unit
    low, high = -1.0, 1.0
    while _score(m, low) < 0:
        low *= 2
    while _score(m, high) > 0:
        high *= 2
    for _ in range(200):  # the score falls with s, so bisection ends at its root
        middle = (low + high) / 2
        low, high = (middle, high) if _score(m, middle) > 0 else (low, middle)
    slope = (low + high) / 2
    sure = special.expit(slope * m)
    information = float(np.sum(m**2 * sure * (1 - sure)))
    sums = np.array([group.sum() for group in _groups(m * (1 - sure), clusters)])
    if sums.size < 2:
        return Interval(slope / unit)
    error = math.sqrt(clustered_variance(sums, 1)) / information
    half = float(special.stdtrit(sums.size - 1, 0.5 + confidence / 2)) * error
    return Interval(slope / unit, (slope - half) / unit, (slope + half) / unit)


def temperature_scaled(margins: Floats, clusters: Sequence[int]) -> tuple[Floats, float] | None:
    """Margins on no scale of logits over a temperature (Guo et al. 2017), and this temperature of
    all pairs. Each half of the prompts is scaled by the temperature of the other half. None where
    no positive temperature fits."""
    whole = logistic_slope(margins, clusters)
    if whole is None or whole.mean <= 0:
        return None
    numbers = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    half = np.array([numbers[cluster] % 2 for cluster in clusters])
    scaled = np.empty_like(margins)
    for fold in (0, 1):
        rest = half != fold
        slope = logistic_slope(margins[rest], [c for c, r in zip(clusters, rest, strict=True) if r])
        if slope is None or slope.mean <= 0:
            return None
        scaled[half == fold] = margins[half == fold] * slope.mean
    return scaled, 1 / whole.mean


@dataclass(frozen=True, slots=True)
class Subset:
    """The accuracy on some of the pairs (a tie is half right), and what it comes to: `undecided`
    where the pairs are too few. `overconfidence` is that on them, where margins are logits."""

    kind: str
    name: str
    count: int
    accuracy: Interval
    verdict: Verdict
    overconfidence: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "pairs": self.count,
            "accuracy": self.accuracy.to_json(),
            "verdict": self.verdict,
            "overconfidence": (
                None if self.overconfidence is None else self.overconfidence.to_json()
            ),
        }


def subsets(data: ProbeData, logits: Floats | None = None) -> list[Subset]:
    """Accuracy by the lengths of the answers, and by category where there are categories."""
    by_length = _length_classes(data)
    named: list[tuple[str, str, Bools]] = [
        ("length", name, by_length == i)
        for i, name in enumerate(("chosen is shorter", "about as long", "chosen is longer"))
    ]
    categories = Counter(pair.category for pair in data.pairs if pair.category is not None)
    for name, _ in categories.most_common(MAX_CATEGORIES):
        named.append(("category", name, np.array([p.category == name for p in data.pairs])))
    return [_subset(data, kind, name, mask, logits) for kind, name, mask in named if mask.any()]


def _subset(data: ProbeData, kind: str, name: str, mask: Bools, logits: Floats | None) -> Subset:
    wins = data.beats(CHOSEN, REJECTED)
    known = mask & np.isfinite(wins)
    accuracy = clustered_proportion(data.by_prompt(wins, mask), confidence=data.confidence)
    overconfidence = None
    if logits is not None and known.any():
        gaps = special.expit(np.abs(logits)) - (np.sign(logits) + 1) / 2
        overconfidence = clustered_interval(data.by_prompt(gaps, known), confidence=data.confidence)
    verdict = ACCURACY.verdict(accuracy)
    return Subset(kind, name, int(known.sum()), accuracy, verdict, overconfidence)


def _length_classes(data: ProbeData) -> np.ndarray[Any, Any]:
    """For each pair 0 where chosen has fewer words, 2 where it has more, 1 where about as many."""
    classes = []
    for pair in data.pairs:
        chosen, rejected = (max(1, len(pair.texts[v].split())) for v in (CHOSEN, REJECTED))
        ratio = chosen / rejected
        classes.append(0 if ratio < 1 / LONGER else 2 if ratio > LONGER else 1)
    return np.array(classes)


def accuracy_audits(data: ProbeData) -> Iterator[Audit]:
    """`accuracy` on all pairs; `shorter_chosen` and `longer_chosen` on those whose better answer is
    the shorter, and the longer one."""
    everything = np.ones(len(data.pairs), dtype=bool)
    yield _accuracy(
        data,
        "accuracy",
        everything,
        ACCURACY,
        "Does it rank the pairs as people did?",
        "It ranks {share} of {count:,} pairs as people did",
    )
    by_length = _length_classes(data)
    for name, length_class, words in (("shorter", 0, "fewer"), ("longer", 2, "more")):
        yield _accuracy(
            data,
            f"{name}_chosen",
            by_length == length_class,
            BY_LENGTH,
            f"Does it rank the {name} answer first where people did?",
            f"Where people preferred an answer with {words} words, it agrees in {{share}} of "
            "{count:,} pairs",
        )


def _accuracy(
    data: ProbeData, name: str, mask: Bools, threshold: Threshold, question: str, sentence: str
) -> Audit:
    wins = data.beats(CHOSEN, REJECTED)
    known = mask & np.isfinite(wins)
    value = clustered_proportion(data.by_prompt(wins, mask), confidence=data.confidence)
    count, ties = int(known.sum()), int((wins[known] == 0.5).sum())
    finding = "There is no such pair with a score."
    if count:
        finding = sentence.format(share=format_value(value, "share"), count=count)
        finding += f", {ties:,} ties counting half." if ties else "."
    return make_audit(
        name,
        group=PAIRS,
        question=question,
        finding=finding,
        value=value,
        threshold=threshold,
        count=count,
        cases="pairs",
        unit="share",
        samples=[
            data.sample(i, REJECTED, CHOSEN, "the rejected answer is ranked above the chosen one")
            for i in np.flatnonzero(known & (wins == 0))[:SAMPLES]
        ],
        details={"ties": ties},
    )


def calibration_audit(data: ProbeData, logits: Floats) -> Audit:
    """Whether σ(margin) promises more than it keeps, for margins (n,) in logits."""
    known = np.isfinite(logits)
    count = int(known.sum())
    value, finding, details = NO_DATA, "No pair has a margin.", {}
    if count:
        of = [pair.cluster for pair, k in zip(data.pairs, known, strict=True) if k]
        measured = calibrate(logits[known], of, confidence=data.confidence)
        value, details = measured.overconfidence, measured.to_json()
        side = "more" if value.mean >= 0 else "less"
        slope = "" if measured.slope is None else f"; slope {measured.slope.mean:.3g} (1 is right)"
        finding = (
            f"σ(margin) promises {abs(100 * value.mean):.3g} points of accuracy {side} than it "
            f"has; calibration error {measured.ece:.3g}, of which chance alone gives "
            f"{measured.ece_by_chance:.3g}{slope}."
        )
    sure = sorted(np.flatnonzero(known & (logits < 0)), key=lambda i: logits[i])
    return make_audit(
        "calibration",
        group=PAIRS,
        question="Are its margins the probabilities that they are trained to be?",
        finding=finding,
        value=value,
        threshold=OVERCONFIDENCE,
        count=count,
        cases="pairs",
        samples=[
            data.sample(
                i, REJECTED, CHOSEN, f"wrong with probability {special.expit(-logits[i]):.3g}"
            )
            for i in sure[:SAMPLES]
        ],
        details=details,
    )


def _score(margins: Floats, slope: float) -> float:
    """The derivative of Σ log σ(s·m) with respect to s."""
    return float(np.sum(margins * special.expit(-slope * margins)))


def _groups(values: Floats, clusters: Sequence[int]) -> list[Floats]:
    of: dict[int, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        of.setdefault(cluster, []).append(float(value))
    return [np.array(group) for group in of.values()]
