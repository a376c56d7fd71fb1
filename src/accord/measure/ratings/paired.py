"""Two models on the same prompts: clustered win rates, by position, and exact paired tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy import special, stats

from accord.measure.ratings.battles import OUTCOMES
from accord.measure.ratings.elo import SCORE
from accord.measure.ratings.table import BattleTable, Integers
from accord.measure.statistics import NO_DATA, Floats, Interval, proportion_interval

MAX_SUPPORT = 20_000  # sums of halves that the exact test goes through; beyond, a normal one
SCORES = np.array([SCORE[outcome] for outcome in OUTCOMES])


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """Model `a` against `b`, on prompts that both answered.

    `rate` is a's mean score over battles, ties half, with its interval by prompt; `rate_first` and
    `rate_second` are those of the battles in which a was the first and the second model.
    `prompts_won` and `prompts_lost` are the prompts on which a scored more, and less, than half.

    `sign_p` is the exact two-sided test that a prompt is as likely won as lost (McNemar 1947, where
    a prompt has one battle), `permutation_p` that of the sum of scores if the two models were
    exchanged at random on each prompt (Fisher 1935), and `holm_p` the latter corrected for all
    pairs of models (Holm 1979).
    """

    a: str
    b: str
    battles: int
    prompts: int
    rate: Interval
    rate_first: Interval
    rate_second: Interval
    prompts_won: int
    prompts_lost: int
    sign_p: float
    permutation_p: float
    holm_p: float = 1.0

    def to_json(self) -> dict[str, Any]:
        rates = ("rate", "rate_first", "rate_second")
        return {**asdict(self), **{key: getattr(self, key).to_json() for key in rates}}


def paired_comparisons(
    table: BattleTable, *, confidence: float = 0.95
) -> tuple[PairedComparison, ...]:
    """Each two models that met, in the order of their names. Without prompts each battle is one of
    its own."""
    rows = [_compare(table, battles, confidence) for battles in _by_pair(table)]
    corrected = holm([row.permutation_p for row in rows])
    return tuple(replace(row, holm_p=p) for row, p in zip(rows, corrected, strict=True))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values that control the probability of any false one among them (Holm 1979): of the k-th
    smallest of m, the largest of (m − j + 1)·p_j over all j ≤ k, and at most 1."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(scaled, 1.0)
    return [float(value) for value in corrected]


def sign_test(won: int, lost: int) -> float:
    """The two-sided p-value of so many wins and losses, if both were as likely."""
    if won + lost == 0:
        return 1.0
    return float(min(1.0, 2 * special.bdtr(min(won, lost), won + lost, 0.5)))


def permutation_test(differences: Floats) -> float:
    """The two-sided p-value of Σ d over prompts, if each d had either sign with probability ½.

    The d are multiples of a half. Exact: for each value v = |d| of n prompts the sum is
    v·(2B − n) with B ~ Binomial(n, ½), and the values' distributions are convolved; normal, with
    variance Σ d², where this has too many terms.
    """
    halves = np.rint(2 * np.abs(differences)).astype(np.int64)
    observed = abs(int(np.rint(2 * differences).sum()))
    values, numbers = np.unique(halves[halves > 0], return_counts=True)
    if not len(values):
        return 1.0
    if int((values * numbers).sum()) > MAX_SUPPORT:
        z = observed / float(np.sqrt((values**2 * numbers).sum()))
        return float(2 * special.ndtr(-z))
    # Of index k the sum is 2·k − total: B wins of a value move it by 2·v each.
    total = int((values * numbers).sum())
    distribution = np.ones(1)
    for value, number in zip(values.tolist(), numbers.tolist(), strict=True):
        chances = np.zeros(value * number + 1)
        chances[::value] = stats.binom.pmf(np.arange(number + 1), number, 0.5)
        distribution = np.convolve(distribution, chances)
    sums = 2 * np.arange(total + 1) - total
    return float(min(1.0, distribution[np.abs(sums) >= observed].sum()))


def clustered_share(sums: Floats, counts: Floats, confidence: float) -> Interval:
    """`clustered_proportion` from each prompt's sum and number of values, where there are millions;
    a prompt whose values differ is seen by its sum alone."""
    groups, total = len(counts), float(counts.sum())
    if not groups:
        return NO_DATA
    mean = float(sums.sum()) / total
    if groups == total or mean in (0.0, 1.0):
        share = min(float((sums / counts).sum()), groups)
        return proportion_interval(share, groups, confidence=confidence)
    if groups == 1:
        return Interval(mean)
    variance = groups / (groups - 1) * float(((sums - counts * mean) ** 2).sum()) / total**2
    upper = 0.5 + confidence / 2
    narrowed = float(special.stdtrit(total - 1, upper) / special.stdtrit(groups - 1, upper)) ** 2
    trials = mean * (1 - mean) / variance * narrowed if variance else float(groups)
    trials = max(1.0, min(trials, total))
    interval = proportion_interval(mean * trials, trials, confidence=confidence)
    return Interval(mean, interval.low, interval.high)


def _by_pair(table: BattleTable) -> Iterator[Integers]:
    """The battles of each two models, those of one prompt together."""
    pair = np.minimum(table.a, table.b) * len(table.names) + np.maximum(table.a, table.b)
    keys = (pair,) if table.prompt is None else (table.prompt, pair)
    order = np.lexsort(keys)
    return (
        iter(np.split(order, np.flatnonzero(np.diff(pair[order])) + 1)) if len(pair) else iter(())
    )


def _compare(table: BattleTable, battles: Integers, confidence: float) -> PairedComparison:
    first, second = sorted((int(table.a[battles[0]]), int(table.b[battles[0]])))
    is_first = table.a[battles] == first
    scores = SCORES[table.outcome[battles]]
    scores = np.where(is_first, scores, 1 - scores)
    prompt = np.arange(len(battles)) if table.prompt is None else table.prompt[battles]
    sums, counts = _by_prompt(scores, prompt)
    difference = sums - counts / 2
    won, lost = int((difference > 0).sum()), int((difference < 0).sum())
    first_rate, second_rate = (
        clustered_share(*_by_prompt(scores[side], prompt[side]), confidence)
        for side in (is_first, ~is_first)
    )
    return PairedComparison(
        table.names[first],
        table.names[second],
        len(battles),
        len(counts),
        clustered_share(sums, counts, confidence),
        first_rate,
        second_rate,
        won,
        lost,
        sign_test(won, lost),
        permutation_test(difference),
    )


def _by_prompt(scores: Floats, prompt: Integers) -> tuple[Floats, Floats]:
    """The sum and the number of the scores of each prompt; `prompt` is in order."""
    if not len(scores):
        return np.zeros(0), np.zeros(0)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(prompt)) + 1])
    counts = np.diff([*starts.tolist(), len(prompt)]).astype(np.float64)
    return np.add.reduceat(scores, starts), counts
