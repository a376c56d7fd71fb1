"""The panels of a preference store in the order of their verdicts, some in memory at a time."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import replace

from accord.compare.panels import PanelVote, VotePanel, make_panels
from accord.compare.store.convert import Judged
from accord.compare.store.items import item_name
from accord.compare.store.rows import Selection, StoredVerdict, VerdictKind
from accord.compare.store.store import PreferenceStore
from accord.compare.verdict_filter import ReadPlan
from accord.data.report import Dropped
from accord.records import Source
from accord.settings.verdicts import VerdictFilter

NO_PREFERENCE = {
    "undecided": "undecided: the judge's two orders disagree",
    "skip": "skipped",
    "flag": "flagged",
}
UNCHECKED = "by a judge that has not passed `accord judge check`"


class PanelReader:
    """Reads the panels that a filter chooses, and counts the verdicts that are dropped."""

    def __init__(
        self, store: PreferenceStore, verdict_filter: VerdictFilter, plan: ReadPlan
    ) -> None:
        self.store, self.filter, self.plan = store, verdict_filter, plan
        self._dropped: dict[tuple[VerdictKind, str], Dropped] = {}

    @property
    def dropped(self) -> Dropped:
        """The verdicts dropped by reason: of each kind the single ones, then those in panels."""
        joined: Dropped = {}
        for part in self._dropped.values():
            for reason, rows in part.items():
                joined.setdefault(reason, []).extend(rows)
        return joined

    def drop(self, panel: VotePanel, votes: Sequence[PanelVote], reason: str) -> None:
        """Count votes of a panel as dropped."""
        for vote in votes:
            self._drop_id((panel.kind, "panel"), vote.id, reason)

    def read(self, kind: VerdictKind, *, ties: bool = True) -> Iterator[tuple[VotePanel, Judged]]:
        """The panels with enough votes that agree enough, or their votes one by one where each is a
        row; each with its prompt and responses, in the order of their first votes. Votes by which
        all responses of a ranking tie are read only with `ties`."""
        for part in ("verdict", "panel"):
            self._dropped[kind, part] = {}
        by_vote = kind == "rating" or self.filter.labels == "separate"
        needs_panels = not by_vote or self.filter.min_votes > 1 or self.filter.agreement > 0
        selection = replace(self.plan.selection, kind=kind)
        for chunk, judged in self.store.judged_chunks(selection):
            votes = list(self._preferences(chunk))
            ids = range(chunk[0].id, chunk[-1].id + 1)
            if needs_panels:
                votes += self._elsewhere(votes, ids, selection)
                votes.sort(key=lambda verdict: verdict.id)
            panels = [
                part
                for panel in make_panels(votes, separate=not needs_panels)
                for part in self._parts(panel, by_vote=by_vote, ties=ties)
            ]
            # A panel is read where its first vote is; the chunks of the others pass it by.
            here = [(panel, reason) for panel, reason in panels if panel.id in ids]
            for panel, reason in sorted(here, key=lambda part: part[0].id):
                if reason is None:
                    yield panel, judged
                else:
                    self.drop(panel, panel.votes, reason)

    def _parts(
        self, panel: VotePanel, *, by_vote: bool, ties: bool
    ) -> Iterator[tuple[VotePanel, str | None]]:
        """The votes of a panel that become rows of their own, and those that are dropped, with the
        reason."""
        reason = self._reason(panel)
        if reason is not None:
            yield panel, reason
            return
        tied = [] if ties else [vote for vote in panel.votes if len(set(vote.ranks)) == 1]
        if tied:
            yield replace(panel, votes=tied), "all responses of the ranking tie"
        votes = [vote for vote in panel.votes if vote not in tied]
        for part in [[vote] for vote in votes] if by_vote else [votes]:
            if part:
                yield replace(panel, votes=part), None

    def _reason(self, panel: VotePanel) -> str | None:
        """Why a panel can't be used."""
        if len(panel.votes) < self.filter.min_votes:
            return f"fewer than {self.filter.min_votes} votes"
        if panel.agreement() < self.filter.agreement - 1e-9:
            return f"agreement below {self.filter.agreement:g}"
        return None

    def _preferences(self, verdicts: Iterable[StoredVerdict]) -> Iterator[StoredVerdict]:
        """The verdicts with a preference, of people and of judges that may train."""
        for verdict in verdicts:
            reason = self._no_vote(verdict)
            if reason is None:
                yield verdict
            else:
                self._drop_id((verdict.kind, "verdict"), verdict.id, reason)

    def _elsewhere(
        self, votes: Iterable[StoredVerdict], ids: Container[int], selection: Selection
    ) -> list[StoredVerdict]:
        """The other votes on the same responses as some, whose ids are not among `ids`."""
        items = {item_name(item.response_id for item in vote.items) for vote in votes}
        if not items:
            return []
        on_them = replace(selection, items=tuple(sorted(items)))
        return [
            verdict
            for verdict in self.store.iterate_verdicts(on_them)
            if verdict.id not in ids and self._no_vote(verdict) is None
        ]

    def _no_vote(self, verdict: StoredVerdict) -> str | None:
        """Why a verdict is no vote."""
        if (verdict.judge, verdict.criterion) in self.plan.unchecked:
            return UNCHECKED
        return NO_PREFERENCE.get(verdict.outcome or "")

    def _drop_id(self, part: tuple[VerdictKind, str], id_: int, reason: str) -> None:
        rows = self._dropped[part].setdefault(reason, [])
        rows.append((Source(self.store.path, id_), ""))
