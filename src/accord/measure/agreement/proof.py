"""The proof of a judge: passed, failed, or not known yet, from people's verdicts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from accord.measure.agreement.coefficients import Coefficient
from accord.measure.agreement.judged import CATEGORIES, NAMES, JudgedPairs, group_by_prompt
from accord.measure.agreement.kappas import cohen_from_codes
from accord.measure.agreement.preferences import Preference, measure_preferences
from accord.measure.statistics import (
    Interval,
    clustered_proportion,
    finite_or_none,
    proportion_interval,
)

Result = Literal["pass", "fail", "unknown"]

WORTHWHILE = 0.2
"""A kappa that is surely less than this is not worth more verdicts: Landis and Koch (1977) call 0
to 0.2 slight. Chance alone never lies surely below 0."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What people's verdicts say of a judge.

    `kappa` is its Cohen's kappa with people over the pairs that it labels (both orders gave the
    same verdict); the best constant answer has the kappa 0. `accuracy` and `constant_accuracy` are
    shares of the same pairs. `order_kappa` is that of its two orders with each other. `rows` counts
    the pairs with people's label and both of the judge's verdicts, `decided` those it labels,
    `missing` those without its verdict. `more` is the number of further pairs judged by people that
    would decide at the present kappa; 0 where it is decided, None where it is unknown.
    """

    result: Result
    reason: str
    rows: int
    decided: int
    missing: int
    kappa: Coefficient
    order_kappa: Coefficient
    accuracy: Interval
    constant_answer: str
    constant_accuracy: float
    min_kappa: float
    preferences: Mapping[str, Preference]
    more: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "result": self.result,
            "reason": self.reason,
            "rows": self.rows,
            "decided": self.decided,
            "missing": self.missing,
            "kappa": self.kappa.to_json(),
            "min_kappa": self.min_kappa,
            "order_kappa": self.order_kappa.to_json(),
            "accuracy": self.accuracy.to_json(),
            "constant_answer": self.constant_answer,
            "constant_accuracy": finite_or_none(self.constant_accuracy),
            "preferences": {name: p.to_json() for name, p in self.preferences.items()},
            "more": self.more,
        }


def prove_judge(
    pairs: JudgedPairs,
    *,
    min_kappa: float = 0.0,
    confidence: float = 0.95,
    rounds: int = 2000,
    seed: int = 0,
) -> Proof:
    """Whether a judge agrees with people better than the best constant answer does.

    It passes where the lower bound of its kappa is above `min_kappa` (0 is the best constant
    answer's). It fails where the upper bound is below that or below `WORTHWHILE`, where the kappa
    of its two orders with each other surely is, or where it labels no pair and its orders surely
    disagree in more than half of them. Otherwise more verdicts are needed. A preference that
    people do not share is named among the reasons; it does not fail a judge by itself, because
    what it does to the labels is in the kappa.
    """
    options: dict[str, Any] = {"confidence": confidence, "rounds": rounds, "seed": seed}
    asked = pairs.asked
    labels = np.where(asked, pairs.labels, -1)
    people = np.where(asked, pairs.people, -1)
    kappa = cohen_from_codes(people, labels, CATEGORIES, clusters=pairs.prompt, **options)
    forward, backward = (np.where(asked, v, -1) for v in (pairs.forward, pairs.backward))
    order_kappa = cohen_from_codes(forward, backward, CATEGORIES, clusters=pairs.prompt, **options)
    decided = labels >= 0
    constant, constant_accuracy = _best_constant(pairs, decided)
    proof = Proof(
        "unknown",
        "",
        int(asked.sum()),
        int(decided.sum()),
        int(((pairs.people >= 0) & ~asked).sum()),
        kappa,
        order_kappa,
        _accuracy(pairs, decided, confidence),
        constant,
        constant_accuracy,
        min_kappa,
        measure_preferences(pairs, confidence=confidence),
        None,
    )
    return _decide(proof, confidence)


def _best_constant(pairs: JudgedPairs, decided: NDArray[np.bool_]) -> tuple[str, float]:
    if not decided.any():
        return "", math.nan
    counts = np.bincount(pairs.people[decided], minlength=CATEGORIES)
    return NAMES[int(counts.argmax())], float(counts.max() / counts.sum())


def _accuracy(pairs: JudgedPairs, decided: NDArray[np.bool_], confidence: float) -> Interval:
    right = (pairs.labels == pairs.people)[decided].astype(np.float64)
    groups = group_by_prompt(right, pairs.prompt[decided])
    return clustered_proportion(groups, confidence=confidence)


def _decide(proof: Proof, confidence: float) -> Proof:
    kappa, bar = proof.kappa, proof.min_kappa
    result: Result = "unknown"
    more: int | None = 0
    if not proof.rows:
        text = "No pair has both people's label and the judge's verdicts in both orders."
        return replace(proof, reason=text)
    if kappa.low is not None and kappa.low > bar:
        result, text = "pass", f"Its agreement with people is {_show(kappa)}, {_above(bar)}."
    elif not proof.decided:
        result, text, more = _decide_without_labels(proof, confidence)
    elif kappa.high is not None and kappa.high < max(bar, WORTHWHILE):
        result, text = "fail", _failure(kappa, bar)
    elif _orders_disagree(proof):
        share = proof.decided / proof.rows
        result = "fail"
        text = (
            f"Its two orders agree no better than by chance ({_show(proof.order_kappa)} with each "
            f"other, {share:.0%} equal): it answers at random or by the order shown."
        )
    else:
        text, more = _undecided(proof, confidence)
    sentences = [text, *_causes(proof, result)]
    return replace(proof, result=result, reason=" ".join(sentences), more=more)


def _failure(kappa: Coefficient, bar: float) -> str:
    high = kappa.high if kappa.high is not None else math.inf
    if high < bar:
        return f"Its agreement with people is {_show(kappa)}, surely below {_bar(bar)}."
    return (
        f"Its agreement with people is {_show(kappa)}: not above {_bar(bar)}, and surely less than "
        f"{WORTHWHILE:g}, below which agreement is slight."
    )


def _decide_without_labels(proof: Proof, confidence: float) -> tuple[Result, str, int | None]:
    """A judge whose orders disagree everywhere: how sure is that, from so many pairs?"""
    high = proportion_interval(0, proof.rows, confidence=confidence).high
    text = f"Its two orders disagree in all {proof.rows} pairs, so that it labels none."
    if high is not None and high < 0.5:
        return "fail", text, 0
    needed = math.ceil(math.log((1 - confidence) / 2) / math.log(0.5)) + 1
    more = needed - proof.rows
    return "unknown", f"{text} {more} more pairs would decide.", more


def _orders_disagree(proof: Proof) -> bool:
    high = proof.order_kappa.high
    return high is not None and high < WORTHWHILE


def _undecided(proof: Proof, confidence: float) -> tuple[str, int | None]:
    kappa = proof.kappa
    if kappa.value is None:
        return (
            f"Agreement is not defined: {kappa.undefined}. Give pairs on which people's verdicts "
            f"differ.",
            None,
        )
    more = more_verdicts(proof, confidence=confidence)
    needed = "" if more is None else f" At this agreement {more:,} more pairs would decide."
    return f"Its agreement with people is {_show(kappa)}, which decides nothing.{needed}", more


def more_verdicts(proof: Proof, *, confidence: float = 0.95) -> int | None:
    """How many further pairs that people judge would decide, if the kappa stays what it is.

    The width of the interval falls with the root of the number of pairs. The judge passes when the
    lower bound reaches the bar, and fails when the upper one falls below the bar or `WORTHWHILE`;
    the nearer of the two counts. Pairs that it does not label are counted in the same share.
    """
    kappa, bar = proof.kappa, proof.min_kappa
    if kappa.value is None or kappa.expected is None:
        return None
    if kappa.observed == 1.0:  # the exact bound 1 − (1 − tail^(1/n))/D_e: see `estimate`
        largest = 1 - (1 - bar) * (1 - kappa.expected)
        if largest <= 0:
            return None
        needed = math.log((1 - confidence) / 2) / math.log(largest)
    elif kappa.low is None or kappa.high is None:
        return None
    else:
        gaps = [
            (kappa.value - bar, kappa.value - kappa.low),
            (max(bar, WORTHWHILE) - kappa.value, kappa.high - kappa.value),
        ]
        factors = [(half / gap) ** 2 for gap, half in gaps if gap > 0]
        if not factors:
            return None
        needed = proof.decided * min(factors)
    extra = math.floor(needed) + 1 - proof.decided
    return max(1, math.ceil(extra * proof.rows / max(1, proof.decided)))


def _causes(proof: Proof, result: Result) -> list[str]:
    """What else to know: biases, pairs without a label, and answers that could not be read."""
    causes = [p.sentence for p in proof.preferences.values() if p.finding == "biased"]
    length = proof.preferences["length"]
    if result == "pass" and length.finding == "shared":
        causes.append(length.sentence)
    share = proof.decided / proof.rows
    if proof.decided and share < 0.9:
        causes.append(f"It labels {share:.0%} of the pairs; in the others its two orders disagree.")
    if proof.missing:
        causes.append(f"{proof.missing} pairs have no verdict that can be read.")
    return causes


def _show(kappa: Coefficient) -> str:
    value = math.nan if kappa.value is None else kappa.value
    if kappa.low is None or kappa.high is None:
        return f"kappa {value:.2f} (its interval is open)"
    return f"kappa {value:.2f} ({kappa.low:.2f} to {kappa.high:.2f})"


def _above(bar: float) -> str:
    return f"surely above {_bar(bar)}"


def _bar(bar: float) -> str:
    return "the best constant answer's 0" if bar == 0 else f"the required {bar:g}"
