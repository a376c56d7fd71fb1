"""Stored answers in terms of the item's responses, as agreement is measured on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from accord.compare.store.assignments import VOTED, Assignment
from accord.compare.store.queue import QueueItem
from accord.measure.agreement.summary import RatedItem


@dataclass(frozen=True, slots=True)
class PersonVote:
    """One annotator's ranks of an item's responses, in the order of their ids. `outcome` is a
    pair's ("a", "b", "tie" or "both_bad") or a label's ("good" or "bad"), None for a ranking."""

    item: QueueItem
    annotator: str
    ranks: tuple[int, ...]
    outcome: str | None

    def in_words(self, names: Sequence[str]) -> str:
        """Such as "sft" or "dpo > sft = base": `names` are the responses' models, in order."""
        if self.outcome is not None:
            winner = {"a": 0, "b": 1}.get(self.outcome)
            return self.outcome.replace("_", " ") if winner is None else names[winner]
        by_rank = sorted(range(len(self.ranks)), key=lambda i: self.ranks[i])
        words = names[by_rank[0]]
        for before, index in pairwise(by_rank):
            sign = " = " if self.ranks[before] == self.ranks[index] else " > "
            words += sign + names[index]
        return words


def read_votes(answered: Sequence[Assignment]) -> list[PersonVote]:
    """The votes among the answered assignments, without those on attention checks."""
    votes = []
    for each in answered:
        if each.state != VOTED or each.item.content is not None or each.answer is None:
            continue
        ranks = [0] * each.item.size
        for position, index in enumerate(each.shown):
            ranks[index] = each.answer["ranks"][position]
        votes.append(PersonVote(each.item, each.annotator, tuple(ranks), _outcome(each, ranks)))
    return votes


def values_of(vote: PersonVote) -> Iterator[RatedItem]:
    """What agreement is measured on: the outcome of a pair or label, and of a ranking that of each
    of its pairs."""
    criterion = vote.item.criterion or ""
    if vote.outcome is not None:
        yield RatedItem(vote.item.id, vote.annotator, vote.outcome, criterion)
        return
    for i in range(len(vote.ranks)):
        for j in range(i + 1, len(vote.ranks)):
            first, second = vote.ranks[i], vote.ranks[j]
            value = "tie" if first == second else "a" if first < second else "b"
            yield RatedItem((vote.item.id, i, j), vote.annotator, value, criterion)


def _outcome(assignment: Assignment, ranks: Sequence[int]) -> str | None:
    given = (assignment.answer or {}).get("outcome")
    if assignment.item.size == 1:
        return "good" if ranks[0] == 0 else "bad"
    if given is None:
        return None
    return {(0, 1): "a", (1, 0): "b"}.get((ranks[0], ranks[1]), str(given))
