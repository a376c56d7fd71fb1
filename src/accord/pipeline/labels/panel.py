"""The judges that label: each asked every criterion, and known by its fingerprint for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from accord.compare.judges.build import build_ai_judge, judge_name
from accord.compare.judges.endpoint import ChatRequest, Usage
from accord.compare.judges.identity import judge_fingerprint
from accord.compare.judges.judge import AiJudge
from accord.compare.judges.questions import NoVerdict
from accord.compare.judges.references import find_reference
from accord.compare.store.pairs import StoredVote
from accord.compare.store.verdicts import PairVerdict
from accord.pipeline.labels.pairs import StoredPair
from accord.pipeline.stages.judges import NamedJudge
from accord.pipeline.stages.verdicts import verdict_of_orders
from accord.settings.endpoint import TokenPrices
from accord.settings.judge import JudgeSettings
from accord.settings.label import LabelSettings

Votes = Mapping[tuple[str, str | None, str], StoredVote]
"""Verdicts by pair, criterion and annotator."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A judge with one criterion to go by: None is its own, of the whole."""

    ai: AiJudge
    named: NamedJudge
    criterion: str | None

    @property
    def digest(self) -> str:
        assert self.named.fingerprint is not None
        return self.named.fingerprint.digest

    def has_judged(self, pair: StoredPair, votes: Votes) -> bool:
        """Whether the latest verdict of this annotator is this judge's: with another fingerprint
        it is another judge's, which this one's replaces."""
        vote = votes.get((pair.item, self.criterion, self.named.name))
        return vote is not None and vote.judge == self.digest

    def applies(self, pair: StoredPair) -> bool:
        """Whether it can be asked about a pair: with references, where the prompt has one."""
        references = self.ai.references
        return references is None or (
            find_reference(references, pair.candidates.prompt) is not None
        )

    def requests(self, pair: StoredPair) -> list[ChatRequest]:
        return self.ai.pair_requests(pair.candidates)

    def ask(
        self, pairs: Sequence[StoredPair], round: int
    ) -> tuple[list[PairVerdict], list[NoVerdict]]:
        """The verdicts on pairs, and why others have none. Raises as `AiJudge.both_orders`."""
        verdicts, missing = [], []
        for pair, both in zip(
            pairs, self.ai.both_orders([pair.candidates for pair in pairs]), strict=True
        ):
            if both.missing is not None:
                missing.append(both.missing)
            else:
                verdicts.append(
                    verdict_of_orders(pair.ids, both, self.named, round, self.criterion)
                )
        return verdicts, missing


@dataclass
class Member:
    """A judge of the panel; `outcomes` counts its verdicts that are in the store, `missing` the
    questions without one."""

    name: str
    settings: JudgeSettings
    asked: tuple[Asked, ...]
    outcomes: Counter[str] = field(default_factory=Counter)
    missing: int = 0

    @property
    def usage(self) -> Usage:
        """What its calls took, on all criteria together."""
        return self.asked[0].ai.endpoint.usage

    @property
    def prices(self) -> TokenPrices | None:
        return self.settings.price_per_million


def build_panel(settings: LabelSettings, criteria: Mapping[str | None, str | None]) -> list[Member]:
    """The judges, each with every criterion: a name, and the question, None for the judge's own.

    Raises SettingsError, DataError and ModelError as `build_ai_judge`.
    """
    return [_build_member(judge, criteria) for judge in settings.judges]


def _build_member(settings: JudgeSettings, criteria: Mapping[str | None, str | None]) -> Member:
    base, name = build_ai_judge(settings), judge_name(settings)
    asked = []
    for criterion, question in criteria.items():
        ai = base if question is None else base.for_criterion(question)
        named = NamedJudge(
            name,
            ai.ranks,
            ai.usage,
            shown_first=None,
            both_orders=ai.both_orders,
            fingerprint=judge_fingerprint(ai),
        )
        asked.append(Asked(ai, named, criterion))
    return Member(name, settings, tuple(asked))


def votes_by_question(votes: Iterable[StoredVote]) -> Votes:
    """Verdicts by what was judged and who judged."""
    return {(vote.item, vote.criterion, vote.annotator): vote for vote in votes}
