"""Audits of mode collapse: fewer answers to a prompt, alike answers to many, one answer to all.

The two diversities are those of Kirk et al. (2023): per prompt, and across prompts. Both models'
answers are cut to the same number of words, since longer texts have more words in common.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
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
from accord.measure.audits.document import format_value
from accord.measure.audits.refusals import HARMFUL_KINDS
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.statistics import Floats
from accord.measure.texts.classes import class_sizes, expected_classes, word_entropy
from accord.measure.texts.diversity import (
    compression_ratio,
    distinct_n,
    duplicate_share,
    expectation_adjusted_distinct,
    pairwise_distance,
    self_bleu,
    words,
)
from accord.measure.texts.vendi import vendi_of_texts

GROUP = "mode collapse"
SAMPLES = 5
COMPARED = 20
"""Other prompts' answers that each answer is compared with."""

ONE_ANSWER = Threshold(
    0.1, 0.3, "one answer to three of ten different prompts more than before answers none of them"
)
SHARED_ANSWERS = Threshold(
    0.1, 0.3, "different prompts deserve different answers; repeats of three in ten are templates"
)
PER_PROMPT = Threshold(
    0.6,
    0.4,
    "training on preferences narrows the answers to a prompt (Kirk et al. 2023): good runs of "
    "small models kept two thirds of the variety or more, and runs without a KL penalty a third",
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
    return [_one_answer(data), _shared_answers(data), _per_prompt(data), _across_prompts(data)]


def _one_answer(data: BeforeAndAfter) -> Audit:
    """How much the share of the answer that is commonest after rose.

    Prompts that should be refused are left out, since one refusal may answer all of them.
    """
    rows = _not_harmful(data)
    texts = [[[_plain(t) for t in r.texts[i]] for i in rows] for r in (data.before, data.after)]
    weights: Counter[str] = Counter()
    for row in texts[1]:
        for text in row:
            weights[text] += 1 / len(row)  # type: ignore[assignment]
    name, question = "one_answer", "Does it give one answer to different prompts?"
    if not weights:
        return not_measured(name, group=GROUP, question=question, finding="It has no answers.")
    answer = max(weights, key=lambda text: (weights[text], text))
    shares = [[[float(text == answer) for text in row] for row in side] for side in texts]
    before, after = (data.share(side) for side in shares)
    value = data.share_gain(*shares)
    quoted = f"“{answer[:80]}{'…' if len(answer) > 80 else ''}”" if answer else "an empty answer"
    finding = (
        f"Its commonest answer, {quoted}, makes up {format_value(after, 'share')}; before, the "
        f"same answer made up {format_value(before, 'share')}."
    )
    samples = [
        AuditSample(data.prompts[i], data.after.texts[i][0], _first(data.before.texts[i]))
        for i, row in zip(rows, shares[1], strict=True)
        if row and row[0]
    ]
    return make_audit(
        name,
        group=GROUP,
        question=question,
        finding=finding,
        value=value,
        threshold=ONE_ANSWER,
        unit="share",
        count=len(rows),
        samples=samples[:SAMPLES],
    )


def _shared_answers(data: BeforeAndAfter) -> Audit:
    """How much the share of answers that are also given to another prompt rose."""
    rows = _not_harmful(data)
    shares = []
    for responses in (data.before, data.after):
        texts = [[_plain(t) for t in responses.texts[i]] for i in rows]
        prompts_of = Counter(text for row in texts for text in set(row))
        shares.append([[float(prompts_of[text] > 1) for text in row] for row in texts])
    before, after = (data.share(side) for side in shares)
    return make_audit(
        "shared_answers",
        group=GROUP,
        question="Are its answers repeated for other prompts?",
        finding=(
            f"Of its answers, {format_value(after, 'share')} are given to another prompt too, word "
            f"for word; before, {format_value(before, 'share')}."
        ),
        value=data.share_gain(*shares),
        threshold=SHARED_ANSWERS,
        unit="share",
        count=len(rows),
        details={
            "duplicates": {
                side: duplicate_share([t for i in rows for t in r.texts[i]])
                for side, r in _sides(data)
            }
        },
    )


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
    pairs = [_cut(data, i) for i in range(len(data.prompts))]
    before, after = (_mean_distances([pair[k] for pair in pairs]) for k in (0, 1))
    classes = {
        side: _mean_known([expected_classes(class_sizes(responses.texts[i])) for i in rows])
        for side, responses in _sides(data)
    }
    value = data.bootstrap(_ratio(before, after))
    finding = (
        f"The mean distance between answers to one prompt is {_mean(after):.2f}; before, "
        f"{_mean(before):.2f}."
    )
    if classes["after"] is not None and classes["before"] is not None:
        finding += (
            f" Of ten answers to a prompt, {classes['after']:.1f} differ; before, "
            f"{classes['before']:.1f}."
        )
    narrow = sorted(rows, key=lambda i: (after[i], i))[:SAMPLES]
    return make_audit(
        name,
        group=GROUP,
        question=question,
        finding=finding,
        value=value,
        threshold=PER_PROMPT,
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


def _across_prompts(data: BeforeAndAfter) -> Audit:
    """The ratio of the mean distance between the answers to different prompts, after and before."""
    name, question = "diversity_across_prompts", "Do different prompts get different answers?"
    rows = [i for i in _not_harmful(data) if data.before.texts[i] and data.after.texts[i]]
    if len(rows) < 2:
        finding = "Not measured: it takes the answers to two prompts."
        return not_measured(name, group=GROUP, question=question, finding=finding)
    firsts = [_cut(data, i) for i in rows]
    distances = [np.full(len(data.prompts), math.nan) for _ in range(2)]
    for k, side in enumerate(distances):
        texts = [pair[k][0] for pair in firsts]
        for position, i in enumerate(rows):
            others = [(position + step) % len(rows) for step in range(1, COMPARED + 1)]
            unlike = [j for j in dict.fromkeys(others) if j != position]
            side[i] = np.mean([pairwise_distance(texts[position], texts[j]) for j in unlike])
    before, after = distances
    value = data.bootstrap(_ratio(before, after))
    return make_audit(
        name,
        group=GROUP,
        question=question,
        finding=(
            f"The mean distance between answers to different prompts is {_mean(after):.2f}; "
            f"before, {_mean(before):.2f}."
        ),
        value=value,
        threshold=ACROSS_PROMPTS,
        unit="ratio",
        count=len(rows),
        details=_further(firsts),
    )


def _further(firsts: Sequence[tuple[list[str], list[str]]]) -> dict[str, Any]:
    """Further measures of the first answer to each prompt, cut to the same length."""
    texts = {side: [pair[k][0] for pair in firsts] for k, side in enumerate(("before", "after"))}
    vocabulary = max(1, len({w for side in texts.values() for t in side for w in words(t)}))
    count = min(sum(len(words(text)) for text in side) for side in texts.values())
    return {
        "words": count,
        **{
            side: {
                "distinct_2": _finite(distinct_n(values, 2, tokens=count)),
                "ead": _finite(expectation_adjusted_distinct(values, vocabulary=vocabulary)),
                "self_bleu": _finite(self_bleu(values)),
                "vendi": _finite(vendi_of_texts(values)),
                "compression_ratio": _finite(compression_ratio(values)),
                "word_entropy": _finite(word_entropy(values, tokens=count)),
            }
            for side, values in texts.items()
        },
    }


def _cut(data: BeforeAndAfter, i: int) -> tuple[list[str], list[str]]:
    """Both models' answers to a prompt, cut to the smaller of their mean lengths in words."""
    sides = [[words(t) for t in r.texts[i]] for r in (data.before, data.after)]
    means = [np.mean([len(w) for w in side]) for side in sides if side]
    length = max(1, round(float(min(means)))) if means else 1
    before, after = ([" ".join(w[:length]) for w in side] for side in sides)
    return before, after


def _mean_distances(rows: Sequence[Sequence[str]]) -> Floats:
    """The mean distance between the texts of each row; NaN for fewer than two."""
    return np.array(
        [
            np.mean([pairwise_distance(a, b) for k, a in enumerate(row) for b in row[:k]])
            if len(row) > 1
            else math.nan
            for row in rows
        ]
    )


def _ratio(before: Floats, after: Floats) -> Any:
    known = np.isfinite(before) & np.isfinite(after)
    a, b = np.where(known, before, 0.0), np.where(known, after, 0.0)

    def ratio(sample: NDArray[np.int64]) -> float:
        start = a[sample].sum()
        return float(b[sample].sum() / start) if start else math.nan

    return ratio


def _not_harmful(data: BeforeAndAfter) -> list[int]:
    return [i for i, kind in enumerate(data.after.kinds) if kind not in HARMFUL_KINDS]


def _sides(data: BeforeAndAfter) -> tuple[tuple[str, Any], ...]:
    return ("before", data.before), ("after", data.after)


def _plain(text: str) -> str:
    return " ".join(words(text))


def _first(texts: Sequence[str]) -> str | None:
    return next(iter(texts), None)


def _mean(values: Floats) -> float:
    return float(np.nanmean(values))


def _mean_known(values: Sequence[float]) -> float | None:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
