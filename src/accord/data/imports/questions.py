"""Which question of an annotation tool a verdict answers: where there are several, its criterion.

A tool's rows say what was asked only by its name, so what the questions are is known from all rows
of a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from accord.data.checks import RowError
from accord.data.imports.judged import JudgedRow, Opinion

NO_ORDER = "the answers to `{}` give no order or rating of the responses"


@dataclass(slots=True)
class Questions:
    """The questions of a file: those on each of its responses by number, and those whose answers
    are labels that were chosen together, which are no order."""

    names: dict[tuple[int, ...], set[str | None]] = field(default_factory=dict)
    chosen_labels: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, rows: Iterable[JudgedRow]) -> Questions:
        questions = cls()
        for row in rows:
            questions.chosen_labels.update(row.chosen_labels)
            for opinion in row.opinions:
                key = tuple(sorted(opinion.answers))
                questions.names.setdefault(key, set()).add(opinion.question)
        for names in questions.names.values():
            names -= questions.chosen_labels
        return questions

    def apply(self, row: JudgedRow, notes: Counter[str]) -> JudgedRow:
        """The row with the question as the criterion where there are several on the same responses.

        Raises RowError where no verdict is left.
        """
        opinions: list[Opinion] = []
        for opinion in row.opinions:
            if opinion.question in self.chosen_labels:
                notes[NO_ORDER.format(opinion.question)] += 1
                continue
            if len(self.names[tuple(sorted(opinion.answers))]) > 1 and opinion.question:
                opinion = replace(opinion, fields={"criterion": opinion.question, **opinion.fields})
            opinions.append(opinion)
        if not opinions:
            raise RowError("no annotator has submitted an answer that orders or rates responses")
        return replace(row, opinions=tuple(opinions))
