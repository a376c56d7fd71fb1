"""The verdicts of a preference store as records to learn from."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from accord.compare.panels import VotePanel
from accord.compare.store.convert import Judged
from accord.compare.store.rows import JudgedResponse, VerdictKind
from accord.compare.store_panels import PanelReader
from accord.data.kinds import Kind
from accord.data.read import FROM_COMPARISON
from accord.records import (
    Comparison,
    Demonstration,
    Ranking,
    Rating,
    Record,
    Source,
    borda_ranks,
)

NO_WINNER = {"tie": "tie", "both_bad": "tie of two bad responses"}
SPLIT = "the votes are split evenly"
CERTAIN = ("majority", "margin")
UNDESIRABLE = -math.inf  # a score below any `desirable_from`


class RecordReader:
    """Reads the panels of a store as records, in the order of the verdicts that are their sources,
    some in memory at a time. `used` verdicts became the records."""

    def __init__(self, panels: PanelReader) -> None:
        self.panels, self.filter = panels, panels.filter
        self.used = self.soft = self.voted = self.ranked = self.margins = 0
        self._conversion: str | None = None
        self._has_best = False

    def notes(self) -> list[str]:
        """What the records of several votes, strengths and criteria were read as."""
        notes = [] if self._conversion is None else [self._conversion]
        if self._has_best:
            notes.append("the best of each ranking is read as a demonstration")
        if self.soft:
            notes.append(f"{self.soft:,} pairs on which votes differ have a soft label")
        if self.voted:
            notes.append(f"{self.voted:,} pairs of several votes are read as one row each")
        if self.ranked:
            notes.append(
                f"{self.ranked:,} rankings that several annotators gave of the same responses are "
                "read as one row each, whose loss is the mean of theirs"
            )
        if self.margins:
            what = "lead in votes" if self.filter.labels == "margin" else "strength"
            notes.append(f"the {what} of {self.margins:,} preferences is read as their margin")
        if self.filter.criterion is None and len(self.panels.plan.criteria) > 1:
            listed = ", ".join(self.panels.plan.criteria)
            notes.append(f"verdicts on several criteria are read: {listed}")
        return notes

    def comparisons(self, *, both_bad: bool = False) -> Iterator[Comparison | Rating]:
        """The pairs with a winner; with `both_bad` also two undesirable responses of each pair
        whose most frequent outcome is that both are bad."""
        for panel, judged in self.panels.read("pair"):
            if both_bad and panel.most_frequent() == "both_bad":
                self.used += len(panel.votes)
                yield from _undesirable(panel, judged)
            elif (pair := self._comparison(panel, judged)) is not None:
                yield pair

    def rankings(self, *, ties: bool = False) -> Iterator[Ranking]:
        """The rankings, a row for each panel; votes by which all responses tie only with `ties`."""
        for panel, judged in self.panels.read("ranking", ties=ties):
            ranking = _ranking(panel, judged)
            if self.filter.labels in CERTAIN:
                ranking = replace(ranking, votes=())
                if len(set(ranking.ranks)) == 1 and not ties:
                    self.panels.drop(panel, panel.votes, SPLIT)
                    continue
            self.used += len(panel.votes)
            self.ranked += len(panel.votes) > 1
            yield ranking

    def ratings(self) -> Iterator[Rating]:
        """The ratings, a row for each vote."""
        for panel, judged in self.panels.read("rating"):
            response, (vote,) = judged.responses[panel.responses[0]], panel.votes
            self.used += 1
            source = Source(judged.path, vote.id)
            yield _rating(panel, judged, response, vote.score or 0.0, source)

    def best_of_rankings(self) -> Iterator[Demonstration]:
        """The best response of each ranking."""
        for ranking in self.rankings(ties=True):
            self._has_best = True
            yield _best_response(ranking)

    def converted(self, target: type[Record]) -> Iterator[Record]:
        """The pairs as records of another type."""
        note, convert = FROM_COMPARISON[target]
        for pair in self.comparisons():
            if isinstance(pair, Comparison):
                self._conversion = note
                yield from convert(pair)

    def ratings_or_comparisons(self) -> Iterator[Record]:
        """The ratings; without any, two of each pair."""
        rating = None
        for rating in self.ratings():
            yield rating
        if rating is None:
            yield from self.converted(Rating)

    def _comparison(self, panel: VotePanel, judged: Judged) -> Comparison | None:
        """The pair that the panel prefers, or None where it prefers neither."""
        most_frequent = panel.most_frequent()
        share = panel.win_share(probabilities=self.filter.labels == "probability")
        lead = abs(2 * share - 1)
        if self.filter.labels in CERTAIN:
            share = {"a": 1.0, "b": 0.0}.get(most_frequent or "", 0.5)
        if share == 0.5:
            self.panels.drop(panel, panel.votes, NO_WINNER.get(most_frequent or "", SPLIT))
            return None
        ids = panel.responses if share > 0.5 else panel.responses[::-1]
        chosen, rejected = (judged.responses[id_] for id_ in ids)
        if chosen.text == rejected.text:
            self.panels.drop(panel, panel.votes, "chosen and rejected are equal")
            return None
        probability = max(share, 1 - share)
        margin = panel.mean_strength() if self.filter.margins else None
        if self.filter.labels == "margin":
            margin = lead
        self.used += len(panel.votes)
        self.soft += probability < 1
        self.voted += len(panel.votes) > 1
        self.margins += margin is not None
        return Comparison(
            prompt=judged.prompts[panel.prompt_id],
            chosen=chosen.text,
            rejected=rejected.text,
            margin=margin,
            source=Source(judged.path, panel.id),
            chosen_finished=chosen.finished,
            rejected_finished=rejected.finished,
            probability=probability if probability < 1 else None,
        )


def _undesirable(panel: VotePanel, judged: Judged) -> list[Rating]:
    source = Source(judged.path, panel.id)
    responses = [judged.responses[id_] for id_ in panel.responses]
    return [_rating(panel, judged, response, UNDESIRABLE, source) for response in responses]


def _rating(
    panel: VotePanel, judged: Judged, response: JudgedResponse, score: float, source: Source
) -> Rating:
    prompt = judged.prompts[panel.prompt_id]
    return Rating(prompt, response.text, score, source, response.finished)


def _ranking(panel: VotePanel, judged: Judged) -> Ranking:
    """The ranking of several votes, or the one that they all give."""
    given = [tuple(rank or 0 for rank in vote.ranks) for vote in panel.votes]
    differ = len(set(given)) > 1
    responses = [judged.responses[id_] for id_ in panel.responses]
    finished = tuple(response.finished for response in responses)
    return Ranking(
        prompt=judged.prompts[panel.prompt_id],
        responses=tuple(response.text for response in responses),
        ranks=borda_ranks(given) if differ else given[0],
        source=Source(judged.path, panel.id),
        finished=None if all(finished) else finished,
        votes=tuple(given) if differ else (),
    )


def _best_response(ranking: Ranking) -> Demonstration:
    """The response with the best rank, the first of them where several tie, as in best-of-N."""
    best = ranking.ranks.index(min(ranking.ranks))
    finished = ranking.finished is None or ranking.finished[best]
    fields = ranking.fields[best] if ranking.fields else ""
    return Demonstration(ranking.prompt, ranking.responses[best], ranking.source, finished, fields)


def _in_order(*parts: Iterable[Record]) -> Iterator[Record]:
    """The records in the order in which their verdicts were added, as they are in each part."""
    return heapq.merge(*parts, key=lambda record: record.source.line or 0)


READERS: dict[Kind, tuple[VerdictKind, ...]] = {
    "comparisons": ("pair",),
    "rankings": ("ranking",),
    "preferences": ("pair", "ranking"),
    "ratings": ("rating", "pair"),
    "demonstrations": ("pair", "ranking"),
    "sft": ("pair", "ranking"),
    "kto": ("pair", "ranking", "rating"),
    "prompts": (),
}
"""The kinds of verdicts that each kind of records is read from."""

CONVERSIONS: dict[Kind, Callable[[RecordReader], Iterator[Record]]] = {
    "comparisons": lambda r: r.comparisons(),
    "rankings": lambda r: r.rankings(),
    "preferences": lambda r: _in_order(r.comparisons(), r.rankings()),
    "ratings": lambda r: r.ratings_or_comparisons(),
    "demonstrations": lambda r: _in_order(r.best_of_rankings(), r.converted(Demonstration)),
    "sft": lambda r: _in_order(r.best_of_rankings(), r.converted(Demonstration)),
    "kto": lambda r: _in_order(r.comparisons(both_bad=True), r.rankings(), r.ratings()),
}
