"""The verdicts of a preference store as records to learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from accord.compare.panels import PanelVote, VotePanel, make_panels
from accord.compare.store.convert import Judged
from accord.compare.store.rows import JudgedResponse, StoredVerdict, VerdictKind
from accord.compare.store.store import PreferenceStore
from accord.compare.verdict_filter import EVERYTHING, ReadPlan, plan_read
from accord.data.kinds import Kind
from accord.data.read import FROM_COMPARISON
from accord.data.report import Dropped
from accord.records import (
    Comparison,
    Demonstration,
    PromptOnly,
    Ranking,
    Rating,
    Record,
    Source,
    borda_ranks,
)
from accord.settings.verdicts import VerdictFilter

NO_PREFERENCE = {
    "undecided": "undecided: the judge's two orders disagree",
    "skip": "skipped",
    "flag": "flagged",
}
NO_WINNER = {"tie": "tie", "both_bad": "tie of two bad responses"}
SPLIT = "the votes are split evenly"
UNCHECKED = "by a judge that has not passed `accord judge check`"
CERTAIN = ("majority", "margin")
UNDESIRABLE = -math.inf  # a score below any `desirable_from`


@dataclass(slots=True)
class StoreRead:
    """Records of a store, the verdicts dropped by reason, and notes. `used` verdicts became the
    records; `plan` says what the filter left out."""

    records: Sequence[Record]
    plan: ReadPlan | None = None
    used: int = 0
    dropped: Dropped = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_store(
    store: PreferenceStore, kind: Kind, verdict_filter: VerdictFilter | None
) -> StoreRead:
    """The store's records of `kind`, one of READERS, as the filter reads them."""
    if kind == "prompts":
        prompts = [PromptOnly(p.prompt, Source(store.path, p.id), p.meta) for p in store.prompts()]
        return StoreRead(prompts, used=len(prompts))
    reader = _Reader(store, verdict_filter or EVERYTHING, READERS[kind])
    read = StoreRead(CONVERSIONS[kind](reader), reader.plan, reader.used, reader.dropped)
    read.notes = [*reader.plan.note(), *reader.notes()]
    return read


class _Reader:
    """Reads panels of a store as records, and counts what becomes of their votes."""

    def __init__(
        self, store: PreferenceStore, verdict_filter: VerdictFilter, kinds: Sequence[VerdictKind]
    ) -> None:
        self.store = store
        self.filter = verdict_filter
        self.plan = plan_read(store, verdict_filter, kinds)
        self.dropped: Dropped = {}
        self.used = self.soft = self.voted = self.ranked = self.margins = 0
        self.conversions: list[str] = []

    def notes(self) -> list[str]:
        """What the records of several votes, strengths and criteria were read as."""
        notes = list(self.conversions)
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
        if self.filter.criterion is None and len(self.plan.criteria) > 1:
            listed = ", ".join(self.plan.criteria)
            notes.append(f"verdicts on several criteria are read: {listed}")
        return notes

    def comparisons(self, *, both_bad: bool = False) -> list[Comparison | Rating]:
        """The pairs with a winner; with `both_bad` also two undesirable responses of each pair
        whose most frequent outcome is that both are bad."""
        judged = self.store.judged("pair")
        records: list[Comparison | Rating] = []
        for panel in self._panels("pair"):
            if both_bad and panel.most_frequent() == "both_bad":
                records += _undesirable(panel, judged)
                self.used += len(panel.votes)
            elif (pair := self._comparison(panel, judged)) is not None:
                records.append(pair)
        return records

    def rankings(self, *, ties: bool = False) -> list[Ranking]:
        """The rankings, a row for each panel; votes by which all responses tie only with `ties`."""
        judged = self.store.judged("ranking")
        rankings = []
        for panel in self._panels("ranking"):
            tied = [] if ties else [vote for vote in panel.votes if len(set(vote.ranks)) == 1]
            self._drop(tied, "all responses of the ranking tie")
            votes = [vote for vote in panel.votes if vote not in tied]
            if not votes:
                continue
            ranking = _ranking(panel, votes, judged)
            if self.filter.labels in CERTAIN:
                ranking = replace(ranking, votes=())
                if len(set(ranking.ranks)) == 1 and not ties:
                    self._drop(votes, SPLIT)
                    continue
            rankings.append(ranking)
            self.used += len(votes)
            self.ranked += len(votes) > 1
        return rankings

    def ratings(self) -> list[Rating]:
        """The ratings, a row for each vote."""
        judged = self.store.judged("rating")
        ratings = []
        for panel in self._panels("rating"):
            response = judged.responses[panel.responses[0]]
            for vote in panel.votes:
                source = Source(judged.path, vote.id)
                ratings.append(_rating(panel, judged, response, vote.score or 0.0, source))
                self.used += 1
        return ratings

    def demonstrations(self) -> list[Record]:
        """The chosen response of each pair, and the best of each ranking."""
        best = [_best_response(ranking) for ranking in self.rankings(ties=True)]
        pairs = self.converted(Demonstration)
        if best:
            if not pairs:
                self.conversions.clear()
            self.conversions.append("the best of each ranking is read as a demonstration")
        return [*pairs, *best]

    def converted(self, target: type[Record]) -> list[Record]:
        """The pairs as records of another type."""
        note, convert = FROM_COMPARISON[target]
        self.conversions.append(note)
        pairs = [pair for pair in self.comparisons() if isinstance(pair, Comparison)]
        return [record for pair in pairs for record in convert(pair)]

    def ratings_or_comparisons(self) -> list[Record]:
        """The ratings; without any, two of each pair."""
        ratings: list[Record] = [*self.ratings()]
        return ratings or self.converted(Rating)

    def _panels(self, kind: VerdictKind) -> Iterator[VotePanel]:
        """The panels with enough votes that agree enough."""
        separate = self.filter.labels == "separate"
        selection = replace(self.plan.selection, kind=kind)
        verdicts = self._preferences(self.store.iterate_verdicts(selection))
        if separate and self.filter.min_votes == 1 and not self.filter.agreement:
            yield from make_panels(verdicts, separate=True)
            return
        for panel in make_panels(verdicts, separate=False):
            if len(panel.votes) < self.filter.min_votes:
                self._drop(panel.votes, f"fewer than {self.filter.min_votes} votes")
            elif panel.agreement() < self.filter.agreement - 1e-9:
                self._drop(panel.votes, f"agreement below {self.filter.agreement:g}")
            elif separate:
                yield from (replace(panel, votes=[vote]) for vote in panel.votes)
            else:
                yield panel

    def _preferences(self, verdicts: Iterator[StoredVerdict]) -> Iterator[StoredVerdict]:
        """The verdicts with a preference, of people and of judges that may train."""
        for verdict in verdicts:
            reason = NO_PREFERENCE.get(verdict.outcome or "")
            if (verdict.judge, verdict.criterion) in self.plan.unchecked:
                reason = UNCHECKED
            if reason is None:
                yield verdict
            else:
                self._drop_id(verdict.id, reason)

    def _comparison(self, panel: VotePanel, judged: Judged) -> Comparison | None:
        """The pair that the panel prefers, or None where it prefers neither."""
        most_frequent = panel.most_frequent()
        share = panel.win_share(probabilities=self.filter.labels == "probability")
        lead = abs(2 * share - 1)
        if self.filter.labels in CERTAIN:
            share = {"a": 1.0, "b": 0.0}.get(most_frequent or "", 0.5)
        if share == 0.5:
            self._drop(panel.votes, NO_WINNER.get(most_frequent or "", SPLIT))
            return None
        ids = panel.responses if share > 0.5 else panel.responses[::-1]
        chosen, rejected = (judged.responses[id_] for id_ in ids)
        if chosen.text == rejected.text:
            self._drop(panel.votes, "chosen and rejected are equal")
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

    def _drop(self, votes: Sequence[PanelVote], reason: str) -> None:
        for vote in votes:
            self._drop_id(vote.id, reason)

    def _drop_id(self, id_: int, reason: str) -> None:
        self.dropped.setdefault(reason, []).append((Source(self.store.path, id_), ""))


