"""Verdicts on the same responses and criterion as one panel, and what a panel of pairs decides."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from accord.compare.store.items import item_name
from accord.compare.store.rows import StoredVerdict, VerdictKind
from accord.compare.store.verdicts import Item

WIN = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
SWAPPED = {"a": "b", "b": "a"}


class PanelVote(NamedTuple):
    """One verdict of a panel. Its outcome and its probability are of the panel's first response,
    `ranks` in the panel's order."""

    id: int
    outcome: str | None
    ranks: tuple[int | None, ...]
    score: float | None
    strength: int | None
    probability: float | None


@dataclass(slots=True)
class VotePanel:
    """The votes on the same responses and criterion, in the order of the first."""

    kind: VerdictKind
    prompt_id: int
    responses: tuple[int, ...]
    votes: list[PanelVote] = field(default_factory=list)

    @property
    def id(self) -> int:
        """The id of its first verdict."""
        return self.votes[0].id

    def add(self, verdict: StoredVerdict) -> None:
        """Add a verdict, whatever the order of its responses."""
        items = {item.response_id: item for item in verdict.items}
        ordered: Sequence[Item] = [items[id_] for id_ in self.responses]
        outcome, probability = verdict.outcome, verdict.probability
        if verdict.kind == "pair" and verdict.items[0].response_id != self.responses[0]:
            outcome = SWAPPED.get(outcome or "", outcome)  # type: ignore[assignment]
            probability = None if probability is None else 1 - probability
        ranks = tuple(item.rank for item in ordered)
        score = ordered[0].score
        self.votes.append(
            PanelVote(verdict.id, outcome, ranks, score, verdict.strength, probability)
        )

    def outcomes(self) -> Counter[str]:
        """How many votes each outcome of a pair has."""
        return Counter(vote.outcome or "" for vote in self.votes)

    def most_frequent(self) -> str | None:
        """The outcome of a pair with the most votes; None where two have as many."""
        ordered = self.outcomes().most_common(2)
        return None if len(ordered) > 1 and ordered[0][1] == ordered[1][1] else ordered[0][0]

    def win_share(self, *, probabilities: bool = False) -> float:
        """The share of votes on a pair that prefers the first response, a tie counting half; with
        `probabilities` a vote counts as the probability that its judge gave."""
        values = [
            vote.probability
            if probabilities and vote.probability is not None
            else WIN[vote.outcome or ""]
            for vote in self.votes
        ]
        return sum(values) / len(values)

    def mean_strength(self) -> float | None:
        """The mean strength of the votes that give one."""
        strengths = [vote.strength for vote in self.votes if vote.strength is not None]
        return sum(strengths) / len(strengths) if strengths else None

    def agreement(self) -> float:
        """The share of votes that the most frequent outcome has; of rankings the mean of that over
        the pairs of responses, of ratings that of the most frequent score."""
        if self.kind == "pair":
            return _share(vote.outcome for vote in self.votes)
        if self.kind == "rating":
            return _share(vote.score for vote in self.votes)
        pairs = list(itertools.combinations(range(len(self.responses)), 2))
        shares = [_share(_order(vote.ranks, i, j) for vote in self.votes) for i, j in pairs]
        return sum(shares) / len(shares)


def make_panels(verdicts: Iterable[StoredVerdict], *, separate: bool) -> Iterator[VotePanel]:
    """The panels of verdicts with a preference, in the order of their first verdicts; `separate`
    makes a panel of each verdict."""
    panels: dict[tuple[str, str, str | None], VotePanel] = {}
    for verdict in verdicts:
        responses = tuple(item.response_id for item in verdict.items)
        key = (verdict.kind, item_name(responses), verdict.criterion)
        if separate:
            key = (verdict.kind, str(verdict.id), None)
        if key not in panels:
            panels[key] = VotePanel(verdict.kind, verdict.prompt_id, responses)
        panels[key].add(verdict)
    yield from panels.values()


def _order(ranks: Sequence[int | None], i: int, j: int) -> int:
    """-1 where response i is better than j, 0 where they tie, 1 otherwise."""
    first, second = ranks[i] or 0, ranks[j] or 0
    return (first > second) - (first < second)


def _share(values: Iterable[object]) -> float:
    counts = Counter(values)
    return max(counts.values()) / counts.total()
