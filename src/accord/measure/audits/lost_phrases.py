"""The audit of lost phrases: what fell most of all that the answers had."""

from __future__ import annotations

from collections.abc import Sequence

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
from accord.measure.audits.repeats import not_harmful
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.statistics import Interval
from accord.measure.texts.log_odds import risen_phrases
from accord.measure.texts.manners import MANNERS
from accord.measure.texts.refusals import grade_refusal

SAMPLES = 5
LOST_PHRASE = Threshold(
    0.08,
    0.12,
    "what one answer in eight had and has no more (a greeting, a closing, an explanation, a "
    "notice) was part of how the model answers, and training should not take it out unasked",
)
_KINDS = tuple(
    Habit(called, lambda text, pattern=pattern: pattern.search(text) is not None)  # type: ignore[misc]
    for called, pattern in MANNERS.items()
)


def lost_phrase(data: BeforeAndAfter) -> Audit:
    """How much the share of answers fell that have what fell most: a phrase of two words and more,
    or a kind of wording of `MANNERS`.

    The mirror of `stock_phrase`: chosen on one half of the prompts and counted on the other.
    Refusals and prompts that should be refused are left out: the audits of refusals say whether
    their wording should have gone.
    """
    name, question = "lost_phrase", "Is there something that its answers had and have no more?"
    threshold = data.threshold(name, LOST_PHRASE)
    questions = data.after.questions or data.prompts
    answers = answers_of(
        data, not_harmful(data), lambda i, text: not grade_refusal(text, questions[i]).refuses
    )
    growth = min(1.0, answers.growth())
    shares, chosen = cross_counted(answers, lambda half: _most_fallen(half, growth))
    if not chosen:
        finding = "No phrase, and no kind of wording, is in fewer answers than before."
        return no_habit(name, question, finding, threshold, answers)
    change, at_length = change_at_length(data, *shares, growth)
    low, high = (None if bound is None else -bound for bound in (change.high, change.low))
    return habit_audit(
        data,
        name,
        question=question,
        finding=(
            f"Most fallen is {' and '.join(h.called for h in chosen)}: "
            f"{format_value(data.share(shares[1]), 'share')} of its answers have it; before, "
            f"{format_value(data.share(shares[0]), 'share')}{at_length}."
        ),
        value=Interval(-change.mean, low, high),
        threshold=threshold,
        count=len(answers.rows),
        samples=_without(data, answers, chosen),
        details={"kinds": _shares_of_kinds(answers)},
    )


def _most_fallen(half: PairedAnswers, growth: float) -> Habit | None:
    """What fell most on these prompts. A single word is no candidate: those that fall are mostly
    what the changed sentences are built of."""
    before, after = half.texts()
    if not half.rows:
        return None
    phrases = [
        (as_long(phrase.share_after, growth) - phrase.share_before, phrase_habit(phrase.phrase))
        for phrase in risen_phrases(after, before, shortest=2, limit=50)  # the sides exchanged
    ]
    kinds = [(as_long(_share(before, kind), growth) - _share(after, kind), kind) for kind in _KINDS]
    fall, habit = max([*kinds, *phrases], key=lambda row: row[0])
    return habit if fall > 0 else None


def _share(texts: Sequence[str], habit: Habit) -> float:
    return sum(habit.has(text) for text in texts) / len(texts)


def _shares_of_kinds(answers: PairedAnswers) -> dict[str, dict[str, float]]:
    """The share of answers with each kind of wording, before and after."""
    sides = dict(zip(("before", "after"), answers.texts(), strict=True))
    return {
        kind.called: {side: _share(texts, kind) for side, texts in sides.items()} for kind in _KINDS
    }


def _without(
    data: BeforeAndAfter, answers: PairedAnswers, habits: Sequence[Habit]
) -> list[AuditSample]:
    """The first answers without what an answer before to the same prompt had."""
    samples: list[AuditSample] = []
    for i, before, after in zip(answers.rows, answers.before, answers.after, strict=True):
        for habit in habits:
            other = next((t for t in before if habit.has(t)), None)
            text = next((t for t in after if not habit.has(t)), None)
            if other is not None and text is not None and len(samples) < SAMPLES:
                samples.append(AuditSample(data.prompts[i], text, other))
                break
    return samples