def _undesirable(panel: VotePanel, judged: Judged) -> list[Rating]:
    source = Source(judged.path, panel.id)
    responses = [judged.responses[id_] for id_ in panel.responses]
    return [_rating(panel, judged, response, UNDESIRABLE, source) for response in responses]


def _rating(
    panel: VotePanel, judged: Judged, response: JudgedResponse, score: float, source: Source
) -> Rating:
    prompt = judged.prompts[panel.prompt_id]
    return Rating(prompt, response.text, score, source, response.finished)


def _ranking(panel: VotePanel, votes: Sequence[PanelVote], judged: Judged) -> Ranking:
    """The ranking of several votes, or the one that they all give."""
    given = [tuple(rank or 0 for rank in vote.ranks) for vote in votes]
    differ = len(set(given)) > 1
    responses = [judged.responses[id_] for id_ in panel.responses]
    finished = tuple(response.finished for response in responses)
    return Ranking(
        prompt=judged.prompts[panel.prompt_id],
        responses=tuple(response.text for response in responses),
        ranks=borda_ranks(given) if differ else given[0],
        source=Source(judged.path, votes[0].id),
        finished=None if all(finished) else finished,
        votes=tuple(given) if differ else (),
    )


def _best_response(ranking: Ranking) -> Demonstration:
    """The response with the best rank, the first of them where several tie, as in best-of-N."""
    best = ranking.ranks.index(min(ranking.ranks))
    finished = ranking.finished is None or ranking.finished[best]
    fields = ranking.fields[best] if ranking.fields else ""
    return Demonstration(ranking.prompt, ranking.responses[best], ranking.source, finished, fields)


def _in_order(*parts: Sequence[Record]) -> list[Record]:
    """The records in the order in which their verdicts were added."""
    records = [record for part in parts for record in part]
    return sorted(records, key=lambda record: record.source.line or 0)


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

CONVERSIONS: dict[Kind, Callable[[_Reader], Sequence[Record]]] = {
    "comparisons": lambda r: r.comparisons(),
    "rankings": lambda r: r.rankings(),
    "preferences": lambda r: _in_order(r.comparisons(), r.rankings()),
    "ratings": lambda r: _in_order(r.ratings_or_comparisons()),
    "demonstrations": lambda r: _in_order(r.demonstrations()),
    "sft": lambda r: _in_order(r.demonstrations()),
    "kto": lambda r: _in_order(r.comparisons(both_bad=True), r.rankings(), r.ratings()),
}
