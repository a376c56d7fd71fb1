"""What audits of a model are computed from: its responses and their scores, before and after."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy import special

from accord.measure.audits.audit import Audit, Limits, Threshold
from accord.measure.responses import ModelResponses, Nested
from accord.measure.statistics import (
    Interval,
    clustered_interval,
    clustered_proportion,
    paired_shares_interval,
)
from accord.measure.texts.diversity import words

RESAMPLES = 1000
MIN_WORDS = 8
"""Texts with fewer words have too few to compare with longer texts."""


@dataclass(frozen=True)
class BeforeAndAfter:
    """The responses of a model before training (the SFT model) and after, to the same prompts.

    `prompts` [prompts] are the prompts as text, in the order of both models' rows. `proxy_before`
    and `proxy_after` are scores of the reward that the model was trained against, and
    `independent_…` those of another measure of quality, each with the shape [prompts][responses];
    None where there is no such measure. The two models may have different numbers of responses.
    `limits` are those of the audits that the user sets. Raises ValueError where the two differ in
    prompts, or a score in shape.
    """

    prompts: Sequence[str]
    before: ModelResponses
    after: ModelResponses
    proxy_before: Nested | None = None
    proxy_after: Nested | None = None
    independent_before: Nested | None = None
    independent_after: Nested | None = None
    proxy_name: str = "reward"
    independent_name: str = "independent"
    confidence: float = 0.95
    limits: Limits = field(default_factory=dict)

    def __post_init__(self) -> None:
        for responses in (self.before, self.after):
            responses.check_shapes()
            if len(responses.texts) != len(self.prompts):
                raise ValueError(
                    f"{responses.model!r}: {len(responses.texts)} rows for {len(self.prompts)} "
                    "prompts"
                )
        sides = {"before": self.before, "after": self.after}
        for side, responses in sides.items():
            for name in ("proxy", "independent"):
                scores = getattr(self, f"{name}_{side}")
                if scores is not None and [len(row) for row in scores] != [
                    len(row) for row in responses.texts
                ]:
                    raise ValueError(f"{name}_{side} needs one score for each response")

    def threshold(self, name: str, default: Threshold) -> Threshold:
        """The threshold of an audit: the default one, or with the limits that the user sets."""
        return default.limited(name, self.limits)

    @property
    def count(self) -> int:
        """The number of prompts that both models answered."""
        return sum(
            bool(a) and bool(b) for a, b in zip(self.before.texts, self.after.texts, strict=True)
        )

    def gain(self, before: Nested, after: Nested) -> Interval:
        """The mean over prompts of how much a value rose, paired by prompt.

        `before` and `after` have the shape [prompts][responses]; a prompt that one of the two has
        no value for is left out.
        """
        return clustered_interval(
            [[value] for value in self.gains(before, after)], confidence=self.confidence
        )

    def share(self, values: Nested) -> Interval:
        """The mean of values in [0, 1], with the exact interval of a share by prompt."""
        return clustered_proportion(values, confidence=self.confidence)

    def share_gain(self, before: Nested, after: Nested) -> Interval:
        """How much a share rose, paired by prompt, with an interval from exact ones."""
        return paired_shares_interval(before, after, confidence=self.confidence)

    def gains(self, before: Nested, after: Nested) -> list[float]:
        """The gain of each prompt that both have a value for."""
        return [
            float(np.mean(b) - np.mean(a))
            for a, b in zip(before, after, strict=True)
            if len(a) and len(b)
        ]

    @cached_property
    def mean_words(self) -> tuple[float, float]:
        """The mean number of words of an answer, before and after, over the prompts that both
        models answered; NaN where there is none."""
        pairs = zip(self.before.texts, self.after.texts, strict=True)
        rows = [pair for pair in pairs if pair[0] and pair[1]]
        if not rows:
            return math.nan, math.nan
        before, after = (
            float(np.mean([np.mean([len(words(text)) for text in row[k]]) for row in rows]))
            for k in (0, 1)
        )
        return before, after

    def undecided_if_short(self, audit: Audit) -> Audit:
        """The audit, which can't fail where the answers before are too short to be compared with
        those after at equal length: under `MIN_WORDS` words, and less than half as long.

        Two answers of a word have nothing in common unless they are equal; two sentences have.
        """
        before, after = self.mean_words
        if audit.verdict != "fail" or not (before < MIN_WORDS and after > 2 * before):
            return audit
        finding = (
            f"{audit.finding} That decides nothing: the answers before have {before:.1f} words on "
            f"average, too few to compare with the {after:.1f} of now."
        )
        return replace(audit, verdict="undecided", finding=finding)

    @cached_property
    def resampled(self) -> list[np.ndarray]:
        """The rows of `RESAMPLES` bootstrap samples of the prompts (Efron 1979), the same for all
        audits, so that a rerun gives the same intervals."""
        rng = np.random.default_rng(0)
        size = len(self.prompts)
        return [rng.integers(0, size, size) for _ in range(RESAMPLES)]

    def bootstrap(self, statistic: Callable[[np.ndarray], float]) -> Interval:
        """A statistic of the prompts' rows, with its expanded percentile bootstrap interval.

        A plain percentile interval is too narrow for few prompts, so its tails are those that
        √(n/(n−1))·t has under a normal distribution, with t the quantile of Student's distribution
        for n prompts (Hesterberg 2015, "What teachers should know about the bootstrap").
        `statistic` takes the indices of rows, with repeats, and returns a number; NaN counts as
        unknown. There are no bounds where it is unknown for more than a tenth of the samples, or
        for a single prompt.
        """
        size = len(self.prompts)
        value = statistic(np.arange(len(self.prompts)))
        drawn = np.array([statistic(rows) for rows in self.resampled])
        known = drawn[np.isfinite(drawn)]
        if size < 2 or len(known) < 0.9 * len(drawn):
            return Interval(value)
        student = special.stdtrit(size - 1, (1 - self.confidence) / 2)
        tail = float(special.ndtr(math.sqrt(size / (size - 1)) * student))
        low, high = np.quantile(known, [tail, 1 - tail])
        return Interval(value, float(low), float(high))
