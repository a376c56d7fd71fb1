"""Audits of mode collapse: fewer answers to a prompt, alike answers to many, one answer to all.

The two diversities are those of Kirk et al. (2023): per prompt, and across prompts. Both models'
answers are compared in pieces of the same number of words, since longer texts have more words in
common.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accord.measure.audits.audit import (
    Audit,
    AuditSample,
    Threshold,
    make_audit,
    not_measured,
)
from accord.measure.audits.repeats import (
    both_sides,
    not_harmful,
    one_answer,
    shared_answers,
    shortened,
)
from accord.measure.audits.responses import MIN_WORDS, BeforeAndAfter
from accord.measure.statistics import Floats, finite_or_none
from accord.measure.texts.classes import class_sizes, expected_classes, word_entropy
from accord.measure.texts.diversity import (
    compression_ratio,
    distinct_n,
    expectation_adjusted_distinct,
    self_bleu,
    words,
)
from accord.measure.texts.pieces import pieces, pieces_distance
from accord.measure.texts.vendi import vendi_of_texts

GROUP = "mode collapse"
SAMPLES = 5
COMPARED = 20
"""Other prompts' answers that each answer is compared with."""

PER_PROMPT = Threshold(
    0.6,
    0.5,
    "training on preferences narrows the answers to a prompt (Kirk et al. 2023): good runs of "
    "small models kept six tenths of the variety or more, and runs without a KL penalty four "
    "tenths or less",
    bad="low",
)
ACROSS_PROMPTS = Threshold(
    0.85,
    0.7,
    "answers to different prompts that resemble each other much more than before ignore what was "
    "asked",
    bad="low",
)


def diversity_audits(data: BeforeAndAfter) -> list[Audit]:
    """Four audits of mode collapse, with further measures of diversity in their details."""
    return [one_answer(data), shared_answers(data), _per_prompt(data), _across_prompts(data)]


def _per_prompt(data: BeforeAndAfter) -> Audit:
    """The ratio of the mean distance between the answers to one prompt, after and before."""
    name, question = "diversity_per_prompt", "Does it still have several answers to one prompt?"
    rows = [
        i
        for i in range(len(data.prompts))
        if min(len(data.before.texts[i]), len(data.after.texts[i])) > 1
    ]
    if not rows:
        finding = "Not measured: it takes two answers of both models to a prompt (num_responses)."
        return not_measured(name, group=GROUP, question=question, finding=finding)
    before, after = _distances_per_prompt(data, rows)
    classes = {
        side: _mean_known([expected_classes(class_sizes(responses.texts[i])) for i in rows])
        for side, responses in both_sides(data)
    }
    if not np.nansum(before):
        finding = (
            "Not measured: the model before has one answer to each prompt, as at a temperature of "
            "0, so there was no variety to lose."
        )
        return replace(
            not_measured(name, group=GROUP, question=question, finding=finding),
            details={"classes_of_ten": classes},
        )
    finding = (
        f"The mean distance between answers to one prompt is {_mean(after):.2f}; before, "
        f"{_mean(before):.2f}."
    )
    if classes["after"] is not None and classes["before"] is not None:
        finding += (
            f" Of ten answers to a prompt, {classes['after']:.1f} differ; before, "
            f"{classes['before']:.1f}."
        )
    if not np.nansum(after):
        finding += " If it was sampled at a temperature of 0, that says nothing of the model."
    narrow = sorted(rows, key=lambda i: (after[i], i))[:SAMPLES]
    audit = make_audit(
        name,
        group=GROUP,
        question=question,
        finding=finding,
        value=data.bootstrap(_ratio(before, after)),
        threshold=data.threshold(name, PER_PROMPT),
        unit="ratio",
        count=len(rows),
        samples=[
            AuditSample(
                data.prompts[i],
                data.after.texts[i][0],
                data.after.texts[i][1],
                "another answer of the same model beside it",
                {"distance": float(after[i])},
            )
            for i in narrow
        ],
        details={"classes_of_ten": classes},
    )
    return data.undecided_if_short(audit)


