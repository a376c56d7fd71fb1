"""The audit of capabilities as yes/no questions, by the log-probs of both answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import rankdata

from accord.measure.audits.audit import Audit, AuditSample, Limits, make_audit
from accord.measure.audits.broken import ACCURACY, GROUP, SAMPLES, by_row, shares_of, undecided
from accord.measure.audits.document import format_value
from accord.measure.statistics import Interval, paired_shares_interval

QUESTIONS = "yes_no_questions"
ONE_SIDED = 0.05
"""A model prefers one answer where it gives the other to at most this share of the questions, and
more of them than that should have had it."""


@dataclass(frozen=True, slots=True)
class YesNoScores:
    """One model's log-probs of "yes" and of "no" after each question [questions], summed over
    the ways to write each."""

    yes: Sequence[float]
    no: Sequence[float]

    @property
    def chose_yes(self) -> list[float]:
        """1 where yes is the more probable, 0 where no is, ½ for a tie."""
        return [0.5 if a == b else float(a > b) for a, b in zip(self.yes, self.no, strict=True)]

    def ranking(self, answers: Sequence[bool]) -> float:
        """The probability that a question with yes has the higher log-odds of yes than one with
        no, ties half: the area under the ROC curve (Hanley and McNeil 1982). It is ½ for a model
        that knows nothing, and does not fall where it only prefers one answer; NaN where all
        answers are the same."""
        ranks = rankdata(np.subtract(self.yes, self.no))
        right = np.asarray(answers, dtype=bool)
        ones = int(right.sum())
        if ones in (0, len(right)):
            return math.nan
        above = float(ranks[right].sum()) - ones * (ones + 1) / 2
        return above / (ones * (len(right) - ones))

    @property
    def mass(self) -> float:
        """The mean probability of yes and no together: low where the model begins otherwise."""
        both = [math.exp(a) + math.exp(b) for a, b in zip(self.yes, self.no, strict=True)]
        return float(np.mean(both))


@dataclass(frozen=True, slots=True)
class _Side:
    """What one model's scores say: `right` [questions] is 1, 0, or ½ for a tie."""

    right: list[float]
    accuracy: Interval
    chose_yes: Interval
    above_constant: Interval
    ranking: float
    mass: float


def questions_audit(
    questions: Sequence[str],
    answers: Sequence[bool],
    before: YesNoScores,
    after: YesNoScores,
    *,
    lineage: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> Audit:
    """How much the share of yes/no questions rose for which the right answer is the more probable.

    A model that always says yes is right wherever yes is: the better of the two constant answers
    is given beside the accuracies, and the audit is undecided where the model before is not surely
    better than it, since it then shows no knowledge that could be lost.
    """
    share = sum(answers) / len(answers)
    sides = [_read_side(scores, answers, says_yes=share >= 0.5) for scores in (before, after)]
    value = paired_shares_interval(*(by_row(side.right) for side in sides))
    lost = [i for i in range(len(questions)) if sides[0].right[i] > sides[1].right[i]]
    details: dict[str, Any] = {"better_constant": max(share, 1 - share), "yes_share": share}
    for name, side in zip(("before", "after"), sides, strict=True):
        details |= {
            name: side.accuracy.to_json(),
            f"above_constant_{name}": side.above_constant.to_json(),
            f"yes_{name}": side.chose_yes.to_json(),
            f"ranking_{name}": side.ranking if math.isfinite(side.ranking) else None,
            f"probability_of_yes_or_no_{name}": side.mass,
        }
    audit = make_audit(
        QUESTIONS,
        group=GROUP,
        question="Does it still know what it knew?",
        finding=_finding(sides, value, share),
        value=value,
        threshold=ACCURACY.limited(QUESTIONS, limits or {}),
        count=len(questions),
        cases="questions",
        unit="share",
        samples=[_question_sample(i, questions, answers, before, after) for i in lost[:SAMPLES]],
        details=details,
        lineage=lineage,
    )
    low = sides[0].above_constant.low
    if audit.verdict != "fail" and not (low is not None and low > 0):
        return undecided(
            audit,
            "The model before is not surely better than that constant answer, so it shows no "
            "knowledge that could be lost: give more questions, with as many of yes as of no, or "
            "easier ones.",
        )
    return audit


def _read_side(scores: YesNoScores, answers: Sequence[bool], *, says_yes: bool) -> _Side:
    chosen = scores.chose_yes
    right = [yes if answer else 1 - yes for yes, answer in zip(chosen, answers, strict=True)]
    constant = [float(answer == says_yes) for answer in answers]
    return _Side(
        right,
        shares_of(right),
        shares_of(chosen),
        paired_shares_interval(by_row(constant), by_row(right)),
        scores.ranking(answers),
        scores.mass,
    )


def _finding(sides: Sequence[_Side], value: Interval, share: float) -> str:
    accuracies, chosen = (
        [format_value(interval, "share") for interval in intervals]
        for intervals in ([s.accuracy for s in sides], [s.chose_yes for s in sides])
    )
    text = (
        f"Right answers: {accuracies[0]} before and {accuracies[1]} after; always answering "
        f"{_word(share >= 0.5)} gives {100 * max(share, 1 - share):.3g}%. The change is "
        f"{format_value(value, 'share')}. Yes is the more probable for {chosen[0]} before and "
        f"{chosen[1]} after."
    )
    for name, side in zip(("before", "after"), sides, strict=True):
        if abs(side.chose_yes.mean - share) > ONE_SIDED and not (
            ONE_SIDED < side.chose_yes.mean < 1 - ONE_SIDED
        ):
            text += (
                f" The model {name} prefers {_word(side.chose_yes.mean > 0.5)} whatever is asked."
            )
    if all(math.isfinite(side.ranking) for side in sides):
        text += (
            " By the log-odds of yes, a question with yes stands above one with no with "
            f"probability {sides[0].ranking:.3g} before and {sides[1].ranking:.3g} after."
        )
    return text


def _question_sample(
    i: int,
    questions: Sequence[str],
    answers: Sequence[bool],
    before: YesNoScores,
    after: YesNoScores,
) -> AuditSample:
    return AuditSample(
        questions[i],
        _word(after.chose_yes[i]),
        _word(before.chose_yes[i]),
        f"right before, wrong now; the answer is {_word(answers[i])}",
        {
            "log odds of yes before": before.yes[i] - before.no[i],
            "log odds of yes after": after.yes[i] - after.no[i],
        },
    )


def _word(chose_yes: float) -> str:
    return "either" if chose_yes == 0.5 else "yes" if chose_yes else "no"
