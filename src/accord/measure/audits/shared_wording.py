"""The audit of shared wording: sequences of words that answers to other prompts hold too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from accord.measure.audits.audit import Audit, AuditSample, Threshold, make_audit
from accord.measure.audits.document import format_value
from accord.measure.audits.repeats import not_harmful
from accord.measure.audits.responses import BeforeAndAfter
from accord.measure.responses import Nested
from accord.measure.statistics import clustered_interval
from accord.measure.texts.diversity import Ngram, ngrams, words, written

GROUP = "wording"
SAMPLES = 5
SEQUENCE = 4
"""Words in a sequence."""

SHARED_WORDING = Threshold(
    0.02,
    0.03,
    "words that fit the answers to any prompt say nothing about this one (filler, set phrases, "
    "templates); good runs of small models rose by less than 0.02",
)


def shared_wording(data: BeforeAndAfter) -> Audit:
    """How much the share of answers to other prompts that hold a sequence of an answer rose.

    Salkar et al. (2022) count the sequences of four words and more that other outputs hold too.
    Here each counts with the share of those outputs, which also says how common it is, and does
    not depend on their number. Prompts that should be refused are left out, since one refusal may
    answer all of them.
    """
    rows = [i for i in not_harmful(data) if data.before.texts[i] and data.after.texts[i]]
    sides = [_Wording([r.texts[i] for i in rows]) for r in (data.before, data.after)]
    shares = [side.shares() for side in sides]
    before, after = (clustered_interval(side, confidence=data.confidence) for side in shares)
    sequence, share = sides[1].commonest()
    finding = (
        f"A sequence of {SEQUENCE} words of an answer is held by {format_value(after, 'share')} of "
        f"the answers to another prompt; before, {format_value(before, 'share')}."
    )
    if sequence:
        finding += f" The commonest, “{written(sequence)}”, is in {100 * share:.3g}% of all."
    name = "shared_wording"
    return make_audit(
        name,
        group=GROUP,
        question="Do its answers consist of what would fit any prompt?",
        finding=finding,
        value=data.gain(*shares),
        threshold=data.threshold(name, SHARED_WORDING),
        unit="share",
        count=len(rows),
        samples=_samples(data, rows, shares[1]),
    )


class _Wording:
    """The sequences of one model's answers, and the share of each prompt's answers that hold
    them. An answer with fewer words is one sequence."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self.sequences = [[_sequences(text) for text in row] for row in texts]
        self.of_prompt: list[Counter[Ngram]] = []
        self.over_prompts: Counter[Ngram] = Counter()
        for row in self.sequences:
            of_row: Counter[Ngram] = Counter()
            for grams in row:
                for sequence in set(grams):
                    of_row[sequence] += 1 / len(row)  # type: ignore[assignment]
            self.of_prompt.append(of_row)
            self.over_prompts.update(of_row)

    def shares(self) -> Nested:
        """For each answer the mean over its sequences of the share of answers to another prompt
        that hold it, [prompts][responses]."""
        others = max(1, len(self.sequences) - 1)
        return [
            [
                min(1.0, sum(self.over_prompts[s] - here[s] for s in grams) / len(grams) / others)
                for grams in row
            ]
            for row, here in zip(self.sequences, self.of_prompt, strict=True)
        ]

    def commonest(self) -> tuple[Ngram, float]:
        """The sequence that most answers hold, with its share of the answers."""
        if not self.over_prompts:
            return (), 0.0
        sequence = max(self.over_prompts, key=lambda s: (self.over_prompts[s], s))
        return sequence, self.over_prompts[sequence] / len(self.sequences)


def _sequences(text: str) -> list[Ngram]:
    tokens = words(text)
    return ngrams(tokens, SEQUENCE) or [tuple(tokens)]


def _samples(data: BeforeAndAfter, rows: Sequence[int], shares: Nested) -> list[AuditSample]:
    """The answers with the commonest wording, one to a prompt."""
    best = sorted(
        ((max(row), i, list(row).index(max(row))) for i, row in zip(rows, shares, strict=True)),
        key=lambda entry: (-entry[0], entry[1]),
    )
    return [
        AuditSample(
            data.prompts[i],
            data.after.texts[i][k],
            data.before.texts[i][0],
            scores={"share of other answers": share},
        )
        for share, i, k in best[:SAMPLES]
        if share > 0
    ]
