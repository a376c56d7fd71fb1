"""What measures are computed from: one model's responses and the scores of each response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from accord.measure.statistics import NO_DATA, Interval, clustered_interval
from accord.measure.texts.diversity import Collapse, collapse
from accord.measure.texts.refusals import (
    REFUSAL_KINDS,
    RefusalGrade,
    grade_groups,
    refusal_rates,
    ungraded_counts,
)

Nested = Sequence[Sequence[float]]
"""Shape [prompts][responses]."""


@dataclass(frozen=True, slots=True)
class ModelResponses:
    """One model's responses and their scores. Fields have the shape [prompts][responses], `kinds`
    and `proxy_gain` [prompts].

    `texts` are the answers, and `questions` [prompts] what was asked. `reasoned` says which stood
    behind reasoning, which is left out, and `unanswered` where that never ended, so that there is
    no answer and the text is empty.
    `kl` is an estimate for each response in nats (log π − log π_ref), or one number where KL has a
    closed form; `kl_kind` says which. `proxy_gain` is how much higher the reward model that the
    model was trained against scores its responses than the first model's responses.
    None stands for a score that was not computed.
    """

    model: str
    texts: Sequence[Sequence[str]]
    kinds: Sequence[str | None]
    questions: Sequence[str] | None = None
    finished: Sequence[Sequence[bool]] | None = None
    reasoned: Sequence[Sequence[bool]] | None = None
    unanswered: Sequence[Sequence[bool]] | None = None
    true_reward: Nested | None = None
    reward_model_score: Nested | None = None
    proxy_gain: Sequence[float] | None = None
    kl: Nested | float | None = None
    kl_kind: str = "not measured"
    seconds: float | None = None

    def check_shapes(self) -> None:
        """Raise ValueError where there is no response, or a field differs in shape from `texts`."""
        shape = [len(texts) for texts in self.texts]
        if not sum(shape):
            raise ValueError(f"{self.model!r} has no responses to measure")
        for name, values in (("kinds", self.kinds), ("questions", self.questions)):
            if values is not None and len(values) != len(shape):
                raise ValueError(f"{self.model!r}: {len(values)} {name} for {len(shape)} prompts")
        shares, scores = ("finished", "reasoned", "unanswered"), ("true_reward", "kl")
        for name in (*shares, *scores, "reward_model_score"):
            values = getattr(self, name)
            if values is None or isinstance(values, float | int):
                continue
            if [len(row) for row in values] != shape:
                raise ValueError(f"{self.model!r}: {name} needs one value for each response")


@dataclass(frozen=True)
class MeasureInput:
    """The input of every measure: one model's responses, and what all models have in common.

    `texts` holds all responses in one list, the first response to each prompt before the second
    ones. `shared_words` is the number of words that the texts of every model have, and
    `length_edges` the edges of the bins of length; both are equal for all models.
    """

    responses: ModelResponses
    texts: Sequence[str]
    shared_words: int
    length_edges: Sequence[int]
    confidence: float

    def mean(self, values: Nested | None) -> Interval:
        """The mean over responses, with an interval that takes only prompts as independent."""
        return NO_DATA if values is None else clustered_interval(values, confidence=self.confidence)

    @cached_property
    def refusal_grades(self) -> Mapping[str, Sequence[Sequence[RefusalGrade]]]:
        """The grades of the responses for each of `REFUSAL_KINDS` that has prompts."""
        responses = self.responses
        known = [i for i, kind in enumerate(responses.kinds) if kind in REFUSAL_KINDS]
        questions = responses.questions
        return grade_groups(
            [str(responses.kinds[i]) for i in known],
            [responses.texts[i] for i in known],
            None if questions is None else [questions[i] for i in known],
        )

    @property
    def refusals(self) -> Mapping[str, Interval]:
        """The share of refusals among those that have a verdict."""
        return refusal_rates(self.refusal_grades, confidence=self.confidence)

    @property
    def refusals_ungraded(self) -> Mapping[str, int]:
        """How many responses can't be graded."""
        return ungraded_counts(self.refusal_grades)

    @cached_property
    def collapse(self) -> Collapse:
        """Whether one answer is given to most prompts."""
        return collapse(self.responses.texts)
