"""The audit of stock phrases: the word or phrase whose share of answers rose most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from accord.measure.audits.audit import Audit, AuditSample, Threshold
from accord.measure.audits.document import format_value
from accord.measure.audits.habits import (
    Habit,
    PairedAnswers,
    answers_of,
    as_long,
    change_at_length,
    cross_counted,
    habit_audit,
    no_habit,
    phrase_habit,
)
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.texts.diversity import written
from accord.measure.texts.log_odds import RisenPhrase, risen_phrases

SAMPLES = 5
STOCK_PHRASE = Threshold(
    0.4, 0.7, "a phrase in most answers that was in few before is a habit, whatever was asked"
)


def stock_phrase(data: BeforeAndAfter) -> Audit:
    """How much the share of answers with the phrase that rose most rose.

    The phrase is chosen on one half of the prompts and counted on the other, and the other way
    round.
    """
    name, question = "stock_phrase", "Is there a phrase that it now puts into most answers?"
    threshold = data.threshold(name, STOCK_PHRASE)
    answers = answers_of(data, range(len(data.prompts)))
    growth = max(1.0, answers.growth())
    shares, chosen = cross_counted(answers, lambda half: _most_risen(half, growth))
    if not chosen:
        finding = "No word or phrase is held by more answers than before."
        return no_habit(name, question, finding, threshold, answers)
    value, at_length = change_at_length(data, *shares, growth)
    risen = risen_phrases(*answers.texts())
    return habit_audit(
        data,
        name,
        question=question,
        finding=(
            f"Most risen is {' and '.join(h.called for h in chosen)}: "
            f"{format_value(data.share(shares[1]), 'share')} of its answers hold it; before, "
            f"{format_value(data.share(shares[0]), 'share')}{at_length}."
        ),
        value=value,
        threshold=threshold,
        count=len(answers.rows),
        samples=_holding(data, answers, chosen),
        details={"risen": [asdict(p) | {"phrase": written(p.phrase.split())} for p in risen]},
    )


def _most_risen(half: PairedAnswers, growth: float) -> Habit | None:
    """The word or phrase whose share of answers rose most on these prompts."""
    phrases = risen_phrases(*half.texts(), limit=50)

    def gain(phrase: RisenPhrase) -> tuple[float, int]:
        rise = phrase.share_after - as_long(phrase.share_before, growth)
        return rise, len(phrase.phrase)

    return phrase_habit(max(phrases, key=gain).phrase) if phrases else None


def _holding(
    data: BeforeAndAfter, answers: PairedAnswers, habits: Sequence[Habit]
) -> list[AuditSample]:
    """The first answers that have one of the habits, one to a prompt."""
    samples: list[AuditSample] = []
    for i, before, after in zip(answers.rows, answers.before, answers.after, strict=True):
        text = next((t for t in after if any(habit.has(t) for habit in habits)), None)
        if text is not None and len(samples) < SAMPLES:
            samples.append(AuditSample(data.prompts[i], text, before[0]))
    return samples
