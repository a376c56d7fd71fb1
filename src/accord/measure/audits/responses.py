"""What audits of a model are computed from: its responses and their scores, before and after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from accord.measure.responses import ModelResponses, Nested
from accord.measure.statistics import (
    Interval,
    clustered_interval,
    clustered_proportion,
    paired_shares_interval,
)

RESAMPLES = 1000


@dataclass(frozen=True)
class BeforeAndAfter:
    """The responses of a model before training (the SFT model) and after, to the same prompts.

    `prompts` [prompts] are the prompts as text, in the order of both models' rows. `proxy_before`
    and `proxy_after` are scores of the reward that the model was trained against, and
    `independent_…` those of another measure of quality, each with the shape [prompts][responses];
    None where there is no such measure. The two models may have different numbers of responses.
    Raises ValueError where the two differ in prompts, or a score in shape.
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
    def resampled(self) -> list[np.ndarray]:
        """The rows of `RESAMPLES` bootstrap samples of the prompts (Efron 1979), the same for all
        audits, so that a rerun gives the same intervals."""
        rng = np.random.default_rng(0)
        size = len(self.prompts)
        return [rng.integers(0, size, size) for _ in range(RESAMPLES)]

    def bootstrap(self, statistic: Callable[[np.ndarray], float]) -> Interval:
        """A statistic of the prompts' rows, with its percentile bootstrap interval.

        `statistic` takes the indices of rows, with repeats, and returns a number; NaN counts as
        unknown, and where it is unknown for more than a tenth of the samples there are no bounds.
        """
        value = statistic(np.arange(len(self.prompts)))
        drawn = np.array([statistic(rows) for rows in self.resampled])
        known = drawn[np.isfinite(drawn)]
        if len(known) < 0.9 * len(drawn):
            return Interval(value)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail])
        return Interval(value, float(low), float(high))