def _across_prompts(data: BeforeAndAfter) -> Audit:
    """The ratio of the mean distance between the answers to different prompts, after and before."""
    name, question = "diversity_across_prompts", "Do different prompts get different answers?"
    rows = [i for i in not_harmful(data) if data.before.texts[i] and data.after.texts[i]]
    if len(rows) < 2:
        finding = "Not measured: it takes the answers to two prompts."
        return not_measured(name, group=GROUP, question=question, finding=finding)
    length = _equal_length(data.mean_words)
    before, after = (np.full(len(data.prompts), math.nan) for _ in range(2))
    nearest: dict[int, tuple[float, int]] = {}
    for distances, responses in ((before, data.before), (after, data.after)):
        texts = [pieces(responses.texts[i][0], length) for i in rows]
        for position, i in enumerate(rows):
            others = [(position + step) % len(rows) for step in range(1, COMPARED + 1)]
            unlike = [j for j in dict.fromkeys(others) if j != position]
            values = [pieces_distance(texts[position], texts[j]) for j in unlike]
            distances[i] = np.mean(values)
            nearest[i] = min(zip(values, (rows[j] for j in unlike), strict=True))
    if not np.nansum(before):
        finding = "Not measured: the model before gives all prompts one answer."
        return not_measured(name, group=GROUP, question=question, finding=finding)
    alike = sorted(nearest, key=lambda i: (nearest[i][0], i))[:SAMPLES]
    audit = make_audit(
        name,
        group=GROUP,
        question=question,
        finding=(
            f"The mean distance between answers to different prompts is {_mean(after):.2f}; "
            f"before, {_mean(before):.2f}."
        ),
        value=data.bootstrap(_ratio(before, after)),
        threshold=data.threshold(name, ACROSS_PROMPTS),
        unit="ratio",
        count=len(rows),
        samples=[
            AuditSample(
                data.prompts[i],
                data.after.texts[i][0],
                data.after.texts[nearest[i][1]][0],
                f"beside the answer to “{shortened(data.prompts[nearest[i][1]])}”",
                {"distance": nearest[i][0]},
            )
            for i in alike
        ],
        details=_further(data, rows, length),
    )
    return data.undecided_if_short(audit)


def _further(data: BeforeAndAfter, rows: Sequence[int], length: int) -> dict[str, Any]:
    """Further measures of the first answer to each prompt, cut to the same length."""
    texts = {
        side: [" ".join(words(r.texts[i][0])[:length]) for i in rows]
        for side, r in both_sides(data)
    }
    vocabulary = max(1, len({w for side in texts.values() for t in side for w in words(t)}))
    count = min(sum(len(words(text)) for text in side) for side in texts.values())
    return {
        "words": count,
        **{
            side: {
                "distinct_2": finite_or_none(distinct_n(values, 2, tokens=count)),
                "ead": finite_or_none(expectation_adjusted_distinct(values, vocabulary=vocabulary)),
                "self_bleu": finite_or_none(self_bleu(values)),
                "vendi": finite_or_none(vendi_of_texts(values)),
                "compression_ratio": finite_or_none(compression_ratio(values)),
                "word_entropy": finite_or_none(word_entropy(values, tokens=count)),
            }
            for side, values in texts.items()
        },
    }


def _equal_length(mean_words: Sequence[float]) -> int:
    """The words of a piece: as many as the shorter answers have on average, of `MIN_WORDS`."""
    return max(MIN_WORDS, round(min(mean_words)))


def _distances_per_prompt(data: BeforeAndAfter, rows: Sequence[int]) -> tuple[Floats, Floats]:
    """The mean distance between the answers to each prompt, before and after; NaN for others."""
    before, after = (np.full(len(data.prompts), math.nan) for _ in range(2))
    for i in rows:
        sides = (data.before.texts[i], data.after.texts[i])
        length = _equal_length([float(np.mean([len(words(t)) for t in side])) for side in sides])
        for distances, side in zip((before, after), sides, strict=True):
            texts = [pieces(text, length) for text in side]
            distances[i] = np.mean([pieces_distance(a, b) for a, b in combinations(texts, 2)])
    return before, after


def _ratio(before: Floats, after: Floats) -> Any:
    known = np.isfinite(before) & np.isfinite(after)
    a, b = np.where(known, before, 0.0), np.where(known, after, 0.0)

    def ratio(sample: NDArray[np.int64]) -> float:
        start = a[sample].sum()
        return float(b[sample].sum() / start) if start else math.nan

    return ratio


def _mean(values: Floats) -> float:
    return float(np.nanmean(values))


def _mean_known(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None
