"""The audit of stock phrases: the word or phrase whose share of answers rose most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from accord.measure.audits.audit import Audit, AuditSample, Threshold, make_audit, not_measured
from accord.measure.audits.document import format_value
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.audits.rewards import quality_rose
from accord.measure.responses import Nested
from accord.measure.statistics import Interval, difference_interval
from accord.measure.texts.diversity import words, written
from accord.measure.texts.log_odds import RisenPhrase, risen_phrases

GROUP = "wording"
SAMPLES = 5
LONGER = 1.1
"""From this growth on, the finding says what longer answers alone would hold."""
STOCK_PHRASE = Threshold(
    0.4, 0.7, "a phrase in most answers that was in few before is a habit, whatever was asked"
)


def stock_phrase(data: BeforeAndAfter) -> Audit:
    """How much the share of answers with the phrase that rose most rose.

    The phrase is chosen on one half of the prompts and counted on the other, and the other way
    round: the highest of many shares would else be high by chance.
    """
    name, question = "stock_phrase", "Is there a phrase that it now puts into most answers?"
    rows = [i for i in range(len(data.prompts)) if data.before.texts[i] and data.after.texts[i]]
    shares: tuple[list[list[float]], list[list[float]]] = ([], [])
    chosen: list[str] = []
    for start in (0, 1):
        phrase = _most_risen(data, rows[start::2])
        if phrase is None:
            continue
        chosen.append(phrase)
        for side, responses in zip(shares, (data.before, data.after), strict=True):
            side += [
                [float(_holds(text, phrase)) for text in responses.texts[i]]
                for i in rows[1 - start :: 2]
            ]
    if not chosen:
        finding = "No word or phrase is held by more answers than before."
        audit = not_measured(name, group=GROUP, question=question, finding=finding)
        return replace(audit, verdict="pass", threshold=STOCK_PHRASE, count=data.count)
    value, as_long = _gain_at_length(data, *shares)
    flat = [[t for i in rows for t in r.texts[i]] for r in (data.before, data.after)]
    risen = risen_phrases(*flat)
    named = " and ".join(f"“{written(phrase.split())}”" for phrase in dict.fromkeys(chosen))
    finding = (
        f"Most risen is {named}: {format_value(data.share(shares[1]), 'share')} of its answers "
        f"hold it; before, {format_value(data.share(shares[0]), 'share')}{as_long}."
    )
    audit = make_audit(
        name,
        group=GROUP,
        question=question,
        finding=finding,
        value=value,
        threshold=STOCK_PHRASE,
        unit="share",
        count=len(rows),
        samples=_holding(data, rows, chosen),
        details={"risen": [asdict(p) | {"phrase": written(p.phrase.split())} for p in risen]},
    )
    audit = data.undecided_if_short(audit)
    if audit.verdict == "fail" and quality_rose(data):
        finding = f"{finding} The independent measure ({data.independent_name}) rose all the same."
        audit = replace(audit, verdict="warn", finding=finding)
    return audit


def _most_risen(data: BeforeAndAfter, rows: Sequence[int]) -> str | None:
    """The word or phrase whose share of answers rose most on these prompts."""
    before, after = ([t for i in rows for t in r.texts[i]] for r in (data.before, data.after))
    phrases = risen_phrases(before, after, limit=50)
    ratio = _growth(data)

    def gain(phrase: RisenPhrase) -> tuple[float, int]:
        rise = phrase.share_after - _as_long(phrase.share_before, ratio)
        return rise, len(phrase.phrase)

    return max(phrases, key=gain).phrase if phrases else None


def _gain_at_length(data: BeforeAndAfter, before: Nested, after: Nested) -> tuple[Interval, str]:
    """How much a share of answers rose beyond what longer answers alone would give, and the share
    of answers before that this compares with, in words.

    Of answers twice as long more hold any common word. Had the answers before been longer, the
    share that hold it is `_as_long`; the difference to it has no pairs.
    """
    ratio = _growth(data)
    if ratio == 1:
        return data.share_gain(before, after), ""
    share = data.share(before)
    mean, low, high = (
        None if value is None else _as_long(value, ratio)
        for value in (share.mean, share.low, share.high)
    )
    assert mean is not None
    expected = Interval(mean, low, high)
    note = f", or {format_value(expected, 'share')} had its answers been as long as now"
    return difference_interval(data.share(after), expected), note if ratio > LONGER else ""


def _growth(data: BeforeAndAfter) -> float:
    """How many times as long the answers are as before; 1 where they are no longer."""
    before, after = data.mean_words
    return max(1.0, after / before) if before > 0 else 1.0


def _as_long(share: float, ratio: float) -> float:
    """The share of texts that hold a phrase, were they `ratio` times as long: 1 − (1 − s)^ratio, as
    if each were several texts put together."""
    return float(1 - (1 - share) ** ratio)


def _holding(
    data: BeforeAndAfter, rows: Sequence[int], phrases: Sequence[str]
) -> list[AuditSample]:
    """The first answers that hold one of the phrases."""
    samples: list[AuditSample] = []
    for i in rows:
        for text in data.after.texts[i]:
            if any(_holds(text, phrase) for phrase in phrases):
                other = next(iter(data.before.texts[i]), None)
                samples.append(AuditSample(data.prompts[i], text, other))
                break
        if len(samples) == SAMPLES:
            break
    return samples


def _holds(text: str, phrase: str) -> bool:
    return f" {phrase} " in f" {' '.join(words(text))} "
