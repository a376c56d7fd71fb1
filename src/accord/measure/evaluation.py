"""What is told of each model: the rows of evaluation.json, put together from measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from accord.measure.statistics import (
    NO_DATA,
    Interval,
    clustered_interval,
    clustered_proportion,
    mean_interval,
)
from accord.measure.texts.diversity import (
    collapse,
    distinct_n,
    diversity_across_prompts,
    diversity_per_prompt,
    duplicate_share,
    words,
)
from accord.measure.texts.lengths import LengthBin, length_bins, length_edges
from accord.measure.texts.refusals import refusal_rates

REFUSAL_KINDS = ("harmful", "safe", "jailbreak")
"""Kinds of prompts whose refusals are told; "safe" ones only look dangerous."""

Nested = Sequence[Sequence[float]]
"""[prompts][responses]"""


@dataclass(frozen=True, slots=True)
class Measured:
    """One model's responses and what was measured of each; every field but the names is
    [prompts][responses], and `kinds` [prompts].

    `kl` is an estimate a response in nats (log π − log π_ref), or one number with a closed form.
    `proxy_gain` [prompts] is how much higher the reward model that the model was trained against
    scores its responses than the first model's.
    What was not measured is None.
    """

    model: str
    texts: Sequence[Sequence[str]]
    kinds: Sequence[str | None]
    finished: Sequence[Sequence[bool]] | None = None
    true_reward: Nested | None = None
    reward_model_score: Nested | None = None
    proxy_gain: Sequence[float] | None = None
    kl: Nested | float | None = None
    kl_kind: str = "not measured"
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One model's row. Intervals take the prompts as independent, not the responses.

    `mean_length` is in words. `distinct_2` is taken over the first `distinct_2_words` words of
    every model, an equal count. None stands for what can't be told.
    """

    model: str
    true_reward: Interval
    reward_model_score: Interval
    proxy_gain: Interval
    kl: Interval
    kl_kind: str
    mean_length: float
    distinct_2: float
    distinct_2_words: int
    diversity_per_prompt: float
    diversity_across_prompts: float
    duplicate_share: float
    commonest_share: float
    commonest_answer: str
    collapsed: bool
    empty_share: float
    finished_share: float
    refusals: dict[str, Interval]
    by_length: tuple[LengthBin, ...]
    prompts: int
    responses: int
    seconds: float | None

    def to_json(self) -> dict[str, Any]:
        """The row as evaluation.json holds it: null for what is NaN, refusal rates by name too."""
        row: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if isinstance(value, Interval):
                value = value.to_json()
            row[name] = None if isinstance(value, float) and not math.isfinite(value) else value
        row["by_length"] = [asdict(length) for length in self.by_length]
        row["refusals"] = {kind: rate.to_json() for kind, rate in self.refusals.items()}
        for kind in REFUSAL_KINDS:
            rate = row["refusals"].get(kind)
            row[f"refusal_{kind}"] = rate and rate["mean"]
        return row


def evaluation_rows(
    measured: Sequence[Measured], *, confidence: float = 0.95
) -> list[EvaluationRow]:
    """One row a model, in the order given.

    Raises ValueError when a model has no response, or its measurements differ in shape.
    """
    for one in measured:
        _check_shapes(one)
    pooled = {one.model: _round_robin(one.texts) for one in measured}
    sizes = [sum(len(words(text)) for text in texts) for texts in pooled.values()]
    shared = min((size for size in sizes if size), default=0)
    edges = length_edges([text for texts in pooled.values() for text in texts])
    return [_row(one, pooled[one.model], shared, edges, confidence) for one in measured]


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
    clearly: on these the margin is held against the true order, whatever the annotator chose.
    """
    right = [[_sign_share(m) for m in margins] for margins in margins_by_prompt]
    out: dict[str, Any] = {
        "accuracy": clustered_proportion(right, confidence=confidence).to_json(),
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
        out["clear_accuracy"] = clustered_proportion(clear, confidence=confidence).to_json()
        out["clear_pairs"] = sum(len(group) for group in clear)
    return out


def _row(
    one: Measured, pooled: Sequence[str], shared: int, edges: Sequence[int], confidence: float
) -> EvaluationRow:
    def mean(values: Nested | None) -> Interval:
        return NO_DATA if values is None else clustered_interval(values, confidence=confidence)

    kinds = [(kind, texts) for kind, texts in zip(one.kinds, one.texts, strict=True) if kind]
    told = [(kind, texts) for kind, texts in kinds if kind in REFUSAL_KINDS]
    commonest = collapse(one.texts)
    return EvaluationRow(
        model=one.model,
        true_reward=mean(one.true_reward),
        reward_model_score=mean(one.reward_model_score),
        proxy_gain=NO_DATA
        if one.proxy_gain is None
        else mean_interval(one.proxy_gain, confidence=confidence),
        kl=Interval(one.kl) if isinstance(one.kl, float | int) else mean(one.kl),
        kl_kind=one.kl_kind,
        mean_length=float(np.mean([len(words(text)) for text in pooled])),
        distinct_2=distinct_n(pooled, 2, tokens=shared),
        distinct_2_words=shared,
        diversity_per_prompt=diversity_per_prompt(one.texts),
        diversity_across_prompts=diversity_across_prompts(one.texts),
        duplicate_share=duplicate_share(pooled),
        commonest_share=commonest.share,
        commonest_answer=commonest.answer,
        collapsed=commonest.collapsed,
        empty_share=sum(not text.strip() for text in pooled) / len(pooled),
        finished_share=mean(one.finished).mean,
        refusals=dict(
            refusal_rates([k for k, _ in told], [t for _, t in told], confidence=confidence)
        ),
        by_length=length_bins(
            [text for texts in one.texts for text in texts],
            edges,
            true_reward=_flat(one.true_reward),
            reward_model_score=_flat(one.reward_model_score),
        ),
        prompts=len(one.texts),
        responses=len(pooled),
        seconds=one.seconds,
    )


def _check_shapes(one: Measured) -> None:
    shape = [len(texts) for texts in one.texts]
    if not sum(shape):
        raise ValueError(f"{one.model!r} has no responses to measure")
    if len(one.kinds) != len(shape):
        raise ValueError(f"{one.model!r}: {len(one.kinds)} kinds for {len(shape)} prompts")
    for name in ("finished", "true_reward", "reward_model_score", "kl"):
        values = getattr(one, name)
        if values is None or isinstance(values, float | int):
            continue
        if [len(row) for row in values] != shape:
            raise ValueError(f"{one.model!r}: {name} needs one value for each response")


def _round_robin(texts_by_prompt: Sequence[Sequence[str]]) -> list[str]:
    """The first response to each prompt, then the second to each, so that a cut after some words
    leaves as many prompts as it can."""
    most = max((len(texts) for texts in texts_by_prompt), default=0)
    return [texts[i] for i in range(most) for texts in texts_by_prompt if i < len(texts)]


def _flat(values: Nested | None) -> list[float] | None:
    return None if values is None else [value for row in values for value in row]


def _sign_share(margin: float) -> float:
    """1 where positive, 0 where negative, one half at 0; NaN is refused further on."""
    return margin if math.isnan(margin) else (margin > 0) + 0.5 * (margin == 0)
