"""What both audits of habits need: answers that have a phrase, chosen and counted on halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from accord.measure.audits.audit import Audit, Threshold, make_audit, not_measured
from accord.measure.audits.document import format_value
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.audits.rewards import quality_rose
from accord.measure.responses import Nested
from accord.measure.statistics import Interval, difference_interval
from accord.measure.texts.diversity import words, written

GROUP = "wording"
OTHER_LENGTH = 1.1
"""From this growth (or its inverse) on, the finding says what the length alone would give."""

Has = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Habit:
    """A phrase, or a kind of wording such as a greeting: what it is called, and which texts have
    it."""

    called: str
    has: Has


@dataclass(frozen=True, slots=True)
class PairedAnswers:
    """The answers [prompts][responses] that are searched, to prompts that both models answer;
    `rows` are the numbers of these prompts."""

    rows: Sequence[int]
    before: Sequence[Sequence[str]]
    after: Sequence[Sequence[str]]

    def half(self, start: int) -> PairedAnswers:
        """Every second prompt."""
        return PairedAnswers(self.rows[start::2], self.before[start::2], self.after[start::2])

    def texts(self) -> tuple[list[str], list[str]]:
        """All answers before, and all after."""
        before, after = ([t for row in side for t in row] for side in (self.before, self.after))
        return before, after

    def growth(self) -> float:
        """How many times as long an answer is as before; 1 where one side has no words."""
        before, after = (
            float(np.mean([np.mean([len(words(t)) for t in row]) for row in side])) if side else 0.0
            for side in (self.before, self.after)
        )
        return after / before if before > 0 and after > 0 else 1.0


def answers_of(
    data: BeforeAndAfter,
    rows: Sequence[int],
    keep: Callable[[int, str], bool] = lambda i, text: True,
) -> PairedAnswers:
    """The answers to these prompts for which `keep` holds of the prompt's number and the text."""
    before, after = (
        {i: [t for t in side.texts[i] if keep(i, t)] for i in rows}
        for side in (data.before, data.after)
    )
    both = [i for i in rows if before[i] and after[i]]
    return PairedAnswers(both, [before[i] for i in both], [after[i] for i in both])


def phrase_habit(phrase: str) -> Habit:
    """A phrase of words, which a text holds one behind the other."""
    return Habit(
        f"“{written(phrase.split())}”", lambda text: f" {phrase} " in f" {' '.join(words(text))} "
    )


def cross_counted(
    answers: PairedAnswers, choose: Callable[[PairedAnswers], Habit | None]
) -> tuple[tuple[Nested, Nested], list[Habit]]:
    """Which answers of each half of the prompts, before and after, have the habit that is chosen on
    the other half; and the habits that were chosen. The highest of many shares, counted where it
    was chosen, would be high by chance."""
    shares: tuple[list[list[float]], list[list[float]]] = ([], [])
    chosen: dict[str, Habit] = {}
    for start in (0, 1):
        habit = choose(answers.half(start))
        if habit is None:
            continue
        chosen[habit.called] = habit
        other = answers.half(1 - start)
        for side, texts in zip(shares, (other.before, other.after), strict=True):
            side += [[float(habit.has(text)) for text in row] for row in texts]
    return shares, list(chosen.values())


def change_at_length(
    data: BeforeAndAfter, before: Nested, after: Nested, growth: float
) -> tuple[Interval, str]:
    """How much a share of answers rose beyond what their other length alone would give, and the
    share of answers before that this compares with, in words.

    Of answers twice as long more hold any common word. Had the answers before been as long as now,
    the share that hold it is `as_long`; the difference to it has no pairs.
    """
    if growth == 1:
        return data.share_gain(before, after), ""
    share = data.share(before)
    mean, low, high = (
        None if value is None else as_long(value, growth)
        for value in (share.mean, share.low, share.high)
    )
    assert mean is not None
    expected = Interval(mean, low, high)
    note = f", or {format_value(expected, 'share')} had its answers been as long as now"
    differs = max(growth, 1 / growth) > OTHER_LENGTH
    return difference_interval(data.share(after), expected), note if differs else ""


def as_long(share: float, growth: float) -> float:
    """The share of texts that hold a phrase, were they `growth` times as long: 1 − (1 − s)^growth,
    as if each were several texts put together, or a part of one."""
    return float(1 - (1 - share) ** growth)


def habit_audit(data: BeforeAndAfter, name: str, **parts: Any) -> Audit:
    """An audit of a share of answers, which warns at most where the independent measure rose."""
    audit = make_audit(name, group=GROUP, unit="share", **parts)
    audit = data.undecided_if_short(audit)
    if audit.verdict == "fail" and quality_rose(data):
        finding = (
            f"{audit.finding} The independent measure ({data.independent_name}) rose all the same."
        )
        audit = replace(audit, verdict="warn", finding=finding)
    return audit


def no_habit(
    name: str, question: str, finding: str, threshold: Threshold, answers: PairedAnswers
) -> Audit:
    """The audit where no candidate rose or fell: it passes, unless there are no answers."""
    if not answers.rows:
        finding = "Not measured: there are no answers of both models to one prompt."
        return not_measured(name, group=GROUP, question=question, finding=finding)
    audit = not_measured(name, group=GROUP, question=question, finding=finding)
    return replace(audit, verdict="pass", threshold=threshold, count=len(answers.rows))
