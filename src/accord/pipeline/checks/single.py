"""What is wrong with one row by itself, and the tallies of what wins."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from accord.measure.rows.texts import (
    count_markup,
    echoes,
    ends_in_an_answer,
    is_cut,
    question,
    template_token,
    thought_tag,
    turn_mark,
)
from accord.measure.texts.refusals import grade_refusal
from accord.pipeline.checks.rows import CheckedRow
from accord.records import prompt_text

SURE_REFUSAL = 0.8
"""The least probability that people would call a response a refusal, for a finding to say so."""
EQUAL_REASON = "chosen and rejected are equal"
Defects = dict[str, str]
"""The kinds of a row's findings, each with what is this row's alone."""


@dataclass(slots=True)
class Tally:
    """How often one side of the pairs that differ in something was preferred."""

    wins: int = 0
    pairs: int = 0

    def add(self, wins: bool) -> None:
        """Count one pair."""
        self.wins += wins
        self.pairs += 1


@dataclass(slots=True)
class Tallies:
    """Counts over all rows: what wins, and how many answers could have each defect."""

    longer: Tally = field(default_factory=Tally)
    formatted: Tally = field(default_factory=Tally)
    first: Tally = field(default_factory=Tally)
    answered: int = 0
    thoughts: int = 0
    scored: int = 0


def row_defects(row: CheckedRow, prompt: str, tallies: Tallies) -> tuple[Defects, list[int]]:
    """The findings of one row, and the markup of each response. `prompt` is its prompt as text."""
    if row.error is not None:
        kind = "equal-pairs" if row.error.reason == EQUAL_REASON else "unusable"
        return {kind: str(row.error)}, []
    defects: Defects = {}
    asked = question(row.prompt)
    if token := template_token(prompt):
        defects["template-tokens"] = f"{token} in the {'prompt' if row.responses else 'text'}"
    if ends_in_an_answer(row.prompt) and row.responses:
        defects["wrong-turn"] = "the prompt ends within an answer"
    tallies.answered += bool(row.responses)
    for i, response in enumerate(row.responses):
        name = _response_name(row, i)
        if token := template_token(response):
            defects.setdefault("template-tokens", f"{token} in {name}")
        if mark := turn_mark(response):
            defects.setdefault("wrong-turn", f"{mark} in {name}")
        if tag := thought_tag(response):
            defects.setdefault("thoughts", f"{tag} in {name}")
        if echoes(asked, response):
            defects.setdefault("prompt-echo", name)
    for i in row.learned():
        if row.finished[i : i + 1] == (True,) and is_cut(row.responses[i]):
            defects["cut-endings"] = f"ends {row.responses[i].rstrip()[-30:]!r}"
    tallies.thoughts += "thoughts" in defects
    if not row.responses and (tag := thought_tag(prompt)) and isinstance(row.prompt, str):
        defects["thoughts"] = f"{tag} in the text"
    markup = [count_markup(response) for response in row.responses]
    _compare(row, asked, markup, defects, tallies)
    return defects, markup


def _compare(
    row: CheckedRow, asked: str, markup: list[int], defects: Defects, tallies: Tallies
) -> None:
    """Compare the best with the worst response, and their scores."""
    ends = row.best_and_worst()
    if ends is None:
        return
    best, worst = ends
    good, bad = row.responses[best], row.responses[worst]
    if len(good) != len(bad):
        tallies.longer.add(len(good) > len(bad))
    if markup[best] != markup[worst]:
        tallies.formatted.add(markup[best] > markup[worst])
    if row.first_wins is not None:
        tallies.first.add(row.first_wins)
    if _surely_refuses(good, asked) and grade_refusal(bad, asked).verdict == "complied":
        defects["refusals"] = ""
    if _plain(good) == _plain(bad):
        defects["equal-pairs"] = "but for case, blanks and punctuation"
    if row.scores is not None:
        tallies.scored += 1
        if row.scores[0] <= row.scores[1]:
            defects["scores"] = f"chosen {row.scores[0]:g}, rejected {row.scores[1]:g}"


def dense_features(row: CheckedRow, markup: list[int]) -> tuple[float, float]:
    """The difference of best and worst in length (log) and markup, for the model of labels."""
    best, worst = row.best_and_worst() or (0, 0)
    lengths = [math.log1p(len(row.responses[i])) for i in (best, worst)]
    return lengths[0] - lengths[1], math.log1p(markup[best]) - math.log1p(markup[worst])


def prompt_of(row: CheckedRow) -> str:
    """The prompt of a row as one text."""
    return prompt_text(row.prompt)


def _surely_refuses(response: str, asked: str) -> bool:
    grade = grade_refusal(response, asked)
    return grade.refuses and (grade.refusal is None or grade.refusal >= SURE_REFUSAL)


def _plain(text: str) -> str:
    """Letters, digits and signs alone: 1 + 1 and 1 - 1 differ, a full stop makes no difference."""
    return "".join(text.split()).casefold().strip(".,!?;:…'\"")


def _response_name(row: CheckedRow, i: int) -> str:
    if row.ranks is None:
        return "the response"
    if len(row.responses) == 2:
        return "rejected" if row.ranks[i] else "chosen"
    return f"response {i + 1}"
