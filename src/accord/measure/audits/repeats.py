"""Audits of repeated answers: one answer to all prompts, and answers that several prompts get."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from accord.measure.audits.audit import Audit, AuditSample, Threshold, make_audit, not_measured
from accord.measure.audits.document import format_value
from accord.measure.audits.refusals import HARMFUL_KINDS
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.texts.diversity import duplicate_share, words

GROUP = "mode collapse"
SAMPLES = 5

ONE_ANSWER = Threshold(
    0.1, 0.3, "one answer to three of ten different prompts more than before answers none of them"
)
SHARED_ANSWERS = Threshold(
    0.1, 0.3, "different prompts deserve different answers; repeats of three in ten are templates"
)


def one_answer(data: BeforeAndAfter) -> Audit:
    """How much the share of the answer that is commonest after rose.

    Prompts that should be refused are left out, since one refusal may answer all of them.
    """
    rows = not_harmful(data)
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
    given = (t for i in rows for t in data.after.texts[i] if _plain(t) == answer)
    quoted = f"“{shortened(next(given))}”" if answer else "an empty answer"
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
        threshold=data.threshold(name, ONE_ANSWER),
        unit="share",
        count=len(rows),
        samples=samples[:SAMPLES],
    )


def shared_answers(data: BeforeAndAfter) -> Audit:
    """How much the share of answers that are also given to another prompt rose."""
    rows = not_harmful(data)
    shares = []
    prompts_of: Counter[str] = Counter()
    for responses in (data.before, data.after):
        texts = [[_plain(t) for t in responses.texts[i]] for i in rows]
        prompts_of = Counter(text for row in texts for text in set(row))
        shares.append([[float(prompts_of[text] > 1) for text in row] for row in texts])
    before, after = (data.share(side) for side in shares)
    name = "shared_answers"
    return make_audit(
        name,
        group=GROUP,
        question="Are its answers repeated for other prompts?",
        finding=(
            f"Of its answers, {format_value(after, 'share')} are given to another prompt too, word "
            f"for word; before, {format_value(before, 'share')}."
        ),
        value=data.share_gain(*shares),
        threshold=data.threshold(name, SHARED_ANSWERS),
        unit="share",
        count=len(rows),
        samples=_shared_samples(data, rows, prompts_of),
        details={
            "duplicates": {
                side: duplicate_share([t for i in rows for t in r.texts[i]])
                for side, r in both_sides(data)
            }
        },
    )


def _shared_samples(
    data: BeforeAndAfter, rows: Sequence[int], prompts_of: Counter[str]
) -> list[AuditSample]:
    """The answers that most prompts get, each at the first prompt that gets it."""
    samples: dict[str, AuditSample] = {}
    for i in rows:
        for text in data.after.texts[i]:
            key = _plain(text)
            if prompts_of[key] > 1 and key not in samples:
                note = f"given to {prompts_of[key]:,} of {len(rows):,} prompts"
                scores = {"prompts": float(prompts_of[key])}
                before = _first(data.before.texts[i])
                samples[key] = AuditSample(data.prompts[i], text, before, note, scores)
    return sorted(samples.values(), key=lambda sample: -sample.scores["prompts"])[:SAMPLES]


def not_harmful(data: BeforeAndAfter) -> list[int]:
    """The rows of prompts that should not be refused."""
    return [i for i, kind in enumerate(data.after.kinds) if kind not in HARMFUL_KINDS]


def both_sides(data: BeforeAndAfter) -> tuple[tuple[str, Any], ...]:
    """The responses of both models with their keys in JSON."""
    return ("before", data.before), ("after", data.after)


def _plain(text: str) -> str:
    return " ".join(words(text))


def shortened(text: str) -> str:
    """The start of a text, to be quoted in a sentence."""
    return f"{text[:80]}…" if len(text) > 80 else text


def _first(texts: Sequence[str]) -> str | None:
    return next(iter(texts), None)
