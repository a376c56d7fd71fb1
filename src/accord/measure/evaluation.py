"""The content of evaluation.json: one row for each model, and the reward model's accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accord.measure.measures import computed_measures
from accord.measure.responses import MeasureInput, ModelResponses, Nested
from accord.measure.statistics import Interval, clustered_interval, clustered_proportion
from accord.measure.texts.diversity import words
from accord.measure.texts.lengths import length_edges


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One model's row: the value of every computed measure by its key; NaN where it is unknown."""

    model: str
    values: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The row in evaluation.json, with null for NaN."""
        return {"model": self.model, **{key: _json(v) for key, v in self.values.items()}}


def evaluation_rows(
    models: Sequence[ModelResponses], *, confidence: float = 0.95
) -> list[EvaluationRow]:
    """One row for each model, in the order given.

    Raises ValueError when a model has no response, or its scores differ in shape.
    """
    for responses in models:
        responses.check_shapes()
    pooled = {responses.model: _round_robin(responses.texts) for responses in models}
    sizes = [sum(len(words(text)) for text in texts) for texts in pooled.values()]
    shared_words = min((size for size in sizes if size), default=0)
    edges = length_edges([text for texts in pooled.values() for text in texts])
    rows = []
    for responses in models:
        data = MeasureInput(responses, pooled[responses.model], shared_words, edges, confidence)
        values = {m.key: m.compute(data) for m in computed_measures() if m.compute is not None}
        rows.append(EvaluationRow(responses.model, values))
    return rows


def reward_model_accuracy(
    margins_by_prompt: Nested,
    *,
    true_gaps_by_prompt: Nested | None = None,
    clear_gap: float = 0.0,
    confidence: float = 0.95,
) -> dict[str, Any]:
    """The share of held-out comparisons in which the chosen response scores higher.

    `margins_by_prompt` are score(chosen) − score(rejected); equal scores count half. Where the true
    rewards' gaps (chosen − rejected) are known, those of at least `clear_gap` either way differ
    clearly: on these the margin is compared with the true order, whatever the annotator chose.
    """
    correct = [[_sign_share(m) for m in margins] for margins in margins_by_prompt]
    accuracy: dict[str, Any] = {
        "accuracy": clustered_proportion(correct, confidence=confidence).to_json(),
        "pairs": sum(len(margins) for margins in margins_by_prompt),
        "mean_margin": clustered_interval(margins_by_prompt, confidence=confidence).to_json(),
        "clear_gap": clear_gap,
        "clear_accuracy": None,
        "clear_pairs": None,
    }
    if true_gaps_by_prompt is not None:
        clear = [
            [
                _sign_share(margin * gap)
                for margin, gap in zip(margins, gaps, strict=True)
                if gap and abs(gap) >= clear_gap
            ]
            for margins, gaps in zip(margins_by_prompt, true_gaps_by_prompt, strict=True)
        ]
        accuracy["clear_accuracy"] = clustered_proportion(clear, confidence=confidence).to_json()
        accuracy["clear_pairs"] = sum(len(group) for group in clear)
    return accuracy


def _json(value: Any) -> Any:
    if isinstance(value, Interval):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [length_bin.to_json() for length_bin in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _round_robin(texts_by_prompt: Sequence[Sequence[str]]) -> list[str]:
    """The first response to each prompt, then the second to each, so that texts cut after a number
    of words still cover as many prompts as possible."""
    longest = max((len(texts) for texts in texts_by_prompt), default=0)
    return [texts[i] for i in range(longest) for texts in texts_by_prompt if i < len(texts)]


def _sign_share(margin: float) -> float:
    """1 where positive, 0 where negative, one half at 0; NaN stays NaN, which the mean refuses."""
    return margin if math.isnan(margin) else (margin > 0) + 0.5 * (margin == 0)
